"""Training data: arrays that live on the training device, and the order they are seen in.

May import the ground. Must not import another service or the configuration.
"""

from fgan.data.mnist import load_mnist
from fgan.data.source import Batches, Source, normalise
from fgan.data.toy import grid_points, ring_points

__all__ = ["Batches", "Source", "grid_points", "load_mnist", "normalise", "ring_points"]
