"""The programs of docs/methods: each runs, is one graph, and is a population under ``vmap``.

A page is a few sentences and one program, which defines ``init(key) -> state``,
``inputs(key, t) -> everything the step takes beside the state``, the pure function
``step(state, *inputs) -> (state, metrics)``, and ``main(num_steps)``, which trains on toy data.
``main`` may return a number that is smaller the better the method has worked.
"""

from __future__ import annotations

import functools
import pathlib
import re
import sys
import types

import pytest
import torch
from support import assert_near, assert_same, copy_tree, distance

import fgan
from fgan import pytree, rng
from fgan.compile import compile_function
from fgan.compile.graph import count_graphs

FOLDER = pathlib.Path(__file__).parent.parent / "docs" / "methods"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md"))
STEPS = 3
# The most that `main()` of a page may return.
GOALS = {
    "bigan": 0.1,
    "hypergradient": 1e-4,
    "cyclegan": 0.1,
    "acgan": 0.02,
    "conditional-projection": 0.02,
    "mad-gan": 0.05,
    "own-run": 0.5,
    "path-length": 0.75,
    "per-layer-rates": 0.1,
    "r3gan": 0.5,
    "wgan-gp": 0.1,
}
# How far apart a population and its members trained alone may be after STEPS steps in float64,
# where products are summed in another order. Only matrix products in 16 bits show more of that.
APART = {"bfloat16": 2e-2}
# Inductor is tried on few pages here: what fgan's graphs have in them, test_compile tries.
INDUCTOR = ("acgan", "ada", "cyclegan", "lecam", "spectrum", "wgan-gp")
# Dynamo takes up to a quarter of a minute for a page: the others are marked slow.
FAST = ("bigan",)


@functools.cache
def text(page):
    return (FOLDER / f"{page}.md").read_text(encoding="utf-8")


@functools.cache
def code(page):
    blocks = re.findall(r"^```python\n(.*?)^```$", text(page), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1
    return blocks[0]


@functools.cache
def program(page):
    """The names that a page defines."""
    module = types.ModuleType(f"page_{page.replace('-', '_')}")
    sys.modules[module.__name__] = module  # Dynamo finds a function's globals by this name
    exec(compile(code(page), f"{page}.md", "exec"), vars(module))  # noqa: S102
    return vars(module)


def double(tree):
    return pytree.to(tree, dtype=torch.float64)


def first_state(page, seed):
    return program(page)["init"](rng.key(seed))


def play(page, step, state, seed=0, cast=lambda tree: tree, first=0):
    """The state after each step, and its metrics."""
    history = []
    for t in range(first, STEPS):
        state, metrics = step(state, *cast(program(page)["inputs"](rng.key(seed), t)))
        history.append((state, metrics))
    return history


def test_there_are_pages():
    assert PAGES
    assert set(GOALS) | set(INDUCTOR) <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_one_short_program(page):
    lines = code(page).splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 100
    assert text(page).startswith("# ")
    assert lines[-2:] == ['if __name__ == "__main__":', "    main()"]
    assert {"init", "inputs", "step", "main"} <= program(page).keys()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page, quick_compiler):
    program(page)["main"](3)


@pytest.mark.parametrize("page", PAGES)
def test_the_step_of_a_page_is_pure_and_moves_the_state(page):
    state, given = first_state(page, 0), program(page)["inputs"](rng.key(0), 0)
    before = copy_tree((state, given))
    new, metrics = program(page)["step"](state, *given)
    assert_same((state, given), before)
    assert_same(program(page)["step"](state, *given), (new, metrics))
    pytree.check_like(new, state, "the state after a step")
    pytree.check_tensors(metrics, "metrics")
    assert distance(new, state) > 0
    assert pytree.all_finite(new)
    assert not any(leaf.requires_grad for leaf in pytree.leaves((new, metrics)))


@pytest.mark.parametrize("page", PAGES)
def test_the_step_of_a_page_is_one_graph_for_compile_step(page, fresh_dynamo):
    step, before = program(page)["step"], count_graphs()
    found = play(page, compile_function(step, backend="eager"), first_state(page, 0))
    assert count_graphs() == before + 1
    # The same operations in the same order; Adam makes a step of what rounding is left.
    assert_near(found, play(page, step, first_state(page, 0)), 1e-6, 1e-5, equal_nan=True)


@pytest.mark.parametrize(
    "page", [page if page in FAST else pytest.param(page, marks=pytest.mark.slow) for page in PAGES]
)
def test_the_step_of_a_page_is_one_graph_for_torch_compile(page, fresh_dynamo):
    step = program(page)["step"]
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    found = play(page, compiled, first_state(page, 0))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert_near(found, play(page, step, first_state(page, 0)), 1e-6, 1e-5, equal_nan=True)


@pytest.mark.parametrize("page", PAGES)
def test_a_population_of_a_page_is_its_members(page):
    step, inputs = program(page)["step"], program(page)["inputs"]
    alone = [play(page, step, double(first_state(page, i)), i, cast=double) for i in range(2)]
    states = pytree.stack([double(first_state(page, i)) for i in range(2)])
    many = torch.func.vmap(step, randomness="error")
    for t in range(STEPS):
        given = pytree.stack([double(inputs(rng.key(i), t)) for i in range(2)])
        states, metrics = many(states, *given)
        expected = pytree.stack([each[t] for each in alone])
        atol = APART.get(page, 1e-9)
        assert_near((states, metrics), expected, atol, atol, equal_nan=True)


@pytest.mark.parametrize("page", PAGES)
def test_the_training_of_a_page_goes_on_exactly(page, tmp_path):
    """Conditions, memories, augmentation, several players, a state of one's own: all come back."""
    step, state = program(page)["step"], first_state(page, 0)
    whole = play(page, step, state)
    with fgan.Run(tmp_path, like=state) as run:
        run.save(whole[0][0], step=1)
    with fgan.Run(tmp_path, like=state) as run:
        state, done = run.resume()
    assert done == 1
    assert_same(play(page, step, state, first=done), whole[1:])


@pytest.mark.slow
@pytest.mark.parametrize("page", INDUCTOR)
def test_the_compiled_step_of_a_page(page, fresh_dynamo):
    step, before, state = program(page)["step"], count_graphs(), double(first_state(page, 0))
    found = play(page, compile_function(step), state, cast=double)
    assert count_graphs() == before + 1
    # Fusion changes the order of sums, which float64 hardly shows.
    assert_near(found, play(page, step, state, cast=double), 1e-9, 1e-9, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", GOALS)
def test_a_page_shows_what_it_says(page):
    assert program(page)["main"]() < GOALS[page]


def test_pages_are_shorter_than_the_same_in_equinox():
    """As the README counts them: lines of code, without blank ones and the docstring."""

    def count(program):
        body = re.sub(r'^""".*?"""', "", program, flags=re.DOTALL)
        return sum(bool(line.strip()) for line in body.splitlines())

    told = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    ours, theirs = re.search(r"take ([\d, and]+) lines of code, and ([\d, and]+) in", told).groups()
    others = FOLDER.parents[1] / "benchmarks" / "equinox"
    for page, own, other in zip(
        ("wgan-gp", "acgan", "lecam"),
        re.findall(r"\d+", ours), re.findall(r"\d+", theirs), strict=True,
    ):  # fmt: skip
        program = (others / f"{page.replace('-', '_')}.py").read_text(encoding="utf-8")
        assert (count(code(page)), count(program)) == (int(own), int(other))
        assert int(own) < int(other)
