"""The term of AC-GAN against its definition, for each player."""

from __future__ import annotations

from typing import NamedTuple

import torch
from support import signed
from torch import Tensor

from fgan import terms


class Out(NamedTuple):
    logits: Tensor
    classes: Tensor


def test_the_cross_entropy_of_each_player():
    real, fake = (Out(signed(5, i), signed((5, 3), 10 + i)) for i in (0, 1))
    y, drawn = torch.tensor([0, 2, 1, 1, 0]), torch.tensor([2, 2, 0, 1, 0])
    view = terms.View(
        real=signed((5, 2)), fake=signed((5, 2), 1), real_out=real, fake_out=fake,
        critic=lambda x: x.sum(1), condition=y, fake_condition=drawn,
    )  # fmt: skip

    def missed(out: Out, labels: Tensor) -> Tensor:
        shares = out.classes.exp() / out.classes.exp().sum(1, keepdim=True)
        return -shares[torch.arange(5), labels].log()

    close = {"rtol": 0, "atol": 1e-12}  # float64, numbers of order 1
    torch.testing.assert_close(terms.acgan(view), missed(real, y) + missed(fake, drawn), **close)
    torch.testing.assert_close(
        terms.acgan(view._replace(player="gen")), missed(fake, drawn), **close
    )
    assert terms.make_acgan(weight=2.0).player == "both"
