"""ADA: a pipeline of changes, each made with a probability that follows the discriminator.

Changes that are made with a probability below one do not leak into the fakes. The discriminator is
taken to learn its data by heart when the logits of reals are positive too often: then the
probability rises.

The changes are those of the authors' pipeline of pixel blitting, geometric and colour changes, in
their order, with their distributions and numbers. Three parts of their pipeline are left out, which
they found to help little: the filters of image space (four bands of frequencies), additive noise
and cutout. Geometry is one bilinear look-up at the product of all matrices, beyond the edges in the
mirrored image, where the authors sample twice as densely and low-pass filter. They keep p at least
0; here it is at most 1 as well, where a larger one would change nothing but the way back.

References:
    Karras et al. 2020, arXiv:2006.06676, section 2.2, section 3 and appendix B.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fgan import rng, scalars
from fgan.augment.base import Augment
from fgan.scalars import Scalar
from fgan.schedules import Schedule

Grid = tuple[Tensor, Tensor]
"""Coordinates x and y, [B, H, W] each, in pixels from the centre of the image."""
BLIT, GEOMETRY, COLOUR = "blit", "geometry", "colour"
_NUMBERS = {BLIT: 7, GEOMETRY: 11, COLOUR: 10}  # uniform numbers for one image
ADA_KINDS: dict[str, tuple[str, ...]] = {
    "ada": (BLIT, GEOMETRY, COLOUR),
    "ada_blit": (BLIT,),
    "ada_geom": (GEOMETRY,),
    "ada_color": (COLOUR,),
    "ada_bg": (BLIT, GEOMETRY),
}
"""The kinds of changes by the names of the authors' pipelines; "ada" is their bgc."""


class Adaptive(NamedTuple):
    """The carry of ADA: all are 0-d.

    probability: in [0, 1]; signs: the sum of the mean signs since it was last changed; seen: int64,
    the steps of the discriminator in that sum.
    """

    probability: Tensor
    signs: Tensor
    seen: Tensor


class _Numbers:
    """Hands out the uniform numbers of each image one after the other, [B, 1, 1] each."""

    def __init__(self, uniform: Tensor, probability: Scalar, first: int) -> None:
        self._columns = uniform[:, :, None, None].unbind(1)
        self._probability, self._next = probability, first

    def uniform(self) -> Tensor:
        self._next += 1
        return self._columns[self._next - 1]

    def normal(self) -> Tensor:
        return rng.as_normal(self.uniform())

    def where(self, chosen: Tensor, other: float, *, of_two: bool = False) -> Tensor:
        """``chosen`` with the probability, else ``other``.

        With ``of_two`` the change is made twice, and one or both are made with the probability.
        """
        p: Scalar = self._probability
        if of_two:
            p = 1 - (1 - torch.as_tensor(p, device=chosen.device)).clamp(0, 1).sqrt()
        return torch.where(self.uniform() < p, chosen, other)


def _turned(grid: Grid, angle: Tensor) -> Grid:
    x, y = grid
    cos, sin = angle.cos(), angle.sin()
    return cos * x + sin * y, cos * y - sin * x


def _look_up(images: Tensor, grid: Grid) -> Tensor:
    """Images at coordinates between pixels, bilinearly, mirrored beyond the edges."""
    num_channels, height, width = images.shape[1:]
    flat = images.flatten(2)
    result: Tensor | float = 0.0
    x, y = grid[0] + (width - 1) / 2, grid[1] + (height - 1) / 2
    left, top = x.floor(), y.floor()
    for column, in_x in ((left, 1 - (x - left)), (left + 1, x - left)):
        for row, in_y in ((top, 1 - (y - top)), (top + 1, y - top)):
            place = _mirrored(row, height) * width + _mirrored(column, width)  # [B, H, W]
            found = torch.take_along_dim(flat, place.flatten(1)[:, None], 2)
            result = result + (in_x * in_y).flatten(1)[:, None].to(images.dtype) * found
    assert isinstance(result, Tensor)
    return result.reshape(-1, num_channels, *x.shape[1:])


