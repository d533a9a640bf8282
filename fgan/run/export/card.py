"""The model card of an export: what the generator is, where it comes from, and how to load it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch

import fgan
from fgan.disk.rundir import home_of
from fgan.run import config as configs
from fgan.run import kept
from fgan.run.export.programs import loading
from fgan.run.export.subject import Subject, Written
from fgan.run.options import OPTIONS
from fgan.run.report.choices import is_changed
from fgan.run.report.curves import defaults
from fgan.run.report.curves import text as shown
from fgan.run.summary import said

NAME = "MODEL_CARD.md"
UNKNOWN = "unknown: fill in"
_LECUN = "by Yann LeCun, Corinna Cortes and Christopher J. C. Burges, CC BY-SA 3.0"
LICENCES = {
    "mnist": f"MNIST {_LECUN}",
    "stacked-mnist": f"made of MNIST {_LECUN}",
    "fashion-mnist": "Fashion-MNIST by Zalando SE, MIT",
    "kmnist": "KMNIST by ROIS-DS Center for Open Data in the Humanities, CC BY-SA 4.0",
    "ring": "none is needed: the points are drawn by fgan",
    "grid": "none is needed: the points are drawn by fgan",
}
"""The licences of data sets, by name, where they are known."""


def text(subject: Subject, written: Sequence[Written]) -> str:
    """The card as Markdown."""
    arch, data = subject.config.arch, subject.config.data
    made = "images" if subject.maker.is_images else "points"
    lines = [
        f"# A generator of {made}: {arch} on {data}",
        "",
        f"The averaged generator of a GAN that was trained with fgan {subject.about.get('fgan')}."
        if subject.config.ema
        else f"The generator of a GAN that was trained with fgan {subject.about.get('fgan')}.",
        "",
        *_files(subject, written),
        *_interface(subject, written),
        *_programs(subject, written),
        *_data(subject),
        *_training(subject),
        *_metrics(subject),
        *_versions(subject),
    ]
    return "\n".join(lines) + "\n"


def _files(subject: Subject, written: Sequence[Written]) -> list[str]:
    unit = "in images from 0 to 1" if subject.maker.is_images else "in points"
    rows = [f"| `{each.file}` | {each.format} | {each.difference:.1e} |" for each in written]
    return [
        "## Files",
        "",
        "Each file was read again and compared with the run on the latents of seeds 0 to 15, "
        f"{unit}.",
        "",
        *_table("file", "format", "largest difference"),
        *rows,
        "",
    ]


def _interface(subject: Subject, written: Sequence[Written]) -> list[str]:
    maker, names = subject.maker, subject.maker.classes.names
    latent = ", ".join(map(str, ("B", *maker.gen.shape.main)))
    shape = ", ".join(map(str, ("B", *maker.gen.shape.output)))
    lines = [
        "## Inputs and outputs",
        "",
        f"- `z`: float32 [{latent}], standard normal, for any batch size B.",
    ]
    if num := maker.choice:
        lines.append(
            f"- The last {num} numbers of `z` are a choice of one in {num}: the generator sees "
            "only which of them is the greatest."
        )
    if names:
        named = [f"{i} {name}" for i, name in enumerate(names) if name != str(i)]
        classes = ", ".join(named) or f"0 to {len(names) - 1}"
        lines.append(f"- `labels`: int64 [B], the numbers of the classes: {classes}.")
    if not maker.is_images:
        return [*lines, f"- Result: points, float32 [{shape}].", ""]
    lines.append(
        f"- Result of `generator.pt2` and `generator.onnx`: images, float32 [{shape}], from 0 "
        "(black) to 1 (white)."
    )
    if any(each.format == "safetensors" for each in written):
        lines.append(
            f"- Result of the module in `generator.safetensors`: the same from {maker.low:g} "
            "(black) to 1 (white)."
        )
    return [*lines, "", "Batch norms take their running averages, and dropout is off.", ""]


def _programs(subject: Subject, written: Sequence[Written]) -> list[str]:
    lines = ["## Loading", ""]
    for each in written:
        needs = {
            "torch": f"needs torch {'.'.join(torch.__version__.split('.')[:2])} or later",
            "onnx": "needs onnxruntime",
            "safetensors": f"needs fgan {fgan.__version__}, for its networks",
        }[each.format]
        lines += [f"`{each.file}` {needs}:", "", "```python"]
        lines += [loading(each.format, subject) + "```", ""]
    return lines


def _data(subject: Subject) -> list[str]:
    about = subject.about.get("data")
    examples = about.get("examples") if isinstance(about, dict) else None
    count = f", {examples:,} examples" if type(examples) is int else ""
    return [
        "## Data",
        "",
        f"- Trained on: `{subject.config.data}`{count}.",
        f"- Licence of the data: {LICENCES.get(subject.config.data, UNKNOWN)}.",
        f"- Licence of this model: {UNKNOWN}.",
        f"- Intended use and limits: {UNKNOWN}.",
        "",
    ]


def _training(subject: Subject) -> list[str]:
    settings = configs.as_dict(subject.config)
    usual = defaults(settings)
    changed = [
        f"| `{row.flag}` | {shown(settings[name])} | {shown(usual.get(name))} |"
        for name, row in OPTIONS.items()
        if is_changed(row, settings, usual)
    ]
    count = sum(p.numel() for p in subject.program.parameters())
    where = f", member {subject.member}" if subject.member is not None else ""
    return [
        "## Training",
        "",
        f"- Networks: {subject.config.arch}, a generator of {count:,} parameters.",
        f"- Steps: {subject.about.get('step')}, from `{subject.file.name}`{where}.",
        f"- SHA-256 of the checkpoint: {subject.about.get('sha256')}.",
        "",
        "Options that are not the defaults of `fgan train` for these data and networks:"
        if changed
        else "All options are the defaults of `fgan train` for these data and networks.",
        "",
        *([*_table("option", "value", "default"), *changed, ""] if changed else []),
    ]


def _metrics(subject: Subject) -> list[str]:
    home = home_of(subject.file)
    step, sha256 = subject.about.get("step"), subject.about.get("sha256")
    rows = []
    for line in kept.evaluations(home) if home else []:
        own = line["step"] == step and line.get("sha256", sha256) == sha256
        if own and line.get("member") == subject.member:
            rows += [_row(line, name, value) for name, value in line["values"].items()]
    if not rows:
        return ["## Metrics", "", "None were computed before the export: see `fgan evaluate`.", ""]
    head = ("metric", "value", "95 % interval", "samples", "against", "protocol")
    return ["## Metrics", "", *_table(*head), *rows, ""]


def _row(line: dict[str, Any], name: str, value: Any) -> str:
    ends = line["intervals"].get(name)
    interval = f"{ends[0]:.4g} to {ends[1]:.4g}" if ends else ""
    cut = f", cut off at {line['truncation']:g}" if "truncation" in line else ""
    return (
        f"| {line['metric']}.{name} | {said(value, 'not finite')} | {interval} | "
        f"{line['samples']:,}{cut} | "
        f"{line['against']} | {line['protocol']} |"
    )


def _versions(subject: Subject) -> list[str]:
    now = {
        "fgan": fgan.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    rows = [f"| {name} | {subject.about.get(name)} | {here} |" for name, here in now.items()]
    return ["## Versions", "", *_table("", "training", "export"), *rows]


def _table(*head: str) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
