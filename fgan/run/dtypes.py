"""What ``--dtype auto`` means on a device."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import torch

from fgan.disk import machine
from fgan.errors import ConfigError
from fgan.run import archs
from fgan.run import config as configs
from fgan.run.assemble import find_device
from fgan.run.config import TrainConfig

_WIDE = 512  # units of a layer whose products in bfloat16 gain more than their casts take


def decide_dtype(config: TrainConfig) -> TrainConfig:
    """The configuration with ``--dtype auto`` replaced by what it means on the run's device.

    It means bfloat16 where the device multiplies it in hardware, products are what a step waits
    for, and the run's other options allow it; else float32.

    Raises:
        DeviceError: for a device that this machine does not have.
    """
    if config.dtype != "auto":
        return config
    device = find_device(config.device)
    if waits_for_products(config, device) and multiplies_bfloat16(device):
        with contextlib.suppress(ConfigError):
            return configs.resolve(base=configs.as_dict(config) | {"dtype": "bfloat16"})
    return replace(config, dtype="float32")


def waits_for_products(config: TrainConfig, device: torch.device) -> bool:
    """Whether a step with faster products is faster, and not only one with more casts.

    A perceptron's step waits for Python where it is not compiled, for launches on a GPU, and for
    memory and other threads where its layers are small.
    """
    if archs.ALL[config.arch].convolves:
        return True
    widest = max((*config.gen_hidden, *config.disc_hidden), default=0)
    return config.compile and device.type == "cpu" and widest >= _WIDE


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware: these processors, and GPUs since Ampere."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and machine.multiplies_bfloat16()
