"""The reference has every public name, each described, and no link in it leads nowhere."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re
import sys

import pytest

import fgan

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import names  # noqa: E402
from names import Place  # noqa: E402

HOMES = names.homes()


def test_every_module_and_folder_is_on_a_page():
    tree = {
        p.stem for p in names.ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    floors = [name for floor in names.FLOORS.values() for name in floor]
    assert sorted(floors) == sorted(name for name in tree if not name.startswith("__"))
    assert {names.walk(page) for page in names.pages()} == {Place(page) for page in names.pages()}


@pytest.mark.parametrize("page", ["fgan", *names.pages()])
def test_the_names_of_a_page_are_those_of_the_module(page):
    module, listed = importlib.import_module(page), names.public(page)
    public = getattr(module, "__all__", listed)
    assert sorted(listed) == sorted(set(public) - {"__version__"})
    assert [name for name in listed if getattr(module, name, None) is None] == []


def test_every_public_name_says_what_it_is():
    assert len(HOMES) > 350
    silent = [place for place in HOMES if not names.docstring(place)]
    for place in (place for place in HOMES if place.name):
        for member, node in names.members(names.node(place)).items():
            if isinstance(node, ast.FunctionDef) and not member.startswith("_"):
                silent += (
                    [] if ast.get_docstring(node) else [Place(place.module, place.name, member)]
                )
    assert [".".join(part for part in place if part) for place in silent] == []


def test_every_reference_in_a_docstring_leads_somewhere():
    assert names.dangling() == []


@pytest.mark.parametrize(
    ("reference", "scope", "expected"),
    [
        ("make_step", Place("fgan.game.step"), Place("fgan.game.step", "make_step")),
        ("fgan.make_step", Place("fgan.optim"), Place("fgan.game.step", "make_step")),
        ("fgan.orders.Method", Place("fgan.rng"), Place("fgan.game.orders", "Method")),
        ("pytree.map", Place("fgan.ema"), Place("fgan.pytree", "map")),
        ("minimax", Place("fgan.losses.base"), Place("fgan.losses.logistic", "minimax")),
        ("relativistic", Place("fgan.losses"), Place("fgan.losses.relativistic", "relativistic")),
        ("fgan.data.loading.load", Place("fgan.rng"), Place("fgan.data.loading", "load")),
        ("order", Place("fgan.game.game", "Game"), Place("fgan.game.game", "Game", "order")),
        ("fgan.Game.order", Place("fgan.rng"), Place("fgan.game.game", "Game", "order")),
        ("fgan.game", Place("fgan.rng"), Place("fgan.game")),
        ("fgan", Place("fgan.rng"), Place("fgan")),
        ("order", Place("fgan.game.game"), None),
        ("fgan.Game.orders", Place("fgan.rng"), None),
        ("fgan.make_step.nothing", Place("fgan.rng"), None),
        ("fgan.nothing", Place("fgan.rng"), None),
        ("torch.compile", Place("fgan.rng"), None),
    ],
)
def test_a_reference_is_found_as_python_finds_it(reference, scope, expected):
    assert names.find(reference, scope) == expected


@pytest.fixture(scope="module")
def build():
    pytest.importorskip("pdoc", reason="the reference is built by pdoc: pip install '.[docs]'")
    return importlib.import_module("build")


@pytest.fixture(scope="module")
def site(build, tmp_path_factory):
    """The text of each page, by its path."""
    folder = tmp_path_factory.mktemp("reference")
    written = build.build(folder)
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in written}


def ids(text):
    found = re.findall(r' id="([^"]+)"', text)
    assert len(set(found)) == len(found)
    return set(found)


def test_no_page_is_missing(build, site):
    pages = [f"{page.replace('.', '/')}.html" for page in names.pages()]
    assert sorted(site) == sorted(
        [*pages, "index.html", *(f"{name}.html" for name in build.GUIDES)]
    )


def test_every_public_name_is_on_its_page(site):
    for place, home in HOMES.items():
        if place.name:
            assert place.name in ids(site[f"{home.replace('.', '/')}.html"]), place
    modules = {name for floor in names.FLOORS.values() for name in floor}
    assert set(fgan.__all__) - ids(site["index.html"]) <= modules | {"__version__"}


def test_every_link_leads_to_something(site):
    count = 0
    for path, text in site.items():
        for address in re.findall(r'href="([^"]+)"', text):
            if address.startswith("https://"):
                continue
            file, _, anchor = address.partition("#")
            target = path
            if file:
                parts = list(pathlib.PurePosixPath(path).parent.parts)
                for part in file.split("/"):
                    parts = parts[:-1] if part == ".." else [*parts, part]
                target = "/".join(parts)
            assert target in site, f"{path}: {address}"
            assert not anchor or anchor in ids(site[target]), f"{path}: {address}"
            count += 1
    assert count > 2000


def test_a_docstring_becomes_lists_and_links(build):
    text = """One line about `Game`, [B, *data] and a *b*.

        x < y

    Args:
        x, y: numbers
            below ``z``; see `fgan.ema`.
    Returns:
        Both.
    """
    shown = build.described(text.replace("\n    ", "\n"), Place("fgan.game.game"), "fgan.ema")
    assert (
        '<a href="../fgan/game.html#Game"><code>Game</code></a>, [B, *data] and a <em>b</em>.'
        in shown
    )
    assert "<pre><code>x &lt; y\n</code></pre>" in shown
    assert re.search(
        r'<p class="section">Args</p>\s*<ul>\s*<li><strong>x, y</strong>: numbers', shown
    )
    assert 'below <code>z</code>; see <a href="../fgan/ema.html"><code>fgan.ema</code>' in shown
    assert re.search(r'<p class="section">Returns</p>\s*<p>Both.</p>', shown)


def test_a_header_is_as_it_is_written(build):
    place = names.walk("fgan.game.game.terms_due")
    shown = build.header(names.node(place), "terms_due", place, "fgan.game")
    assert re.sub(r"<[^>]+>", "", shown) == "def terms_due(game: Game, step: int) -&gt; Due"
    assert '<a href="#Due">Due</a>' in shown


def test_a_reference_that_leads_nowhere_ends_the_build(build):
    with pytest.raises(SystemExit, match=r"fgan\.game: `no_such_name` leads nowhere"):
        build.described("See `no_such_name`.", Place("fgan.game"), "fgan.game")
