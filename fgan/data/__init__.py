"""Training data: their sources, their checks, and the order in which steps see them.

`load` returns a source for a name, a folder or a file; `Batches` chooses the examples of each
step; `make_feed` brings them to the device, from memory or from the disk.

Names are imported when first used, so that the processes that decode images need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fgan.data.loading import NAMES, RESIZES, STREAMS, load
    from fgan.data.mnist import load_mnist, load_mnist_labels
    from fgan.data.resize import resize_images, to_channels
    from fgan.data.source import Batches, Source, fingerprint, normalise
    from fgan.data.stacked import stacked_mnist
    from fgan.data.stream import Feed, StreamedSource, make_feed
    from fgan.data.toy import grid_points, ring_points

__all__ = [
    "NAMES", "RESIZES", "STREAMS", "Batches", "Feed", "Source", "StreamedSource", "fingerprint",
    "grid_points", "load", "load_mnist", "load_mnist_labels", "make_feed", "normalise",
    "resize_images", "ring_points", "stacked_mnist", "to_channels",
]  # fmt: skip

_MODULES = ("loading", "mnist", "resize", "source", "stacked", "stream", "toy")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = importlib.import_module(f"fgan.data.{module}")
            if hasattr(found, name):
                return getattr(found, name)
    raise AttributeError(f"module 'fgan.data' has no attribute {name!r}")
