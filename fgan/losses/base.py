"""The type of a loss, the value function of the original game, and factors for both players."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.functional import softplus

from fgan import scalars
from fgan.scalars import Scalar


class GanLoss(NamedTuple):
    """A pair of losses for the two players.

    Attributes:
        disc: (*, real_logits [B], fake_logits [B]) -> [B], minimised by the discriminator.
        gen: (*, real_logits [B], fake_logits [B]) -> [B], minimised by the generator.
        gen_uses_real: whether ``gen`` looks at ``real_logits``; if it does not, the step
            passes `UNSEEN` and saves the discriminator's pass over the reals.
        whole_batch: whether the loss of one example depends on other pairs of the batch, so that
            the loss is another one on parts of the batch.

    The step takes the means, and refuses losses of any other shape.
    """

    disc: Callable[..., Tensor]
    gen: Callable[..., Tensor]
    gen_uses_real: bool = False
    whole_batch: bool = False


class _Unseen:
    """A placeholder for logits that were not computed; computing with it raises a TypeError."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copying and printing look these up, losses do not
            raise AttributeError(name)
        return self._refuse()

    @staticmethod
    def _refuse(*args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "the generator's loss looks at real_logits, which were not computed: say so with "
            "GanLoss(disc, gen, gen_uses_real=True)"
        )

    __getitem__ = __len__ = __iter__ = __float__ = __neg__ = __abs__ = _refuse
    __lt__ = __gt__ = __le__ = __ge__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __pow__ = __rpow__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __mod__ = __matmul__ = __rmatmul__ = _refuse
    __torch_function__ = _refuse  # torch's own functions


UNSEEN: Any = _Unseen()
"""The placeholder for the reals' logits, for a generator's loss that does not look at them."""


def value(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The value function, per pair: log D(x) + log(1 - D(G(z))), in nats.

    Args:
        real_logits, fake_logits: tensors of one shape.
    Returns:
        A tensor of the same shape with values of at most 0; its mean estimates V(D, G).

    References:
        Goodfellow et al. 2014, equation 1.

    >>> import torch
    >>> value(real_logits=torch.zeros(1), fake_logits=torch.zeros(1))  # -log 4
    tensor([-1.3863])
    """
    return -softplus(-real_logits) - softplus(fake_logits)


def scaled(loss: GanLoss, *, disc: Scalar = 1.0, gen: Scalar = 1.0) -> GanLoss:
    """The loss with each player's form multiplied by a number or a 0-d tensor.

    With ``scaled(non_saturating, disc=0.5)`` the discriminator minimises the mean, rather than
    the sum, of its losses on reals and on fakes.
    """
    scalars.check("disc", disc)
    scalars.check("gen", gen)
    return loss._replace(
        disc=lambda **logits: disc * loss.disc(**logits),
        gen=lambda **logits: gen * loss.gen(**logits),
    )
