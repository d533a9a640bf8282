"""Published results, obtained again: the presets of ``fgan reproduce``.

A preset trains what a paper trained, as a population over its trials, by the paper's protocol,
and returns rows of published and obtained values, each with its tolerance. `ALL` is the table of
presets; their pages are

- `fgan.run.reproduce.games`: games of two numbers, against formulas;
- `fgan.run.reproduce.selftests`: metrics, against values that their authors publish;
- `fgan.run.reproduce.mixtures`: modes of Gaussian mixtures in the plane;
- `fgan.run.reproduce.digits`: MNIST;
- `fgan.run.reproduce.stacked`: three digits as the channels of an image, 1 000 modes.

Nothing is tuned on test data, and a value outside of its tolerance is reported like any other.
Names are loaded when they are first used, so that the table needs no torch.
"""

from __future__ import annotations

import importlib
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import fgan
from fgan.disk import files, machine
from fgan.errors import ConfigError, near
from fgan.run.reproduce.rows import Bound, Reproduced, Row, Size, Trial, as_facts
from fgan.run.summary import said

if TYPE_CHECKING:
    import torch

__all__ = ["ALL", "Bound", "Preset", "Reproduced", "Row", "Size", "Trial", "check", "reproduce"]


class Preset(NamedTuple):
    """A published result.

    Attributes:
        function: "page:function", a function of a `Trial` that returns a `Reproduced`.
        about: data, networks and methods in a few words.
        paper: where the published values are.
        seeds: the number of trials in the paper, or that the mean is taken over here; 0 for a
            preset in which nothing is random.
        quick, full: the time that the preset takes on two CPU cores, found from the processor time
            of a run, or estimated from the operations of a step where it was not run.
    """

    function: str
    about: str
    paper: str
    seeds: int
    quick: str
    full: str


ALL: dict[str, Preset] = {
    "bilinear": Preset(
        "games:bilinear",
        "min max x y by five methods, against closed forms",
        "Gidel et al. 2019; Schaefer and Anandkumar 2019; Balduzzi et al. 2018",
        0,
        "6 s",
        "6 s",
    ),
    "dirac": Preset(
        "games:dirac",
        "the Dirac-GAN: distance after 500 steps, 8 methods x 3 schedules; what converges locally",
        "Mescheder, Geiger and Nowozin 2018, section 3 and table 1",
        0,
        "25 s",
        "35 s",
    ),
    "metric-selftests": Preset(
        "selftests:metric_selftests",
        "precision, recall, density, coverage, Fréchet, kernel and Parzen on known sets",
        "Naeem et al. 2020, README; Theis et al. 2016, table 1; closed forms",
        0,
        "20 s",
        "3 min",
    ),
    "grid-r1r2": Preset(
        "mixtures:grid_r1r2",
        "25 Gaussians: three games with and without R1 and R2",
        "Zhang et al., Dive into Deep Learning, section 16.4",
        8,
        "15 min",
        "1 h",
    ),
    "pacgan-ring": Preset(
        "mixtures:pacgan_ring",
        "8 Gaussians on a ring: GAN and PacGAN2",
        "Lin et al. 2018, table 1",
        10,
        "9 min",
        "a day (not run)",
    ),
    "goodfellow2014": Preset(
        "digits:goodfellow2014",
        "MNIST, maxout with dropout: Parzen-window log-likelihood",
        "Goodfellow et al. 2014, table 1",
        5,
        "6 min",
        "4 h (not run)",
    ),
    "pacgan-grid": Preset(
        "mixtures:pacgan_grid",
        "25 Gaussians on a grid: GAN, PacGAN2 and PacGAN4",
        "Lin et al. 2018, table 1",
        10,
        "15 min (not run)",
        "2 days (not run)",
    ),
    "cond-dcgan-1nn": Preset(
        "digits:cond_dcgan_1nn",
        "MNIST, conditional DCGAN: 1-NN on generated digits",
        "Radford et al. 2016, table 3",
        3,
        "hours (not run)",
        "a GPU (not run)",
    ),
    "stacked-mnist": Preset(
        "stacked:stacked_mnist",
        "1 000 modes: DCGAN, PacDCGAN2, and R1 and R2",
        "Lin et al. 2018, table 2; Huang et al. 2024, section 2.4",
        10,
        "hours (not run)",
        "a GPU (not run)",
    ),
    "unrolled-stacked": Preset(
        "stacked:unrolled_stacked",
        "1 000 modes with tiny networks: DCGAN, unrolled, Pac4",
        "Lin et al. 2018, table 3",
        10,
        "hours (not run)",
        "a GPU (not run)",
    ),
}
"""The presets by name, from those that take seconds to those that take days."""


