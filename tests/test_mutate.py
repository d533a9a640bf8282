"""The tool that changes a module says which changes no test notices, and leaves the tree alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOP = '''"""A shop."""


def price(units, each=2.5, *, discount=0.0):
    if units <= 0:
        raise ValueError("no units")
    total = units * each
    if discount:
        total = total - total * discount
    return total


def bill(units, discount, cheap=False):
    return price(units, discount=discount) if not cheap else 0


def first_and_last(row):
    first, last = row[0], row[-1]
    return first, last


def never_called():
    return 1 + 1
'''
WEAK = """from shop import goods


def test_bill():
    assert goods.bill(4, 0.5) == 5
    goods.first_and_last("ab")


def test_that_fails_as_it_is():
    assert goods.price(1) == 0
"""
STRONG = """import pytest

from shop.goods import bill, first_and_last, price


def test_prices():
    assert (price(1), price(4), price(4, 3.0)) == (2.5, 10, 12)
    assert price(4, discount=0.5) == 5
    assert (bill(4, 0.5), bill(4, 0.5, True)) == (5, 0)
    assert first_and_last("abc") == ("a", "c")
    with pytest.raises(ValueError, match="no units"):
        price(0)
"""
TOOL = Path(__file__).parent / "mutate.py"


def found(folder: Path, tests: str, *options: str) -> tuple[int, str]:
    """Run the tool on the module with these tests: its status, and what it says."""
    for name, text in (("shop/goods.py", SHOP), ("tests/test_goods.py", tests)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    done = subprocess.run(
        [sys.executable, str(TOOL), "shop/goods.py", *options],
        cwd=folder, env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (folder / "shop/goods.py").read_text() == SHOP
    return done.returncode, done.stdout + done.stderr


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="tries are forks")


def test_survivors_are_listed_where_tests_are_weak(tmp_path):
    code, said = found(tmp_path, WEAK)
    assert code == 1
    assert "left out, for it fails as it is: tests/test_goods.py::test_that_fails_as_it_is" in said
    for survivor in (
        "SURVIVED shop/goods.py:4\n    - def price(units, each=2.5, *, discount=0.0):\n"
        "    + def price(units, each=2.5, *, discount=1):",
        "SURVIVED shop/goods.py:5\n    -     if units <= 0:\n    +     if (units < 0):",
        "SURVIVED shop/goods.py:6\n    -         raise ValueError",
        "SURVIVED shop/goods.py:19\n    -     return first, last\n    +     return last, last",
        "SURVIVED shop/goods.py:23, which no test calls",
    ):
        assert survivor in said
    for caught in ("price(units, )", "(total + total", "cheap=True"):
        assert caught not in said


def test_what_survives_a_strong_test_is_what_nobody_calls(tmp_path):
    code, said = found(tmp_path, STRONG)
    assert code == 1
    survivors = [line for line in said.splitlines() if line.startswith("SURVIVED")]
    assert {line.split(":")[1].split(",")[0] for line in survivors} == {"23"}
    code, said = found(tmp_path, STRONG, "--sample", "3", "--seed", "1")
    assert "3 of " in said
    code, said = found(tmp_path, "def test(): pass")
    assert code == 1
    assert "No test uses shop/goods.py" in said
