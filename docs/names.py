"""The public names of fgan, where each is defined, and what its docstring says.

Read from the source, which is not run: a name is followed through imports as Python would
follow it.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(str(importlib.util.find_spec("fgan").origin)).parent  # type: ignore[union-attr]
FLOORS = {
    "Ground": ("types", "pytree", "rng", "schedules", "scalars", "errors"),
    "Parts of a game": ("losses", "terms", "augment", "optim", "ema", "model", "nets"),
    "The game": ("game",),
    "Tools": ("compile", "data", "disk", "metrics"),
    "The run": ("run",),
}
OPEN = ("game", "disk", "run")  # folders whose files have a page each
ALONE = ("fgan.compile.environment",)  # must be imported before torch, and so from its file
REFERENCE = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)(?:\(\))?`(?!`)")


class Place(NamedTuple):
    """Where something is defined: a module, and a name in it, which may be a class's member."""

    module: str
    name: str = ""
    member: str = ""


class Source(NamedTuple):
    """A module as it is written."""

    tree: ast.Module
    lines: list[str]
    defined: dict[str, ast.stmt]
    imported: dict[str, tuple[str, str]]  # name -> module, and the name there; "" for the module
    docs: dict[str, str]  # the text below an assignment


@functools.cache
def source(module: str) -> Source | None:
    """A module of the package; None where there is none of that name."""
    top, *rest = module.split(".")
    path = ROOT.joinpath(*rest, "__init__.py")
    if not path.is_file():
        path = path.parent.with_name(path.parent.name + ".py")
    if top != "fgan" or not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    found = Source(tree, text.splitlines(), {}, {}, {})
    for node in tree.body:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            for inner in node.body:
                _note(found, inner)
        _note(found, node)
    for node, below in zip(tree.body, tree.body[1:], strict=False):
        value = below.value if isinstance(below, ast.Expr) else None
        if _assigned(node) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            found.docs[_assigned(node)] = inspect.cleandoc(value.value)
    return found


def _note(found: Source, node: ast.stmt) -> None:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        found.defined[node.name] = node
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            here = alias.asname or alias.name
            module = str(node.module) if isinstance(node, ast.ImportFrom) else ""
            found.imported[here] = (module, alias.name) if module else (alias.name, "")
    elif name := _assigned(node):
        found.defined[name] = node


def _assigned(node: ast.stmt) -> str:
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else ""


def members(node: ast.AST) -> dict[str, ast.stmt]:
    """The methods, properties and fields that a class defines, by name."""
    inner = node.body if isinstance(node, ast.ClassDef) else []
    named = {getattr(n, "name", "") or _assigned(n): n for n in inner}
    return {name: n for name, n in named.items() if name}


def walk(full_name: str) -> Place | None:
    """The place that a dotted name from ``fgan`` on leads to, through imports."""
    top, *names = full_name.split(".")
    return _within("fgan", names) if top == "fgan" else None


def _within(module: str, names: list[str]) -> Place | None:
    here = source(module)
    if here is None or not names:
        return Place(module) if here else None
    name, *below = names
    if name in here.defined and below[1:] == [] and set(below) <= set(members(here.defined[name])):
        return Place(module, name, *below)
    origin = here.imported.get(name, (module, name))
    # A folder's names come before its files of the same name, as they do in Python.
    if origin != (module, name):
        further = [part for part in (origin[1], *below) if part]
        if place := _within(origin[0], further):
            return place
    return _within(f"{module}.{name}", below)


def find(reference: str, scope: Place) -> Place | None:
    """The place that a name means in a module, or in a class of one; None if it means none."""
    module, owner, _ = scope
    candidates = [f"{module}.{owner}.{reference}"] if owner else []
    candidates += [f"{module}.{reference}", f"{module.rpartition('.')[0]}.{reference}", reference]
    return next((place for name in candidates if (place := walk(name))), None)


def public(module: str) -> list[str]:
    """The names in a module's ``__all__``, else all it defines; constants only if described."""
    here = source(module)
    assert here is not None
    listed = here.defined.get("__all__")
    if isinstance(listed, ast.Assign) and isinstance(listed.value, ast.List):
        return list(ast.literal_eval(listed.value))
    if listed:  # made of names that are loaded when first used
        return sorted(n for n, (origin, _) in here.imported.items() if origin.startswith("fgan"))
    return [
        name
        for name, node in here.defined.items()
        if not name.startswith("_")
        and (isinstance(node, ast.FunctionDef | ast.ClassDef) or name in here.docs)
    ]


def pages() -> list[str]:
    """The modules that have a page, from the ground up."""
    found = []
    for name in (name for floor in FLOORS.values() for name in floor):
        page = f"fgan.{name}"
        files = sorted(map(_page_name, (ROOT / name).glob("[!_]*"))) if name in OPEN else []
        found += [page, *(f"{page}.{file}" for file in files if file)]
        found += [alone for alone in ALONE if alone.startswith(f"{page}.")]
    return found


def _page_name(path: pathlib.Path) -> str:
    """The name of a file or of a folder of files; "" for what is no module."""
    return path.stem if path.suffix == ".py" or (path / "__init__.py").is_file() else ""


@functools.cache
def homes() -> dict[Place, str]:
    """The page that describes each public name: the folder's rather than the file's."""
    found: dict[Place, str] = {}
    for page in sorted(pages(), key=lambda page: page.count(".")):
        for name in public(page):
            place = walk(f"{page}.{name}")
            assert place is not None, f"{page}.{name} is nowhere defined"
            found.setdefault(place, page)
    return found


def node(place: Place) -> ast.Module | ast.stmt:
    """Where something is defined, as it is written."""
    here = source(place.module)
    assert here is not None
    if not place.name:
        return here.tree
    found = here.defined[place.name]
    return members(found)[place.member] if place.member else found


def docstring(place: Place) -> str:
    """The docstring of a module, a name or a class's member; "" if it has none."""
    here, found = source(place.module), node(place)
    if isinstance(found, ast.Module | ast.FunctionDef | ast.ClassDef):
        return ast.get_docstring(found) or ""
    return here.docs.get(place.name, "") if here and not place.member else ""


def summary(place: Place) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(docstring(place).partition("\n\n")[0].split())


def comment(module: str, node: ast.stmt) -> str:
    """The comment behind a statement of one line."""
    here = source(module)
    assert here is not None
    return (
        here.lines[node.lineno - 1].partition("  # ")[2] if node.lineno == node.end_lineno else ""
    )


def is_code(paragraph: str) -> bool:
    """Whether a paragraph of a docstring is shown as it is: an indented block, or a doctest."""
    return paragraph.startswith(("    ", ">>> "))


def everything() -> Iterator[Place]:
    """All that may have a docstring in the package, public or not."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(["fgan", *(part for part in parts if part != "__init__")])
        here = source(module)
        assert here is not None
        yield Place(module)
        for name, node in here.defined.items():
            yield Place(module, name)
            yield from (Place(module, name, member) for member in members(node))


def dangling() -> list[str]:
    """The references that lead nowhere: names between single backticks in a docstring."""
    found = []
    for place in everything():
        paragraphs = re.split(r"\n[ \t]*\n", docstring(place))
        for text in (text for text in paragraphs if not is_code(text)):
            names = (match[1] for match in REFERENCE.finditer(text))
            found += [f"{'.'.join(place)}: {n}" for n in names if not find(n, place)]
    return found
