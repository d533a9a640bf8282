"""The charts of a report: their columns, and a sentence about each.

With one curve a chart shows both players; with several it shows one column of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fgan.run import summary
from fgan.run.report.curves import ABSCISSAE, Curve

_NOT_SHOWN = {*ABSCISSAE, "member", "seed"}
_PROBABILITIES = ("minimax", "non_saturating")  # losses whose D(x) is a probability at the optimum


class Chart(NamedTuple):
    """A chart.

    Attributes:
        columns: their names in it, by the columns of ``metrics.jsonl``.
        texts: by column, the sentence of a chart of that column alone, where it is another.
        log: whether it begins with a logarithmic scale.
        unit: whether its numbers lie between 0 and 1.
        level: where the game is at its solution, if the loss says so; None if it does not.
    """

    title: str
    text: str
    columns: Mapping[str, str]
    texts: Mapping[str, str] = {}
    log: bool = False
    unit: bool = False
    level: float | None = None


GAME = (
    Chart(
        "Losses",
        "The losses that were optimised, with their penalties. In a game they need not fall.",
        {"gen_loss": "generator", "disc_loss": "discriminator"},
    ),
    Chart(
        "Discriminator's output",
        "The mean sigmoid of the logits on reals, D(x), and on samples, D(G(z)).",
        {"d_real": "D(x)", "d_fake": "D(G(z))"},
        {
            "d_real": "The mean sigmoid of the discriminator's logits on reals.",
            "d_fake": "The mean sigmoid of the discriminator's logits on samples.",
        },
        unit=True,
        level=0.5,
    ),
    Chart(
        "Gradient norms",
        "The Euclidean norm of each player's gradient over all its parameters.",
        {"gen_grad_norm": "generator", "disc_grad_norm": "discriminator"},
        log=True,
    ),
    Chart(
        "Value V(D, G)",
        "E[log D(x)] + E[log(1 − D(G(z)))] in nats, the value of the game of Goodfellow et al. "
        "(2014), equation 1.",
        {"value": "V(D, G)"},
        level=-math.log(4.0),
    ),
)
SPEED = Chart(
    "Speed", "Images per second that the discriminator saw, without compiling.",
    {"images_per_second": "images per second"},
)  # fmt: skip


def of(curves: Sequence[Curve], losses: Sequence[Any]) -> list[Chart]:
    """The charts for which there are numbers.

    Args:
        losses: the losses of the runs, by their names; they decide whether levels are shown.
    """
    swept = {name for curve in curves for name in curve.says}
    there = {name: None for curve in curves for name in curve.columns}
    wanted = [name for name in there if name not in _NOT_SHOWN | swept]
    if not any(x for curve in curves for x in curve.columns.get("refused", [])):
        wanted = [name for name in wanted if name != "refused"]
    game: Sequence[Chart] = GAME
    if not all(loss in _PROBABILITIES for loss in losses):
        game = [chart._replace(level=None) for chart in GAME]
    known = {name for chart in (*GAME, SPEED) for name in chart.columns}
    terms = [_term(name) for name in wanted if name.startswith(summary.TERM)]
    others = [
        _other(name) for name in wanted if name not in known and not name.startswith(summary.TERM)
    ]
    found = []
    for chart in (*game, *terms, *others, SPEED):
        columns = {name: said for name, said in chart.columns.items() if name in wanted}
        if len(curves) == 1:
            found += [chart._replace(columns=columns)] if columns else []
        else:
            found += [_alone(chart, *column) for column in columns.items()]
    return found


def _alone(chart: Chart, column: str, said: str) -> Chart:
    """The chart of one column."""
    title = chart.title
    if len(chart.columns) > 1:
        title = said if chart.unit else f"{title} of the {said}".replace("Losses", "Loss")
        title = title.replace("norms", "norm")
    text = chart.texts.get(column, chart.text)
    return chart._replace(title=title, text=text, columns={column: said})


def _term(column: str) -> Chart:
    name = column.removeprefix(summary.TERM)
    text = "The mean over the batch, without its weight, in the steps in which it was due."
    if name == "augment":
        text = "The probability of an augmentation."
    return Chart(f"Term {name}", text, {column: name})


def _other(column: str) -> Chart:
    if column == "refused":
        text = "Steps that were not finite and changed nothing."
        return Chart("Refused steps", text, {column: column})
    return Chart(column.replace("_", " "), "", {column: column})
