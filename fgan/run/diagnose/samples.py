"""Verdicts on the samples, beside the data.

Each is a function from `Evidence` to a verdict, or None. Its threshold stands above it, and the
reason of the threshold is part of the verdict.
"""

from __future__ import annotations

import math

from fgan.run.diagnose.values import HALF, Evidence, Verdict
from fgan.run.validate import sentence

REACH = 0.01


def out_of_reach(e: Evidence) -> Verdict | None:
    """The data have numbers that the generator's last activation cannot make."""
    if not e.reach or e.reach.share <= REACH:
        return None
    return Verdict(
        "data out of reach",
        f"{e.reach.share:.0%} of the numbers in the data lie outside the range of "
        f"{e.reach.output}, the generator's last activation.",
        {"share": e.reach.share},
        f"No weights make such numbers. Fewer than {REACH:.0%} would be outliers.",
        "Train with --output linear, or scale the data.",
    )


UNLIKE = 0.25


def unlike_data(e: Evidence) -> Verdict | None:
    """Hardly any sample looks like an example."""
    if not e.likeness:
        return None
    of, real = e.likeness.samples, e.likeness.real
    if not of.precision < UNLIKE * real.precision:
        return None
    return Verdict(
        "unlike the data",
        f"{of.precision:.1%} of the samples {e.likeness.measure}.",
        {"precision": of.precision, "precision_real": real.precision},
        f"{real.precision:.0%} of other examples do. Below a quarter of that, samples are "
        "rather something else than worse examples.",
        "Train longer if the samples still change, else see the other verdicts.",
    )


APART, REPEATED = 0.5, 0.25


def collapse(e: Evidence) -> Verdict | None:
    """Samples repeat each other, or lie much nearer to each other than examples."""
    if not e.spread:
        return None
    of, real = e.spread.samples, e.spread.real
    parts = []
    if of.pairwise < APART * real.pairwise:
        parts.append(f"two samples are {of.pairwise:.2f} times as far apart as two examples")
    if of.duplicates > real.duplicates + REPEATED:
        parts.append(f"{of.duplicates:.0%} of the samples repeat another one")
    if not parts:
        return None
    return Verdict(
        "collapse",
        sentence(parts),
        {
            "pairwise": of.pairwise,
            "pairwise_real": real.pairwise,
            "duplicates": of.duplicates,
            "duplicates_real": real.duplicates,
        },
        f"Among as many other examples it is {real.pairwise:.2f} times and {real.duplicates:.1%}. "
        f"Below {APART:g} times, samples fill less than half of the data's width; above "
        f"{REPEATED:.0%}, one of four shows nothing new.",
        _REGULARISE,
    )


FEWER = 0.25
_REGULARISE = "Train with --loss relativistic --r1 1 --r2 1 (--r1 0.1 --r2 0.1 for points)."


def modes_lost(e: Evidence) -> Verdict | None:
    """A mode or a class has far fewer samples than examples."""
    if not e.modes:
        return None
    total, number = sum(e.modes.counts), len(e.modes.names)
    rows = zip(e.modes.counts, e.modes.expected, e.modes.names, strict=True)
    lost = [
        (count, share, name)
        for count, share, name in rows
        if count < FEWER * share * total and at_most(count, share * total) < 0.001 / number
    ]
    if not lost:
        return None
    count, share, name = min(lost)
    kind = e.modes.kind
    return Verdict(
        "modes lost",
        f"{len(lost)} of {number} {kind}s {'have' if len(lost) > 1 else 'has'} less than a quarter "
        f"of the due share of samples: {kind} {name} has {count / total:.1%} of them and "
        f"{share:.1%} of the examples.",
        {"lost": len(lost), "of": number, "least": count / total, "due": share},
        f"Other examples in place of the samples are off by a tenth or so. Of {total:,} samples so "
        f"few of one {kind} have a probability below 0.001 where all have their shares.",
        _REGULARISE,
    )


def at_most(count: int, expected: float) -> float:
    """The Poisson probability of at most ``count`` where ``expected`` are expected.

    >>> round(at_most(1, 2.0), 4)
    0.406
    """
    if not expected > 0:
        return 1.0
    logs = (k * math.log(expected) - expected - math.lgamma(k + 1) for k in range(count + 1))
    return sum(math.exp(log) for log in logs)


def coverage_lost(e: Evidence) -> Verdict | None:
    """Samples look like examples, but most examples have no sample near them."""
    if not e.likeness:
        return None
    of, real = e.likeness.samples, e.likeness.real
    if not of.coverage < HALF * real.coverage:
        return None
    if of.precision < HALF * real.precision:  # they are not yet like the data at all
        return None
    return Verdict(
        "coverage lost",
        f"{of.precision:.0%} of the samples look like examples, but only {of.coverage:.0%} of the "
        "examples have a sample near them.",
        {"coverage": of.coverage, "coverage_real": real.coverage, "precision": of.precision},
        f"As many other examples reach {real.coverage:.0%}; half of that is the threshold, so that "
        "more than half of the data is missing.",
        _REGULARISE,
    )


COPIED, NEARER = 0.5, 0.75


def memorisation(e: Evidence) -> Verdict | None:
    """Samples are copies of training examples."""
    c = e.copies
    if not c:
        return None
    parts = []
    if c.nearest < COPIED:
        parts.append(
            f"samples are {c.nearest:.2f} times as far from the nearest training example as "
            "examples are from each other"
        )
    if c.nearer > NEARER and c.nearest < 1:  # further ones are no copies
        parts.append(
            f"{c.nearer:.0%} of the samples are nearer to a training example than to any held-out "
            "one"
        )
    if not parts:
        return None
    return Verdict(
        "memorisation",
        sentence(parts),
        {"nearest": c.nearest, "nearer": c.nearer},
        f"New samples are as far as examples, 1 times; at {COPIED:g} times most are nearer to an "
        "example than nearly all examples are to each other. Half of new samples are nearer "
        f"to a held-out example; {NEARER:.0%} leave room for samples that resemble each other.",
        "Train with more data, or with --augment ada or diffaug for images.",
    )


ERRORS = 4


def labels_wrong(e: Evidence) -> Verdict | None:
    """The labels of the data have nothing to do with the examples."""
    of = e.labels
    if not of:
        return None
    error = math.sqrt(of.chance * (1 - of.chance) / of.samples)
    if of.right_real > of.chance + ERRORS * error:
        return None
    return Verdict(
        "labels wrong",
        f"For {of.right_real:.0%} of the training examples {of.judge} has the same label, and "
        f"{of.chance:.0%} would by chance.",
        {"right_real": of.right_real, "chance": of.chance, "error": error},
        f"{ERRORS} standard errors ({error:.1%}) above chance would show that labels depend on "
        "examples.",
        "Check that labels and examples are in the same order.",
    )


def labels_ignored(e: Evidence) -> Verdict | None:
    """Samples of a conditional run are not of the class that was asked for."""
    of = e.labels
    if not of or labels_wrong(e) or of.right - of.chance >= HALF * (of.right_real - of.chance):
        return None
    return Verdict(
        "labels ignored",
        f"By {of.judge}, {of.right:.0%} of the samples are of the class asked for.",
        {"right": of.right, "right_real": of.right_real, "chance": of.chance},
        f"It is right for {of.right_real:.0%} of the training examples, and for {of.chance:.0%} by "
        "chance; the threshold is half of the way.",
        "Train with another --condition-head, or longer.",
    )
