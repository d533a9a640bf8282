"""The programs of the documentation run as they stand."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
OWN_STEP = BLOCK.findall((ROOT / "docs" / "your-own-step.md").read_text(encoding="utf-8"))
SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
EXAMPLES = {section.split("\n")[0]: code for section in SECTIONS for code in BLOCK.findall(section)}


def test_every_section_has_an_example():
    assert len(EXAMPLES) >= 6
    assert len(SECTIONS) == TEXT.count("```python\n") == len(EXAMPLES)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(docs/examples.md)" in readme
    assert "(docs/your-own-step.md)" in readme
    assert len(OWN_STEP) == 3


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, quick_compiler):
    run([EXAMPLES[name]])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["A network", "A sweep"])
def test_an_example_compiles(name):
    run([EXAMPLES[name]])


def test_your_own_step_is_the_step_and_another():
    """All but the last program, which compiles."""
    run(OWN_STEP[:-1])


@pytest.mark.slow
def test_your_own_step_compiles(fresh_dynamo):
    assert "torch.compile(population, fullgraph=True)" in OWN_STEP[-1]
    run(OWN_STEP)


def run(programs):
    """Run programs that continue one another."""
    assert programs
    names = {"__name__": "example"}
    for code in programs:
        assert "\nassert " in code
        assert len(code.splitlines()) < 60
        assert max(len(line) for line in code.splitlines()) <= 100
        exec(code, names)  # noqa: S102
