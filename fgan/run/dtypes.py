"""What ``--dtype auto`` means on a device."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import torch

from fgan.disk import machine
from fgan.errors import ConfigError
from fgan.run import config as configs
from fgan.run.assemble import find_device
from fgan.run.config import TrainConfig


def decide_dtype(config: TrainConfig) -> TrainConfig:
    """The configuration with ``--dtype auto`` replaced by what it means on the run's device.

    It means bfloat16 where the device multiplies it in hardware and the run's other options allow
    it, else float32.

    Raises:
        DeviceError: for a device that this machine does not have.
    """
    if config.dtype != "auto":
        return config
    if multiplies_bfloat16(find_device(config.device)):
        with contextlib.suppress(ConfigError):
            return configs.resolve(base=configs.as_dict(config) | {"dtype": "bfloat16"})
    return replace(config, dtype="float32")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware: these processors, and GPUs since Ampere."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and machine.multiplies_bfloat16()
