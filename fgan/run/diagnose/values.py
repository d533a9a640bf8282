"""The values that a diagnosis is made of: evidence, which is numbers, and verdicts.

Each part of `Evidence` is a named tuple of plain numbers, and ``()`` where the run or its data do
not have it. Numbers that should be like those of real data stand beside the same numbers of real
data: the examples that are looked at are cut in halves, one to compare with, the other to play the
samples.
"""

from __future__ import annotations

from typing import NamedTuple

Nothing = tuple[()]
NAN = float("nan")
HALF = 0.5  # of what real examples reach, or of the way there: a threshold of several verdicts


class Log(NamedTuple):
    """Two numbers of the log.

    Attributes:
        lines: its lines up to the checkpoint.
        refused: steps that were not finite, and so changed nothing.
    """

    lines: int
    refused: int


class OfPlayer(NamedTuple):
    """The size of a player's weights.

    Attributes:
        growth: their norm, over the norm of those that the run began with.
        step: the norm of the change that one more step makes, over their norm.
    """

    growth: float
    step: float


class Weights(NamedTuple):
    """The sizes of both players' weights."""

    gen: OfPlayer
    disc: OfPlayer


class Gradient(NamedTuple):
    """The sizes of the gradients that reach the generator.

    Attributes:
        passed: the mean size of the slope of the generator's loss over the logits of fakes, over
            its size where all logits are 0, as of a discriminator that says one half of everything.
        norm, norm_at_first: the norm of the generator's gradient on a fixed batch, at the
            checkpoint and for the networks that the run began with.
    """

    passed: float
    norm: float
    norm_at_first: float


class Judgement(NamedTuple):
    """The discriminator's logits of training examples, of held-out ones, and of fakes.

    Attributes:
        ahead: the share of pairs of a training example and a fake in which the example has the
            higher logit.
        seen: the same for a training example and a held-out one; NaN without those.
        overfit: (mean logit of training examples - of held-out ones) / (the same - of fakes): 0
            where both are alike to it, 1 where held-out examples are fakes to it.
        held_out: the number of held-out examples, 0 if there are none.
        error: the standard error of ``seen`` where both are alike.
    """

    ahead: float
    seen: float = NAN
    overfit: float = NAN
    held_out: int = 0
    error: float = NAN


class Field(NamedTuple):
    """The field of the game at the checkpoint, on a fixed batch.

    Attributes:
        values: (real part, imaginary part, residual over modulus) of the eigenvalues with the
            greatest moduli.
        potential, rotational: the Frobenius norms of its Jacobian's symmetric and antisymmetric
            parts.
    """

    values: tuple[tuple[float, float, float], ...]
    potential: float
    rotational: float


class Distances(NamedTuple):
    """How far points are from each other.

    Attributes:
        pairwise: the mean distance of two of them, over that of two examples.
        nearest: the median distance of one to its nearest other, over the same of examples.
        duplicates: the share with another nearer than a tenth of the examples' median.
    """

    pairwise: float
    nearest: float
    duplicates: float


class Spread(NamedTuple):
    """How far samples are from each other, and other examples in their place."""

    samples: Distances
    real: Distances


class Quality(NamedTuple):
    """The share of points that look like examples, and of examples with a point like them.

    ``coverage`` is NaN for mixtures, whose modes are counted.
    """

    precision: float
    coverage: float


class Likeness(NamedTuple):
    """The quality of samples, and of other examples in their place.

    Attributes:
        measure: what precision means, as the end of a sentence about samples.
    """

    measure: str
    samples: Quality
    real: Quality


class Modes(NamedTuple):
    """The modes or the classes of samples.

    Attributes:
        kind: "mode", "digit" or "class".
        names: of each.
        counts: the samples of each; those that are of none are not counted.
        expected: the share of each among examples, found in the same way.
    """

    kind: str
    names: tuple[str, ...]
    counts: tuple[int, ...]
    expected: tuple[float, ...]


class Copies(NamedTuple):
    """How near samples are to training examples.

    Attributes:
        nearest: the median distance of a sample to the nearest of as many examples, over that of
            an example to its nearest other.
        nearer: the share of samples that are nearer to a training example than to each of as many
            held-out ones; NaN without those.
    """

    nearest: float
    nearer: float = NAN


class Labelling(NamedTuple):
    """Whether samples are of the class that was asked for.

    Attributes:
        judge: who says which class a sample is of.
        right: the share of samples that are of the class asked for.
        right_real: the share of training examples that are of the class of their label.
        chance: the share of the most frequent label.
        samples: the number of samples, and of examples.
    """

    judge: str
    right: float
    right_real: float
    chance: float
    samples: int


class Reach(NamedTuple):
    """The share of the data's numbers outside the range of the generator's last activation."""

    output: str
    share: float


class Evidence(NamedTuple):
    """All that is known of a run.

    Attributes:
        step: the checkpoint's.
        unseen: sentences on what could not be looked at, and why.
    """

    step: int
    log: Log | Nothing = ()
    weights: Weights | Nothing = ()
    gradient: Gradient | Nothing = ()
    judgement: Judgement | Nothing = ()
    field: Field | Nothing = ()
    spread: Spread | Nothing = ()
    likeness: Likeness | Nothing = ()
    modes: Modes | Nothing = ()
    copies: Copies | Nothing = ()
    labels: Labelling | Nothing = ()
    reach: Reach | Nothing = ()
    unseen: tuple[str, ...] = ()


class Verdict(NamedTuple):
    """A failure that the numbers of a run show.

    Attributes:
        name: the failure.
        sentence: the finding, with its numbers.
        numbers: the same numbers, and those they are compared with.
        reason: the threshold, and why it is there.
        advice: one thing to try.
    """

    name: str
    sentence: str
    numbers: dict[str, float]
    reason: str
    advice: str
