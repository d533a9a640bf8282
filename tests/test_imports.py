"""The floors of the house: imports go down only, and the lower floors touch no files."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fgan

PACKAGE = Path(fgan.__file__).parent

# The tree is the architecture: a module or folder imports from lower floors only, and never from
# its neighbours.
FLOORS = (
    ("errors",), ("pytree",), ("scalars", "types"), ("rng", "schedules"),
    ("augment", "ema", "losses", "model", "optim", "terms"), ("nets",),
    ("game",),
    ("disk",), ("compile", "data", "metrics"),
    ("run",),
)  # fmt: skip
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
GAME, PROGRAM = LEVEL["game"], LEVEL["run"]
OUTSIDE = {"cli", "fgan_benchmarks", "fgan_cli", "tests", "benchmarks", "typer", "rich"}
# What a pure module does not import: files, clocks, processes, the terminal, other generators.
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
    """What a file of the module or folder ``room`` does that it must not."""
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
                found.append(f"imports {name}, which is on no floor")
            elif other != room and LEVEL[other] >= level:
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


# The package's own table of names, and the door to the command, are on no floor.
NO_FLOOR = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p not in NO_FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_keeps_to_its_floor(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    assert parts[0] in LEVEL, f"{path.name} is on no floor: give it one in FLOORS"
    package = ["fgan", *parts[:-1]]
    allowed = WATCHES.get(path.relative_to(PACKAGE).as_posix(), [])
    assert sorted(violations(parts[0], path.read_text(encoding="utf-8"), package)) == allowed


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("rng", "from fgan.model import Model"),
        ("rng", "import numpy"),
        ("rng", "from fgan import schedules"),
        ("errors", "import torch"),
        ("losses", "from fgan.model import Model"),
        ("losses", "from fgan import nets"),
        ("model", "from fgan import nets"),
        ("optim", "from fgan.game import make_step"),
        ("optim", "from torch.utils import _pytree"),
        ("nets", "import torch.utils._pytree as tree"),
        ("game", "from fgan.run.config import TrainConfig"),
        ("game", "from fgan import data"),
        ("game", "import time"),
        ("game", "open('x')"),
        ("model", "def f(x):\n    return x.item()"),
        ("ema", "from pathlib import Path"),
        ("data", "from fgan.compile import compile_step"),
        ("disk", "from ..fgan.run import config"),
        ("data", "from . import nowhere"),
        ("run", "import fgan_cli"),
        ("run", "from cli import main"),
        ("run", "import typer"),
        ("game", "import fgan"),
        ("disk", "from fgan import data"),
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
        ("game", "from fgan.types import TrainState\nfrom fgan import losses"),
        ("data", "import numpy\nfrom fgan.errors import DataError\nopen('x')"),
        ("run", "import fgan\nfrom fgan import data\nfrom fgan.run import config"),
        ("disk", "from fgan.disk import files"),
    ],
)
def test_the_rules_allow(room, source):
    assert violations(room, source) == []


def test_the_root_is_a_page():
    """As many things as one sees at a glance; no file longer than one sitting."""
    here = [p for p in PACKAGE.iterdir() if p.name not in ("__pycache__", "py.typed")]
    assert sum(p.suffix == ".py" for p in here) <= 9
    assert sum(p.is_dir() for p in here) <= 12
    long = {p.name for p in FILES if len(p.read_text(encoding="utf-8").splitlines()) > 400}
    assert not long


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


def test_every_folder_of_the_package_is_installed():
    root = Path(__file__).parent.parent
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in (root / "fgan").rglob("__init__.py")}
    names = {".".join(folder.relative_to(root).parts) for folder in folders}
    assert {name for name in listed if name.split(".")[0] == "fgan"} == names