def _mirrored(place: Tensor, size: int) -> Tensor:
    """Whole places beyond 0 to size - 1 in the image mirrored at its outermost pixels, int64."""
    if size == 1:
        return torch.zeros_like(place).long()
    period = 2 * (size - 1)
    place = torch.remainder(place.long(), period)
    return torch.minimum(place, period - place)


def _blit(draw: _Numbers, height: int, width: int) -> list[Callable[[Grid], Grid]]:
    """Flip, quarter turns and shifts by whole pixels: the way back, in the order of the changes."""
    mirror = 1 - 2 * draw.where((draw.uniform() * 2).floor(), 0)
    quarters = draw.where((draw.uniform() * 4).floor(), 0)
    # The cosines 1, 0, -1, 0 and sines 0, 1, 0, -1 without rounding, which keep pixels on pixels.
    cos, sin = (quarters - 2).abs() - 1, 1 - (quarters - 1).abs()
    shift_x, shift_y = (2 * draw.uniform() - 1, 2 * draw.uniform() - 1)
    shifted = draw.where(torch.ones_like(shift_x), 0)
    shift_x = (shift_x * 0.125 * width).round() * shifted
    shift_y = (shift_y * 0.125 * height).round() * shifted
    return [
        lambda grid: (mirror * grid[0], grid[1]),
        lambda grid: (cos * grid[0] + sin * grid[1], cos * grid[1] - sin * grid[0]),
        lambda grid: (grid[0] - shift_x, grid[1] - shift_y),
    ]


def _geometry(draw: _Numbers, height: int, width: int) -> list[Callable[[Grid], Grid]]:
    """Scale, turn, stretch, turn and shift: the way back, in the order of the changes."""
    scale = draw.where(torch.exp2(draw.normal() * 0.2), 1)
    before = draw.where((2 * draw.uniform() - 1) * math.pi, 0, of_two=True)
    stretch = draw.where(torch.exp2(draw.normal() * 0.2), 1)
    after = draw.where((2 * draw.uniform() - 1) * math.pi, 0, of_two=True)
    shift_x, shift_y = draw.normal() * 0.125 * width, draw.normal() * 0.125 * height
    shifted = draw.where(torch.ones_like(shift_x), 0)
    return [
        lambda grid: (grid[0] / scale, grid[1] / scale),
        lambda grid: _turned(grid, before),
        lambda grid: (grid[0] / stretch, grid[1] * stretch),
        lambda grid: _turned(grid, after),
        lambda grid: (grid[0] - shift_x * shifted, grid[1] - shift_y * shifted),
    ]


def _coloured(images: Tensor, draw: _Numbers) -> Tensor:
    """Brightness, contrast and the luma's sign; of three channels hue and saturation too."""

    def beside(numbers: Tensor) -> Tensor:
        return numbers[:, None].to(images.dtype)  # [B, 1, 1, 1]

    images = images + beside(draw.where(draw.normal() * 0.2, 0))
    images = images * beside(draw.where(torch.exp2(draw.normal() * 0.5), 1))
    flipped = beside(draw.where((draw.uniform() * 2).floor(), 0))
    images = images - 2 * flipped * images.mean(1, keepdim=True)
    if images.shape[1] != 3:
        return images
    hue = beside(draw.where((2 * draw.uniform() - 1) * math.pi, 0))
    grey = images.mean(1, keepdim=True)
    colour = images - grey
    across = (colour.roll(-2, 1) - colour.roll(-1, 1)) / math.sqrt(3)  # (1, 1, 1) / sqrt 3 x colour
    colour = hue.cos() * colour + hue.sin() * across
    return grey + colour * beside(draw.where(torch.exp2(draw.normal()), 1))


