"""The evidence of a run: each part a function of `Subject`, taken once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from fgan import metrics, pytree, rng
from fgan.game import make_step, orders, scheduled, spectrum
from fgan.game.objectives import objectives
from fgan.metrics.common import as_pair, nearest_rows, squared_distances
from fgan.metrics.digits import see
from fgan.run import assemble
from fgan.run.diagnose.subject import Subject
from fgan.run.diagnose.values import (
    NAN,
    Copies,
    Distances,
    Evidence,
    Field,
    Gradient,
    Judgement,
    Labelling,
    Likeness,
    Log,
    Modes,
    Nothing,
    OfPlayer,
    Quality,
    Reach,
    Spread,
    Weights,
)
from fgan.types import TrainState

_EIGENVALUES, _PRODUCTS, _PROBES = 10, 30, 4


def gather(subject: Subject) -> Evidence:
    """All evidence of a run; a part that cannot be computed is left out, with a sentence."""
    parts: dict[str, Any] = {}
    unseen: list[str] = []
    for name, part in _PARTS.items():
        try:
            parts[name] = part(subject)
        except ValueError as error:  # of metrics, for data that they cannot compare
            unseen.append(f"The {name} cannot be looked at: {error}.")
    if subject.held_out is None:
        unseen.append(
            "The data have no held-out part, so that overfitting of the discriminator is not "
            "looked at: give --held-out."
        )
    elif subject.held_logits is None:
        unseen.append(
            "The held-out examples have no labels, which the discriminator needs, so that its "
            "overfitting is not looked at."
        )
    return Evidence(subject.step, **parts, unseen=tuple(unseen))


def _log(subject: Subject) -> Log:
    refused = sum(line.get("refused", 0) for line in subject.lines)
    return Log(len(subject.lines), refused + subject.refused_since)


def _weights(subject: Subject) -> Weights:
    game, batch, draws = subject.batch
    factor = assemble.make_lr_factor(subject.config)
    step = make_step(game) if factor is None else scheduled(make_step(game), factor)
    now, first = subject.state, subject.first_state
    after, _ = step(now, batch, draws)

    def of(player: str) -> OfPlayer:
        norm = pytree.norm(getattr(now, player).params)
        change = pytree.map(torch.sub, getattr(after, player).params, getattr(now, player).params)
        growth = norm / pytree.norm(getattr(first, player).params)
        return OfPlayer(float(growth), float(pytree.norm(change) / norm))

    return Weights(of("gen"), of("disc"))


def _gradient(subject: Subject) -> Gradient:
    game, batch, draws = subject.batch

    def norm(state: TrainState) -> float:
        point = {"gen": state.gen.params, "disc": state.disc.params}
        losses = objectives(game, state, batch, draws)
        return float(pytree.norm(orders.gradient(losses, "gen", point)[0]))

    def slope(real: Tensor, fake: Tensor) -> float:
        over_fakes = grad(lambda fake: game.loss.gen(real_logits=real, fake_logits=fake).sum())
        return float(over_fakes(fake).abs().mean())

    real, fake = subject.real_logits, subject.fake_logits
    passed = slope(real, fake) / slope(torch.zeros_like(real), torch.zeros_like(fake))
    return Gradient(passed, norm(subject.state), norm(subject.first_state))


def _judgement(subject: Subject) -> Judgement:
    real, fake, held = subject.real_logits, subject.fake_logits, subject.held_logits
    if held is None:
        return Judgement(ahead(real, fake))
    n, m = len(real), len(held)
    return Judgement(
        ahead=ahead(real, fake),
        seen=ahead(real, held),
        overfit=float((real.mean() - held.mean()) / (real.mean() - fake.mean())),
        held_out=m,
        error=math.sqrt((n + m + 1) / (12 * n * m)),  # of the Mann-Whitney statistic
    )


def ahead(high: Tensor, low: Tensor) -> float:
    """The share of pairs in which the first is higher; equal ones count half.

    >>> ahead(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0]))
    0.625
    """
    ordered = low.sort().values
    below = torch.searchsorted(ordered, high)
    up_to = torch.searchsorted(ordered, high, right=True)
    return float((below + up_to).double().mean() / (2 * len(low)))


def _field(subject: Subject) -> Field:
    game, batch, draws = subject.batch
    field, point = spectrum.of_game(game, subject.state, batch, draws)
    key = rng.key(0, subject.device)
    found = spectrum.eigenvalues(field, point, key, num=_EIGENVALUES, num_iterations=_PRODUCTS)
    parts = spectrum.norms(field, point, rng.fold_in(key, 1), _PROBES)
    misses = (found.residuals / found.values.abs()).tolist()
    values = [(z.real, z.imag, miss) for z, miss in zip(found.values.tolist(), misses, strict=True)]
    return Field(tuple(values), float(parts.potential), float(parts.rotational))


def _spread(subject: Subject) -> Spread:
    usual = mean_distance(subject.examples)

    def of(points: Tensor) -> Distances:
        near = metrics.memorised(points, subject.examples)
        return Distances(mean_distance(points) / usual, near.nearest_sample, near.duplicates)

    return Spread(of(subject.samples), of(subject.others))


def mean_distance(points: Tensor) -> float:
    """The mean distance of two different points of [N, ...]."""
    rows, others = as_pair(points, points, least=2)
    total = sum(float(d.sqrt().sum()) for d in squared_distances(rows, others))
    return total / (len(rows) * (len(rows) - 1))


def _likeness(subject: Subject) -> Likeness:
    known, samples = subject.known, subject.samples[: subject.num]
    if known.has("modes"):

        def near(points: Tensor) -> Quality:
            found = metrics.mode_coverage(points, known.modes, known.std)
            return Quality(found.high_quality, NAN)

        words = "lie within three standard deviations of a mode"
        return Likeness(words, near(samples), near(subject.others))

    def seen(points: Tensor) -> Tensor:
        # In pixels, blurred digits are near to all others.
        return see(points).features if subject.are_digits else points

    examples = seen(subject.examples)

    def like(points: Tensor) -> Quality:
        found = metrics.neighbourhoods(seen(points), examples)
        return Quality(found.precision, found.coverage)

    words = "lie in the neighbourhood of an example"
    return Likeness(words, like(samples), like(subject.others))


def _modes(subject: Subject) -> Modes | Nothing:
    known = subject.known
    if known.has("modes"):
        places = (known.modes.double().round(decimals=3) + 0.0).tolist()  # no minus before 0
        kind, names = "mode", [f"({x:g}, {y:g})" for x, y in places]
        found = [_modes_of(x, known.modes, known.std) for x in (subject.samples, subject.others)]
    elif subject.are_digits:
        kind, names, found = "digit", list("0123456789"), _classes(subject)
    elif known.has("stacked"):
        names = [f"{digit} in channel {channel}" for channel in range(3) for digit in range(10)]
        kind, found = "digit", [_channel_digits(x) for x in (subject.samples, subject.others)]
    elif known.has("labels"):
        num_classes = int(known.labels[: subject.num].max()) + 1
        kind, names, found = "class", [str(i) for i in range(num_classes)], _classes(subject)
    else:
        return ()
    counts, real = (torch.bincount(each, minlength=len(names)) for each in found)
    return Modes(kind, tuple(names), tuple(counts.tolist()), tuple((real / real.sum()).tolist()))


def _classes(subject: Subject) -> list[Tensor]:
    """The classes of the samples and of the other examples, as a judge of images sees them."""
    points = (subject.samples, subject.others)
    if subject.are_digits:
        return [see(x).logits.argmax(1) for x in points]
    # Other examples are judged like samples, and so have the same errors.
    labels = subject.known.labels[: subject.num]
    return [labels[nearest_rows(*as_pair(x, subject.examples))] for x in points]


def _modes_of(points: Tensor, modes: Tensor, std: float) -> Tensor:
    """The modes of the points that lie within three standard deviations of one."""
    near = torch.cdist(points.double(), modes.double()).min(1)
    return near.indices[near.values <= 3 * std]


def _channel_digits(stacked: Tensor) -> Tensor:
    """The digit in each channel of images [N, 3, H, W], plus ten times the channel: [3N]."""
    digits = see(stacked.flatten(0, 1)[:, None]).logits.argmax(1).view(-1, 3)
    return (digits + torch.tensor([0, 10, 20], device=digits.device)).flatten()


def _copies(subject: Subject) -> Copies:
    samples, known, held = subject.samples, subject.known.examples, subject.held_out
    nearest = metrics.memorised(samples, known).nearest_example
    if held is None:
        return Copies(nearest)
    size = min(len(known), len(held), 2 * subject.num)
    to_train, to_held = (_to(samples, examples[:size]) for examples in (known, held))
    return Copies(nearest, float(((to_train < to_held) + 0.5 * (to_train == to_held)).mean()))


def _to(points: Tensor, examples: Tensor) -> Tensor:
    """The squared distance of each point to the nearest example."""
    rows, known = as_pair(points, examples)
    return torch.cat([d.min(1).values for d in squared_distances(rows, known)])


def _labels(subject: Subject) -> Labelling | Nothing:
    asked = subject.labels
    if asked is None:
        return ()
    others = subject.known.labels[subject.num : 2 * subject.num]
    judge = "the digit classifier" if subject.are_digits else "the nearest training example"
    said, real = _classes(subject)
    return Labelling(
        judge,
        right=float((said == asked).double().mean()),
        right_real=float((real == others).double().mean()),
        chance=float(others.bincount().max() / len(others)),
        samples=len(others),
    )


def _reach(subject: Subject) -> Reach | Nothing:
    ends = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}
    output = subject.output
    if output not in ends:
        return ()
    low, high = ends[output]
    real = subject.as_trained(subject.examples)
    return Reach(output, float(((real < low) | (real > high)).double().mean()))


_PARTS: dict[str, Callable[[Subject], object]] = {
    "log": _log, "weights": _weights, "gradient": _gradient, "judgement": _judgement,
    "field": _field, "spread": _spread, "likeness": _likeness, "modes": _modes,
    "copies": _copies, "labels": _labels, "reach": _reach,
}  # fmt: skip
