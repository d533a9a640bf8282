"""Everything that evolves during training, as one tree of tensors.

May import the ground and the parts.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fgan.ema import Weights
from fgan.types import Buffers, Key, OptState, Params


class PlayerState(NamedTuple):
    """One player: its network's values and its optimizer's."""

    params: Params
    buffers: Buffers
    opt_state: OptState


class TrainState(NamedTuple):
    """The state of a game.

    Attributes:
        gen, disc: the players.
        ema: moving average of the generator; ``()`` when off.
        key: int64 [2], constant for a whole run; the randomness of a step is made of the
            key and the number of the step.
        step: int64 [], generator updates done.
    """

    gen: PlayerState
    disc: PlayerState
    ema: Weights | tuple[()]
    key: Key
    step: Tensor

    @property
    def sampler(self) -> Weights:
        """The generator to sample from: the average where there is one."""
        if isinstance(self.ema, Weights):
            return self.ema
        return Weights(self.gen.params, self.gen.buffers)