def _pipeline(images: Tensor, uniform: Tensor, probability: Scalar, kinds: Sequence[str]) -> Tensor:
    height, width = images.shape[2:]
    back: list[Callable[[Grid], Grid]] = []
    draws, first = {}, 0
    for kind in kinds:
        draws[kind] = _Numbers(uniform, probability, first)
        first += _NUMBERS[kind]
    if BLIT in draws:
        back += _blit(draws[BLIT], height, width)
    if GEOMETRY in draws:
        back += _geometry(draws[GEOMETRY], height, width)
    if back:
        places = [torch.arange(n, device=images.device) - (n - 1) / 2 for n in (width, height)]
        whole = uniform.new_zeros((len(images), height, width))
        grid = whole + places[0], whole + places[1][:, None]
        for change in reversed(back):
            grid = change(grid)
        images = _look_up(images, grid)
    return _coloured(images, draws[COLOUR]) if COLOUR in draws else images


def make_pipeline(
    probability: Scalar | Schedule, *, kinds: Sequence[str] = (BLIT, GEOMETRY, COLOUR)
) -> Augment:
    """Make the changes of ADA at a given probability, for images [B, C, H, W].

    Args:
        probability: of each change, in [0, 1]: a number, a 0-d tensor or a schedule of the step.
        kinds: of "blit" (flip, quarter turns, shifts by whole pixels), "geometry" (scale, turn,
            stretch, shift) and "colour" (brightness, contrast, luma flip; in colour images hue and
            saturation).
    Raises:
        ValueError: for a probability out of range, no kind, or one of another name.
    """
    scalars.check_or_schedule("probability", probability, 0, 1, closed=True)
    chosen = tuple(kinds)
    if not chosen or isinstance(kinds, str) or set(chosen) - _NUMBERS.keys():
        raise ValueError(f"kinds are some of {', '.join(_NUMBERS)}, not {kinds!r}")
    return Augment(
        apply=functools.partial(_pipeline, kinds=chosen),
        num_numbers=sum(_NUMBERS[kind] for kind in chosen),
        probability=probability,
    )


def make_ada(
    *,
    num_steps: Scalar,
    target: Scalar = 0.6,
    every: int = 4,
    probability: float = 0.0,
    kinds: Sequence[str] = (BLIT, GEOMETRY, COLOUR),
) -> Augment:
    """Make ADA: after each ``every`` steps, move the probability towards the target.

        p <- clamp(p + sign(r - target) every / num_steps, 0, 1),    r = E[sign c(x)] on reals

    Args:
        num_steps: the steps of the discriminator in which p could go from 0 to 1; in the paper
            those of 500 000 images.
        target: of r, in (0, 1).
        probability: p before the first step.
        kinds: as in `make_pipeline`.
    Raises:
        ValueError: for a number out of range.

    References:
        Karras et al. 2020, section 3, equation 1 (r_t), and section 3.1: every 4 minibatches,
            from 0 to 1 in 500 000 images, target 0.6.
    """
    scalars.check("num_steps", num_steps, 1)
    scalars.check("target", target, 0, 1, above=True)
    scalars.check_count("every", every)
    fixed = make_pipeline(probability, kinds=kinds)

    def init() -> Adaptive:
        zero = torch.zeros(())
        return Adaptive(torch.tensor(float(probability)), zero, torch.zeros((), dtype=torch.int64))

    def update(carry: Adaptive, sign: Tensor) -> Adaptive:
        signs, seen = carry.signs + sign, carry.seen + 1
        moved = carry.probability + (signs / every - target).sign() * every / num_steps
        due = seen == every
        p = torch.where(due, moved.clamp(0, 1), carry.probability).to(carry.probability.dtype)
        return Adaptive(p, torch.where(due, 0.0, signs).to(signs.dtype), torch.where(due, 0, seen))

    return Augment(
        apply=fixed.apply,
        num_numbers=fixed.num_numbers,
        probability=probability,
        init=init,
        update=update,
    )
