"""The Fréchet inception distance, by the network and the preprocessing of its authors.

The network is Inception-2015 with the weights of the authors' TensorFlow graph, as torch-fidelity
has converted them, which resizes to 299 by 299 as that graph does. Only a Fréchet distance of these
features is called FID, and only those of the same number of samples compare: 50 000 in the paper.

References:
    Heusel et al. 2017, arXiv:1706.08500; Obukhov et al. 2020, torch-fidelity,
    doi:10.5281/zenodo.4957738.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgan.disk.machine import need
from fgan.errors import ConfigError
from fgan.metrics.common import as_rows
from fgan.metrics.moments import FrechetDistance, frechet_distance

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
"""The file of torch-fidelity's weights; the digits at its end begin its SHA-256."""
_PLACE = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
_BLOCK = 50  # images at a time: 299 by 299 in float32, and what the network makes of them


def fid(samples: Tensor, many_examples: Tensor, inception: Path) -> FrechetDistance:
    """The Fréchet inception distance.

    Args:
        samples: uint8 [M, 1 or 3, H, W], 50 000 in the paper; many_examples: the training set,
            uint8 [N, 1 or 3, H, W].
        inception: the file of the weights.
    Raises:
        ValueError: for what are no images of bytes, and as `fgan.metrics.frechet_distance`.
        DeviceError: without torch-fidelity.
        ConfigError: for a file that is missing or holds other weights.
    """
    pair = (inception_features(images, inception) for images in (samples, many_examples))
    return frechet_distance(*pair)


def inception_features(images: Tensor, inception: Path) -> Tensor:
    """The 2 048 features of images: float32 [N, 2048]; arguments and errors are `fid`'s."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
        raise ValueError(f"uint8 images [N, 1 or 3, H, W] are seen, not {list(images.shape)}")
    as_rows(images, "the images")
    network = _network(inception, images.device)
    found = []
    with torch.no_grad():
        for block in torch.split(images, _BLOCK):
            (features,) = network(block.expand(-1, 3, -1, -1).contiguous())
            found.append(features)
    return torch.cat(found)


@functools.lru_cache(maxsize=1)
def _network(weights: Path, device: torch.device) -> Any:
    need("--metrics fid", "metrics", "torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    if not weights.is_file():
        raise ConfigError(
            f"--metrics fid: there is no file {weights} with the weights of Inception-2015.",
            f"Download {_PLACE} and name it in the variable FGAN_INCEPTION.",
        )
    digits = hashlib.sha256(weights.read_bytes()).hexdigest()
    if not digits.startswith(WEIGHTS[-12:-4]):
        raise ConfigError(
            f"--metrics fid: {weights} does not hold the weights of {WEIGHTS}.",
            f"Only those make an FID; download {_PLACE} again.",
        )
    # torch-fidelity loads with the unrestricted unpickler. What the restricted one accepts calls
    # nothing but what makes tensors, in either.
    torch.load(weights, map_location="meta", weights_only=True)  # noqa: TID251
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
    )
    return network.to(device)
