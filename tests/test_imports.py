"""The rooms of the house: imports go down only, and the lower rooms touch no files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fgan

PACKAGE = Path(fgan.__file__).parent

ROOMS = {
    "ground": (
        "pytree", "rng", "types", "blocks", "errors", "checks", "names", "members", "scalars",
        "schedules",
    ),
    "parts": ("model", "nets", "optim", "losses", "penalties", "spectral", "ema"),
    "game": (
        "state", "orders", "game", "inputs", "objectives", "step", "several", "population",
        "per_example",
    ),
    "tools": (
        "environment", "files", "lock", "sealed", "cse", "toolchain", "replay",
    ),
    "services": ("compile", "products", "data", "checkpoint", "images", "rundir", "metrics"),
    "program": (
        "effects", "validate", "config", "recipes", "assemble", "stepping", "planning", "record",
        "resume", "inherit", "summary", "disturbed", "train", "sample", "inspect", "doctor", "bench",
    ),
}  # fmt: skip
LEVEL = {name: level for level, names in enumerate(ROOMS.values()) for name in names}
PARTS, GAME, SERVICES, PROGRAM = (
    list(ROOMS).index(r) for r in ("parts", "game", "services", "program")
)
BESIDE = {
    ("nets", "model"),
    ("spectral", "model"),
    ("compile", "products"),
}  # imports across one room of parts or services
OUTSIDE = {"cli", "fgan_cli", "tests", "benchmarks", "typer", "rich"}
# What a pure room does not import: files, clocks, processes, the terminal, other generators.
EFFECTS = {
    "datetime", "glob", "io", "logging", "os", "pathlib", "random", "shutil", "socket",
    "subprocess", "sys", "tempfile", "threading", "time",
}  # fmt: skip
# The one file that looks at other generators, to refuse a network that draws from them.
WATCHES = {"model/generators.py": ["imports random", "imports sys"]}
CALLS = {"open", "print", "input", "exec", "eval"}


def imported(tree: ast.AST, package: list[str]) -> set[str]:
    """Full names of what a file imports; ``from a import b`` counts as a.b."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            path = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{path}.{alias.name}" for alias in node.names}
    return names


def violations(room: str, source: str, package: list[str] | None = None) -> list[str]:
    """What a file of the module or subpackage ``room`` does that it must not."""
    tree, level = ast.parse(source), LEVEL[room]
    found = []
    for name in imported(tree, package or ["fgan"]):
        top, *rest = name.split(".")
        if top in OUTSIDE:
            found.append(f"imports {name} from outside")
        elif top == "fgan":
            other = rest[0] if rest else ""
            if not other and level == PROGRAM:
                continue  # for the version
            if other not in LEVEL:
                found.append(f"imports {name}, which is in no room")
            elif other != room and (room, other) not in BESIDE:
                same = LEVEL[other] == level and level in (PARTS, SERVICES)
                if LEVEL[other] > level or same:
                    found.append(f"imports {name} from beside or above")
        elif level <= GAME and (top in EFFECTS or top not in {*sys.stdlib_module_names, "torch"}):
            found.append(f"imports {name}")
        if name.startswith("torch.utils._pytree") or name == "torch.utils._pytree":
            found += [] if room == "pytree" else ["imports torch's trees"]
        if room == "errors" and top == "torch":
            found.append("imports torch")
    for node in ast.walk(tree):
        if level <= GAME and isinstance(node, ast.Call):
            function = node.func
            called = getattr(function, "id", getattr(function, "attr", ""))
            if (called in CALLS and isinstance(function, ast.Name)) or called == "item":
                found.append(f"calls {called}")
    return found


# The package's own table of names, and the door to the command, are in no room.
NO_ROOM = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p not in NO_ROOM)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_keeps_to_its_room(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    assert parts[0] in LEVEL, f"{path.name} has no room: give it one in ROOMS"
    package = ["fgan", *parts[:-1]]
    allowed = WATCHES.get(path.relative_to(PACKAGE).as_posix(), [])
    assert sorted(violations(parts[0], path.read_text(encoding="utf-8"), package)) == allowed


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("rng", "from fgan.model import Model"),
        ("rng", "import numpy"),
        ("errors", "import torch"),
        ("losses", "from fgan.model import Model"),
        ("losses", "from fgan import nets"),
        ("model", "from fgan import nets"),
        ("optim", "from fgan.step import make_step"),
        ("optim", "from torch.utils import _pytree"),
        ("nets", "import torch.utils._pytree as tree"),
        ("step", "from fgan.config import Config"),
        ("step", "from fgan import data"),
        ("step", "import time"),
        ("game", "open('x')"),
        ("model", "def f(x):\n    return x.item()"),
        ("ema", "from pathlib import Path"),
        ("data", "from fgan.compile import compile_step"),
        ("checkpoint", "from ..fgan.config import Config"),
        ("data", "from . import nowhere"),
        ("train", "import fgan_cli"),
        ("train", "from cli import main"),
        ("config", "import typer"),
        ("step", "import fgan"),
        ("files", "from fgan import checkpoint"),
    ],
)
def test_the_rules_bite(room, source):
    assert violations(room, source)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("nets", "from fgan.model import Model"),
        ("optim", "from fgan.optim.base import chain"),
        ("pytree", "from torch.utils import _pytree"),
        ("step", "from fgan.state import TrainState\nfrom fgan import losses"),
        ("data", "import numpy\nfrom fgan.errors import DataError\nopen('x')"),
        ("train", "import fgan\nfrom fgan import data, config"),
        ("checkpoint", "from fgan import files"),
    ],
)
def test_the_rules_allow(room, source):
    assert violations(room, source) == []


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_fgan_leaves_torch_out():
    code = "import sys, fgan, fgan.errors; print(dir(fgan) and 'torch' in sys.modules)"
    assert in_a_fresh_process(code) == "False"


def test_importing_everything_writes_nothing_and_prints_nothing():
    code = "import fgan\nfor name in fgan.__all__: getattr(fgan, name)"
    assert in_a_fresh_process(code) == ""


def test_public_names():
    for name in fgan.__all__:
        assert getattr(fgan, name) is not None
    assert dir(fgan) == fgan.__all__
    with pytest.raises(AttributeError, match="nothing"):
        fgan.nothing  # noqa: B018
