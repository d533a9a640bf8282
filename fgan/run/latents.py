"""Latents of samples: those of seeds, truncated ones, and those between two.

The latents of a game are standard normal numbers (`fgan.game.draws`), and the functions here keep
to what that means. Of the last ``choice`` of them a generator with ``--z-choice`` sees which one is
the greatest, and no more (`fgan.nets.Choice`): these are the scores of a choice, and are kept
or taken as a whole.

References:
    White 2016, arXiv:1609.04468, section 2.1 (the arc between two latents); Brock et al. 2019,
    arXiv:1809.11096, section 3.1 (truncation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fgan import rng
from fgan.errors import ConfigError
from fgan.game import conditions
from fgan.types import Key

WHOLE = math.inf
"""The truncation that leaves latents as they are."""


def of_seeds(
    seeds: Sequence[int], sizes: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The latent of each seed, [N, *sizes]: the first that `fgan sample --seed` draws from it.

    A row depends on its seed alone, bit for bit.
    """
    keys = _keys(seeds, rng.SampleStream.LATENTS, device)
    return rng.normal(keys, sizes, dtype)


def labels_of_seeds(seeds: Sequence[int], counts: Sequence[int], device: torch.device) -> Tensor:
    """The label of each seed, int64 [N], drawn as often as the data have it.

    Args:
        counts: the number of examples of each class.
    """
    keys = _keys(seeds, rng.SampleStream.LABELS, device)
    drawn: Tensor = conditions.categorical(counts).draw(keys, (1,))  # [N, 1]
    return drawn[:, 0]


def _keys(seeds: Sequence[int], stream: int, device: torch.device) -> Key:
    keys = torch.stack([rng.key(seed) for seed in seeds]).to(device)
    return rng.fold_in(rng.fold_in(keys, 0, rng.Stream.SAMPLES), 0, stream)


def choices(z: Tensor, choice: int) -> Tensor:
    """The choice of each latent, int64 [N], from 0.

    Args:
        z: [N, D].
        choice: the number of scores, at least 2.
    """
    return z[:, -choice:].argmax(1)


def spread(z: Tensor, choice: int) -> Tensor:
    """Latents whose choices follow upon each other: latent i has that of the first plus i, mod K.

    The scores of each are turned round until the greatest has its place, and so stay those of a
    draw.

    Args:
        z: [N, D].
        choice: K, the number of scores; 0 for latents without, which stay as they are.

    >>> z = torch.tensor([[0.5, 0.0, 2.0, 1.0], [0.3, 4.0, 0.0, 3.0]])
    >>> spread(z, 3)
    tensor([[0.5000, 0.0000, 2.0000, 1.0000],
            [0.3000, 0.0000, 3.0000, 4.0000]])
    """
    if not choice:
        return z
    own = choices(z, choice)
    places = torch.arange(choice, device=z.device)
    shift = own[0] + torch.arange(len(z), device=z.device) - own
    scores = z[:, -choice:].gather(1, (places - shift[:, None]) % choice)
    return torch.cat([z[:, :-choice], scores], 1)


def truncated(z: Tensor, psi: float, choice: int = 0) -> Tensor:
    """Normal numbers as those of the normal distribution cut off at ± psi.

        z -> sqrt(2) erfinv(erf(psi / sqrt(2)) erf(z / sqrt(2)))

    This maps quantiles to quantiles, so that each number stays on its side and in its order: one
    seed's sample moves towards the mean, and is not replaced by another, as psi becomes smaller.
    Brock et al. draw numbers beyond psi again, which gives the same distribution.

    Args:
        z: standard normal numbers.
        psi: above 0; `WHOLE` returns z itself.
        choice: the number of scores at the end of each row, which stay as they are.

    >>> truncated(torch.tensor([-3.0, 0.0, 0.5]), 0.5)
    tensor([-0.4985,  0.0000,  0.1848])
    """
    if psi == WHOLE:
        return z
    if choice:
        return torch.cat([truncated(z[:, :-choice], psi), z[:, -choice:]], 1)
    share = math.erf(psi / math.sqrt(2))
    cut = math.sqrt(2) * torch.erfinv(share * torch.erf(z.double() / math.sqrt(2)))
    return cut.to(z.dtype)


def check_truncation(psi: float) -> None:
    """Refuse a number that no normal distribution is cut off at, with a ConfigError."""
    if not psi > 0:
        raise ConfigError(
            f"--truncation must be above 0, not {psi:g}.",
            "Use one such as 1; numbers above 3 change little.",
        )


def check_arcs(sizes: Sequence[int], choice: int, file: Path) -> None:
    """Refuse latents of one number with a ConfigError: two of opposite signs are 180 degrees apart.

    Args:
        sizes, choice: the shape of a latent, and how many of its last numbers are scores.
        file: the checkpoint that the message names.
    """
    if math.prod(sizes) - choice == 1:
        beside = " beside the choice" if choice else ""
        raise ConfigError(
            f"{file} has latents of one number{beside}, between which there is no arc.",
            "Use a run with a larger --z-dim.",
        )


def slerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Vectors on the arc between two, sin((1 - t) a) / sin(a) start + sin(t a) / sin(a) end.

    Normal vectors of many dimensions keep their length there; on the straight line they would
    become shorter than any that the generator was trained with. The ends are exact.

    Args:
        start, end: [B, D], at the angle a, which is not 180 degrees.
        t: places on the way, [T] in [0, 1].
    Returns:
        [B, T, D].
    """
    lengths = start.norm(dim=-1) * end.norm(dim=-1)
    cosine = ((start * end).sum(-1) / lengths).clamp(-1 + 1e-6, 1 - 1e-6)
    angle = cosine.arccos()[:, None]  # [B, 1]
    weights = torch.stack([((1 - t) * angle).sin(), (t * angle).sin()]) / angle.sin()
    between: Tensor = weights[0, ..., None] * start[:, None] + weights[1, ..., None] * end[:, None]
    return between


def between(z: Tensor, num: int, *, loop: bool = False, choice: int = 0) -> Tensor:
    """Latents on the arcs from each to the next, `slerp`.

    The scores of a choice are those of the nearer end, so that no other choice lies between: an
    arc of theirs passes through choices of neither end.

    Args:
        z: [N, *latent], which `check_arcs` accepts.
        num: T, the latents from one to the next with both.
        loop: whether to go on from the last to the first.
        choice: the number of scores at the end of each row.
    Returns:
        [N - 1, T, *latent], or [N, T, *latent] for a loop.
    """
    start, end = z[:-1], z[1:]
    if loop:
        start, end = z, z.roll(-1, 0)
    t = torch.linspace(0, 1, num, dtype=z.dtype, device=z.device)
    if choice:
        arcs = slerp(start[:, :-choice], end[:, :-choice], t)
        scores = torch.where((t < 0.5)[:, None], start[:, None, -choice:], end[:, None, -choice:])
        return torch.cat([arcs, scores], 2)
    arcs = slerp(start.flatten(1), end.flatten(1), t)
    return arcs.reshape(*arcs.shape[:2], *z.shape[1:])
