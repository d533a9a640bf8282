"""The tutorial and the page for users of other libraries run as they stand, and what files say."""

from __future__ import annotations

import pathlib
import re
import shlex
import tomllib

import numpy as np
import pytest
from PIL import Image

import fgan as library
from fgan.data.decode import FORMATS, MAX_PIXELS
from fgan.disk.sealed import MAX_HEADER_BYTES

ROOT = pathlib.Path(__file__).parent.parent
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
COMING = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
STAGES = BLOCK.findall(TUTORIAL)
RUNS_CODE = re.compile(
    r"(?<!safetensors\.)torch\.load\(|np\.load\((?!.*allow_pickle=False)|import pickle"
)


def run(programs):
    """Run programs that continue one another."""
    names = {"__name__": "page"}
    for code in programs:
        assert "\nassert " in code
        assert len(code.splitlines()) < 60
        assert max(len(line) for line in code.splitlines()) <= 100
        exec(code, names)  # noqa: S102
    return names


def test_the_tutorial_goes_from_the_loop_to_a_population():
    """All stages but the last, which compiles."""
    assert len(STAGES) == 5
    assert run(STAGES[:-1])["apart"] < 1e-10


@pytest.mark.slow
def test_the_tutorial_compiles(fresh_dynamo):
    run(STAGES)


def test_the_table_of_the_tutorial_is_filled_by_its_script():
    rows = re.findall(r"^\| \d \|.*\| ([\d.]+)(?:, [\d.]+×)? \|$", TUTORIAL, re.MULTILINE)
    script = (ROOT / "benchmarks" / "tutorial.py").read_text(encoding="utf-8")
    starts = re.findall(r'"(\| \d \|.*\|)"', script)
    assert len(rows) == len(starts) == 5
    assert all(f"\n{start} " in TUTORIAL for start in starts)
    assert re.search(r"^\*.*torch \d.*`python benchmarks/tutorial.py`\.\*$", TUTORIAL, re.MULTILINE)


@pytest.mark.parametrize("code", BLOCK.findall(COMING))
def test_the_programs_for_users_of_other_libraries(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run([code])


SMALL = ["--steps", "2", "--batch-size", "8", "--gen-hidden", "4", "--disc-hidden", "4", "-q"]


def test_the_commands_for_users_of_other_libraries(fgan, tmp_path):
    for name in ("bee", "cat"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for i in range(40):
            pixels = np.random.default_rng(i).integers(0, 256, (70, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "faces" / name / f"{i}.png")
    fgan("train", "ring", *SMALL, "--run-dir", "RUN")
    blocks = re.findall(r"```sh\n(.*?)```", COMING, re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(commands) >= 8
    for program, verb, *rest in commands:
        code, _, err = fgan(verb, *rest, *(["--dry-run"] if verb == "train" else []))
        assert (program, code) == ("fgan", 0), (verb, rest, err)


def test_options_beside_those_of_other_libraries_exist(fgan, monkeypatch):
    monkeypatch.setenv("COLUMNS", "900")
    known = set()
    for verb in ("train", "sample", "evaluate"):
        known |= set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", fgan(verb, "--help")[1]))
    ours = [line.split("|")[2] for line in COMING.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", " ".join(ours)))
    assert len(named) >= 20
    assert named <= known


def test_links_lead_to_files():
    for page in (ROOT / "docs" / "tutorial.md", ROOT / "docs" / "coming-from.md"):
        for link in re.findall(r"\]\(([\w/.-]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), link


def test_the_citation_has_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {library.__version__}\n" in text


def test_what_the_page_on_security_says_is_so():
    text = " ".join((ROOT / "SECURITY.md").read_text(encoding="utf-8").split())
    with open(ROOT / "pyproject.toml", "rb") as file:
        lint = tomllib.load(file)["tool"]["ruff"]["lint"]
    banned = lint["flake8-tidy-imports"]["banned-api"]
    assert {"pickle", "torch.load", "torch.save", "torch.jit.load"} <= banned.keys()
    assert MAX_HEADER_BYTES == 2**21
    assert "at most 2 MiB" in text
    assert MAX_PIXELS == 2**27
    assert {name.upper() for name in ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WebP", "PPM")} >= set(
        FORMATS
    )
    loads = {}
    for folder in ("fgan", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            code = path.read_text(encoding="utf-8")
            if RUNS_CODE.search(code):
                loads[path.name] = code
    assert set(loads) == {"inception.py"}
    assert "weights_only=True" in loads["inception.py"]


def test_the_files_of_the_newcomers_tasks_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tasks = text.partition("## Five first tasks")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\d\. \*\*", tasks, re.MULTILINE)) == 5
    for path in set(re.findall(r"`((?:fgan|tests|docs|benchmarks)/[\w/.-]+)`", tasks)):
        assert (ROOT / path).exists(), path
