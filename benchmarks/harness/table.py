"""The tables of a comparison, on a terminal, and in a pipe or a file in its place."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

_WIDTH = 120
_STEPS = ("compiled-donated", "compiled", "replayed", "eager")  # ours; the first is a run's
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def show(found: dict[str, Any]) -> None:
    """Print the results of `fgan_benchmarks.harness.compare.compare`."""
    console = Console(highlight=False)
    if console.width < _WIDTH:  # a wrapped line loses nothing, a column cut short does
        console = Console(highlight=False, width=_WIDTH)
    config, machine = found["config"], found["machine"]
    gen, disc = found["parameters"]
    size = "×".join(map(str, found["shape"]))
    load = "" if machine["load"] is None else f", load {machine['load']:g}"
    _line(console, f"{config['arch']}, {gen:,} + {disc:,} parameters, {size}, "
                   f"batch {config['batch_size']}, {config['dtype']}")  # fmt: skip
    _line(console, f"{machine['device']}, {machine['threads']} threads{load}, "
                   f"torch {machine['torch']}, {found['repeats']} rounds")  # fmt: skip
    console.print(_times(found))
    _line(console, _limit(found))
    console.print(_states(found))
    if any("alone" in about for about in found["programs"].values()):
        console.print(_work(found))
        console.print(_starts(found))
    for note in found["notes"]:
        _line(console, f"note: {note}")


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _times(found: dict[str, Any]) -> Table:
    table = _table(
        "One step, trained, denormals flushed",
        "program", "ms", "quartiles", f"× {found['baseline']}", "95 %", "× limit", "images/s",
        "CPUs", "same work",
    )  # fmt: skip
    for name, about in found["programs"].items():
        ms, ratio = about["milliseconds"], about["speedup"]
        table.add_row(
            name,
            _digits(ms["median"]),
            f"{_digits(ms['q1'])} – {_digits(ms['q3'])}",
            f"{ratio['median']:.2f}",
            f"{ratio['low']:.2f} – {ratio['high']:.2f}",
            f"{about['over_limit']['median']:.2f}" if about["over_limit"] else "",
            f"{about['images_per_second']:,.0f}",
            f"{about['cpus']:.1f}",
            f"{'yes' if about['same_work'] else 'NO'} ({about['difference']:.0e})",
        )
    return table


def _limit(found: dict[str, Any]) -> str:
    """The limit in a sentence, with the step of the program that a run would take."""
    least, programs = found["limit"], found["programs"]
    whole, products, moves = (
        _digits(least[f"{part}milliseconds"]) for part in ("", "products_", "moves_")
    )
    text = (
        f"The limit here is {whole} ms: products of {_unit(least['flops'])}FLOP at the ceiling "
        f"take {products} ms, and {_unit(least['bytes'])}B that must move {moves} ms"
    )
    compared = (name for name in _STEPS if programs.get(name, {}).get("over_limit"))
    if (name := next(compared, None)) is None:
        return f"{text}."
    times = programs[name]["over_limit"]
    return (
        f"{text}; the step of {name} takes {times['median']:.2f} times that "
        f"(95 %: {times['low']:.2f} – {times['high']:.2f})."
    )


def _states(found: dict[str, Any]) -> Table:
    """How training, and flushing denormal numbers, change the time of a step."""
    first = next(iter(found["programs"].values()))
    columns, both = list(first["states"]), "trained, kept" in first["states"]
    table = _table(
        f"Its milliseconds on fresh values and after {found['trained_steps']:,} steps, denormals "
        f"flushed{' or kept' if both else ''}",
        "program", *columns, *(["flushing gains"] if both else []),
    )  # fmt: skip
    for name, about in found["programs"].items():
        ms = {column: about["states"][column]["milliseconds"] for column in columns}
        gain = [f"{ms['trained, kept'] / ms['trained, flushed']:.2f}×"] if both else []
        table.add_row(name, *map(_digits, ms.values()), *gain)
    return table


def _work(found: dict[str, Any]) -> Table:
    peak = found["ceilings"]
    table = _table(
        f"Its work (ceilings here: {_unit(peak['flops_per_second'])}FLOP/s in a matrix product, "
        f"{_unit(peak['bytes_per_second'])}B/s in a copy)",
        "program", "FLOP", "of ceiling", "bytes", "of ceiling", "kernels", "held", "peak memory",
    )  # fmt: skip
    for name, about in found["programs"].items():
        facts = next(iter(about["alone"].values()))
        steady = list(about["alone"].values())[-1]  # in this process everything was compiled before
        table.add_row(
            name,
            _unit(about["flops"]),
            _percent(about["flops_of_ceiling"]),
            _unit(facts["bytes"]),
            _percent(about["bytes_of_ceiling"]),
            _plain(facts["kernels"]),
            _unit(steady["step_bytes"]),
            _unit(steady["peak_bytes"]),
        )
    return table


def _starts(found: dict[str, Any]) -> Table:
    table = _table(
        "Its start, in a process of its own", "program", "first step s", "cached s",
        "pays back at step", "cached",
        "graphs", "breaks", "recompiled",
    )  # fmt: skip
    for name, about in found["programs"].items():
        alone, back = about["alone"], about["payback_steps"]
        first = next(iter(alone.values()))
        cached = alone.get("cached")
        table.add_row(
            name,
            f"{first['first_step_seconds']:.1f}",
            f"{cached['first_step_seconds']:.1f}" if cached else "",
            *(_payback(back, kind) for kind in ("cold", "cached")),
            *(_plain(first[key]) for key in ("graphs", "breaks", "recompiled")),
        )
    return table


def _payback(back: dict[str, int | None], kind: str) -> str:
    if kind not in back:
        return ""
    step = back[kind]
    return "never" if step is None else f"{step:,}"


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _plain(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _unit(value: float | None) -> str:
    if value is None:
        return ""
    for size, letter in _UNITS:
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f} "
