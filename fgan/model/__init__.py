"""A player's network as a pair of pure functions.

``init`` makes parameters and buffers from a key; ``apply`` computes the output from
them. Any such pair of functions makes a `Model`; `from_module` makes one of any
``torch.nn.Module``, and `to_module` gives the module back.

The side effects of a module become values here: running statistics are returned
as new buffers, and dropout takes its uniform noise as an argument.
"""

from fgan.model.base import NO_NOISE, Apply, Model, autocast, channels_last, no_module
from fgan.model.dropout import Dropout
from fgan.model.modules import from_module, to_module
from fgan.model.packing import packed
from fgan.model.shapes import Labels, Shape
from fgan.model.spectral import spectral_norm

__all__ = [
    "NO_NOISE", "Apply", "Dropout", "Labels", "Model", "Shape", "autocast", "channels_last",
    "from_module", "no_module", "packed", "spectral_norm", "to_module",
]  # fmt: skip
