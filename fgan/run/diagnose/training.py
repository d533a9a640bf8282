"""Verdicts on the training: steps, and what the players do to each other.

Each is a function from `Evidence` to a verdict, or None. Its threshold stands above it, and the
reason of the threshold is part of the verdict.
"""

from __future__ import annotations

import math

from fgan.run.diagnose.values import HALF, Evidence, Verdict
from fgan.run.validate import sentence


def not_finite(e: Evidence) -> Verdict | None:
    """Steps were refused because a number was not finite."""
    if not e.log or not e.log.refused:
        return None
    return Verdict(
        "not finite",
        f"{e.log.refused:,} of {e.step:,} steps had a loss or a gradient that is not finite.",
        {"refused": e.log.refused, "steps": e.step},
        "Losses are computed from logits and do not overflow by themselves, so that no step of a "
        "run that works is refused.",
        "Lower --lr to a tenth, or add --r1 1.",
    )


STEP, GROWTH = 0.1, 20.0


def learning_rate(e: Evidence) -> Verdict | None:
    """A step changes the weights of a player too much, or steps have blown them up."""
    if not e.weights:
        return None
    named = {"generator": e.weights.gen, "discriminator": e.weights.disc}
    parts = [
        f"one step changes the {player}'s weights by {of.step:.0%} of their size"
        for player, of in named.items()
        if not of.step <= STEP
    ] + [
        f"the {player}'s weights are {of.growth:.0f} times as large as at first"
        for player, of in named.items()
        if not of.growth <= GROWTH
    ]
    if not parts:
        return None
    return Verdict(
        "learning rate too high",
        sentence(parts),
        {
            "step": max(of.step for of in named.values()),
            "growth": max(of.growth for of in named.values()),
        },
        f"A thousandth of their size is usual. Steps of {STEP:.0%} replace the weights within ten "
        f"steps, and weights that are {GROWTH:.0f} times larger make every layer's signals larger "
        "by as much, beyond the range where logits and activations have slopes.",
        "Lower --lr to a tenth.",
    )


OVERFIT, SEEN = 0.5, 0.75


def overfitting(e: Evidence) -> Verdict | None:
    """The discriminator tells the training examples from others that it has not seen."""
    j = e.judgement
    if not j or not j.held_out or not j.overfit > OVERFIT:
        return None
    if not j.seen > max(SEEN, 0.5 + 4 * j.error):  # a perfect generator's fakes are held-out ones
        return None
    return Verdict(
        "discriminator overfits",
        f"Held-out examples have gone {j.overfit:.0%} of the way from training examples to fakes "
        f"in the discriminator's logits; it puts a training example above a held-out one in "
        f"{j.seen:.0%} of pairs.",
        {"overfit": j.overfit, "seen": j.seen, "error": j.error},
        "A discriminator that has not learned its examples by heart has 0 % and 50 % (with a "
        f"standard error of {j.error:.1%}). Beyond half of the way, examples that it has not seen "
        "are fakes to it (r_v in Karras et al. 2020, arXiv:2006.06676, equation 1). Because good "
        f"fakes are like them too, it must also know its examples in {SEEN:.0%} of pairs, half of "
        "the way from guessing to certainty.",
        "Train with more data, or with --augment ada or diffaug for images, or with fewer steps.",
    )


PASSED, SHRUNK = 0.05, 1e-3


def vanishing_gradient(e: Evidence) -> Verdict | None:
    """Nearly nothing of what the discriminator says reaches the generator."""
    g = e.gradient
    if not g or not e.judgement:
        return None
    parts = []
    if g.passed < PASSED and e.judgement.ahead > 0.5:
        parts.append(
            f"the slope of the generator's loss is {g.passed:.2g} times that at D = 1/2, because "
            "the discriminator is certain of every fake"
        )
    if g.norm < SHRUNK * g.norm_at_first:
        parts.append(
            f"the norm of its gradient is {g.norm:.2g}, which was {g.norm_at_first:.2g} for the "
            "networks that the run began with"
        )
    if not parts:
        return None
    return Verdict(
        "vanishing gradient",
        sentence(parts),
        {"passed": g.passed, "norm": g.norm, "norm_at_first": g.norm_at_first},
        "At D = 1/2 the slope is what the game's solution has. Below "
        f"{PASSED:g} of it, or {SHRUNK:g} of the first gradient, the noise of a batch outweighs "
        "what is left (Goodfellow et al. 2014, section 3).",
        "Train with --loss non_saturating or relativistic instead of minimax, with --r1 1, or "
        "with a lower --disc-lr.",
    )


AHEAD, BLIND = 0.999, 0.6


def too_strong(e: Evidence) -> Verdict | None:
    """The discriminator tells all fakes from all training examples."""
    if not e.judgement or not e.judgement.ahead > AHEAD:
        return None
    return Verdict(
        "discriminator too strong",
        f"The discriminator puts a training example above a fake in {e.judgement.ahead:.2%} of "
        "pairs.",
        {"ahead": e.judgement.ahead},
        f"Beyond {AHEAD:.1%} there is hardly a fake among the examples from which the generator "
        "could learn which way is better, and a perfect discriminator is flat around its fakes "
        "(Arjovsky and Bottou 2017, arXiv:1701.04862, theorem 2.4). Half of the pairs is the "
        "solution of the game.",
        "Lower --disc-lr, or add --r1 1.",
    )


def too_weak(e: Evidence) -> Verdict | None:
    """The discriminator does not tell fakes from examples, though they look different."""
    if not e.judgement or not e.likeness:
        return None
    of, real, ahead = e.likeness.samples, e.likeness.real, e.judgement.ahead
    if ahead > BLIND or of.precision > HALF * real.precision:
        return None
    return Verdict(
        "discriminator too weak",
        f"The discriminator puts a training example above a fake in only {ahead:.0%} of pairs, "
        f"though only {of.precision:.0%} of the samples {e.likeness.measure}.",
        {"ahead": ahead, "precision": of.precision, "precision_real": real.precision},
        f"Half of the pairs is guessing, and a precision of {real.precision:.0%} is what other "
        "examples have. Where samples have less than half of that, a discriminator could tell.",
        "Raise --disc-lr or --disc-steps, or lower the penalties.",
    )


TURN, RESOLVED = 0.05, 0.1


def rotation(e: Evidence) -> Verdict | None:
    """The players circle around each other without coming nearer."""
    if not e.field:
        return None
    foremost = max((math.hypot(x, y) for x, y, _ in e.field.values), default=0.0)
    turning = [
        (x, y)
        for x, y, residual in e.field.values
        if math.hypot(x, y) >= HALF * foremost and residual < RESOLVED and -y < x < TURN * y
    ]
    if not turning:
        return None
    x, y = max(turning, key=lambda value: value[1])
    return Verdict(
        "rotation",
        f"The field's eigenvalue {x:.2g} ± {y:.2g}i is among the greatest: a turn makes the "
        f"distance from the solution {math.exp(-2 * math.pi * x / y):.2g} times what it was.",
        {
            "real": x,
            "imaginary": y,
            "potential": e.field.potential,
            "rotational": e.field.rotational,
        },
        f"A real part below {TURN:g} of the imaginary one leaves more than 0.73 of the distance "
        "after a turn, and steps, which leave the circle along its tangent, add to it; at 0 the "
        "players never come nearer (Mescheder et al. 2018, arXiv:1801.04406, section 3).",
        "Add --r1 1, or train with --order extragradient, consensus or competitive.",
    )
