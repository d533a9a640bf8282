"""The examples of the documentation run as they stand, each by itself."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
EXAMPLES = {
    section.split("\n")[0]: code
    for section in SECTIONS
    for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
}


def test_every_section_has_an_example():
    assert len(EXAMPLES) >= 6
    assert len(SECTIONS) == TEXT.count("```python\n") == len(EXAMPLES)
    assert "(docs/examples.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name):
    code = EXAMPLES[name]
    assert "\nassert " in code
    assert len(code.splitlines()) < 60
    assert max(len(line) for line in code.splitlines()) <= 100
    exec(code, {"__name__": "example"})  # noqa: S102