def check(name: str, seeds: int | None) -> None:
    """Refuse a name that no preset has, and seeds where nothing is random.

    Raises:
        ConfigError: for either, and for fewer than one seed.
    """
    if name not in ALL:
        raise ConfigError(
            f"No preset is called {name}{near(name, ALL)}.", f"Use one of {', '.join(ALL)}."
        )
    if seeds is not None and not ALL[name].seeds:
        raise ConfigError(f"--seeds: nothing is random in {name}.", "Leave --seeds out.")
    if seeds is not None and seeds < 1:
        raise ConfigError(f"--seeds is at least 1, not {seeds}.", "Leave it out, as the paper has.")


def reproduce(
    name: str,
    *,
    size: Size = "full",
    seeds: int | None = None,
    device: str = "auto",
    compile: bool = True,
    out: Path | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run a preset.

    Args:
        name: one of `ALL`.
        size: how much of its protocol is run.
        seeds: the number of trials; None for as many as the preset has.
        device, compile: as in ``fgan train``.
        out: a JSON file for the result, which is written anew whenever something is known, so
            that a run that is cut off leaves its curves.
        notify: is told of the progress.
    Returns:
        The result as JSON can hold it: the ``preset`` and what it is about, ``size``, ``seeds``,
        the ``rows``, which have the fields of `Row` and whether they are ``inside``, the
        ``deviations`` from the paper's protocol, the ``curves`` through training, ``seconds``, the
        ``machine``, and whether it is ``finished``.
    Raises:
        ConfigError: as `check`, or for a text that names no device.
        DeviceError: for a device that this machine does not have, or no compiler.
    """
    check(name, seeds)
    from fgan.run import assemble

    where = assemble.find_device(device)
    preset = ALL[name]
    trials = preset.seeds if seeds is None else seeds
    begun = time.perf_counter()
    found: dict[str, Any] = {
        "preset": name,
        "about": preset.about,
        "paper": preset.paper,
        "size": size,
        "seeds": trials,
        "finished": False,
        "machine": _machine(where),
        "rows": [],
        "deviations": [],
        "curves": {},
    }

    def keep() -> None:
        found["seconds"] = round(time.perf_counter() - begun, 1)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(out, json.dumps(found, indent=1) + "\n")

    def note(label: str, facts: dict[str, Any]) -> None:
        found["curves"].setdefault(label, []).append(facts)
        keep()
        told = ", ".join(f"{key} {said(value, 'None')}" for key, value in facts.items())
        notify(f"{name}, {label}: {told} ({found['seconds']:.0f} s)")

    notify(f"{name}: {preset.about}; {preset.quick} with --quick, {preset.full} in full")
    page, _, function = preset.function.partition(":")
    run = getattr(importlib.import_module(f"fgan.run.reproduce.{page}"), function)
    result: Reproduced = run(Trial(size, trials, where, compile, note))
    own = [] if trials == preset.seeds else [f"{trials} trials, not {preset.seeds}"]
    found["rows"] = [as_facts(row) for row in result.rows]
    found["deviations"] = [*own, *result.deviations]
    found["inside"] = all(row.inside for row in result.rows)
    found["finished"] = True
    keep()
    return found


def _machine(device: torch.device) -> dict[str, Any]:
    """The hardware and the versions that a result belongs to."""
    import torch

    on_gpu = device.type == "cuda"
    return {
        "fgan": fgan.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "os": platform.platform(),
        "device": torch.cuda.get_device_name(device) if on_gpu else machine.cpu_model(),
        "cores": machine.num_cpus(),
        "threads": torch.get_num_threads(),
    }
