"""Build the API reference: every public name of fgan, from the docstrings, as HTML.

    pip install '.[docs]' && python docs/build.py [FOLDER]

The pages are those of the tree (`names.pages`). A name between single backticks in a docstring is a
reference: it is looked up in the source as Python would look it up, and becomes a link. One that
leads nowhere ends the build. Nothing of fgan is run.
"""

from __future__ import annotations

import argparse
import ast
import html
import pathlib
import re
import textwrap
from typing import NamedTuple

import names
from markupsafe import Markup
from names import Place
from pdoc import render, render_helpers

DOCS = pathlib.Path(__file__).parent
GUIDES = ("your-own-step", "examples")
WIDTH = 80  # of a signature on one line
SECTION = re.compile(
    r"^(Args|Attributes|Raises|References|Returns):\n((?:[ \t]+.+(?:\n|\Z)|\n)+)", re.MULTILINE
)
ITEM = re.compile(r"(\*{0,2}[A-Za-z_]\w*(?:, \*{0,2}[A-Za-z_]\w*)*): +(.*)")
STARS = re.compile(r"\*\*|\*\w+\*|\*")  # strong, emphasis, or a star of a shape
CODE = re.compile(r"(`+[^`]+`+)")
WORD = re.compile(r"\"[^\"]*\"|'[^']*'|[A-Za-z_][\w.]*|[^\w\"']+|\w+")
ARXIV = (re.compile(r"\barXiv:(\d{4}\.\d{4,5})\b"), r"https://arxiv.org/abs/\1")
render_helpers.markdown_link_patterns.append(ARXIV)


class Item(NamedTuple):
    """A public name on a page."""

    kind: str
    name: str
    anchor: str
    summary: Markup
    header: Markup
    text: Markup
    members: list[Item]
    elsewhere: str  # the address of the page that describes it, where that is another


# Links.


def top(page: str) -> str:
    """The way from a page to the folder of all of them."""
    return "../" * page.count(".")


def link(place: Place | None, page: str) -> str:
    """The address on a page of what is described somewhere; "" where it is nowhere."""
    if place is None:
        return ""
    if place == Place("fgan"):
        return f"{top(page)}index.html"
    home = names.homes().get(Place(place.module, place.name)) if place.name else place.module
    if home not in names.pages():
        return ""
    anchor = f"#{place.name}" if place.name else ""
    if place.member and isinstance(names.node(place), ast.FunctionDef | ast.AnnAssign):
        anchor += f".{place.member}"
    if anchor and home == page:
        return anchor
    return f"{top(page)}{home.replace('.', '/')}.html{anchor}"


def linked(text: str, scope: Place, page: str) -> str:
    """A reference as code, with a link to what it means."""
    place = names.find(text.removesuffix("()"), scope)
    if place is None:
        raise SystemExit(f"{'.'.join(part for part in scope if part)}: `{text}` leads nowhere")
    address = link(place, page)
    return f'<a href="{address}"><code>{text}</code></a>' if address else f"<code>{text}</code>"


def typed(source: str, scope: Place, page: str) -> str:
    """An annotation or a value, as it is written, with a link for each name of ours."""
    found = []
    for word in WORD.findall(source):
        name = word[0].isalpha() or word[0] == "_"
        address = link(names.find(word, scope), page) if name else ""
        text = html.escape(word)
        found.append(f'<a href="{address}">{text}</a>' if address else text)
    return "".join(found)


# Docstrings.


def described(text: str, scope: Place, page: str) -> Markup:
    """A docstring as HTML: its sections as lists, its references as links."""

    def section(match: re.Match[str]) -> str:
        return f'\n<p class="section">{match[1]}</p>\n\n{textwrap.dedent(match[2]).strip()}\n\n'

    text = SECTION.sub(section, text)
    first, *rest = re.split(r"\n(?:[ \t]*\n)+", text)
    parts = [prose(first, scope, page)]
    for paragraph in rest:
        kept = names.is_code(paragraph) or paragraph.startswith("<p ")
        parts.append(paragraph if kept else prose(items(paragraph), scope, page))
    return Markup(render_helpers.to_html("\n\n".join(parts)))


def items(text: str) -> str:
    """Lines like ``name: what it is``, and the indented lines below each, as a list."""
    lines: list[str] = []
    in_list = False
    for line in text.splitlines():
        match = ITEM.fullmatch(line)
        if in_list and not match and line.startswith(" "):
            lines.append(f"  {line.strip()}")
            continue
        lines += [""] if in_list != bool(match) else []
        lines.append(f"- **{match[1]}**: {match[2]}" if match else line)
        in_list = bool(match)
    return "\n".join(lines)


def prose(text: str, scope: Place, page: str) -> str:
    """Markdown in which references are links, and stars and brackets of shapes are themselves."""
    parts = CODE.split(text)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            part = part.replace("<", "&lt;").replace("[", r"\[")
            parts[i] = STARS.sub(lambda star: star[0] if star[0] != "*" else r"\*", part)
        elif names.REFERENCE.fullmatch(part):
            parts[i] = linked(part.strip("`"), scope, page)
    return "".join(parts)


# Names.


def item(page: str, place: Place, name: str, anchor: str) -> Item:
    """The entry of a name on a page."""
    node, scope = names.node(place), Place(place.module, place.name)
    home = names.homes().get(Place(place.module, place.name), page)
    inner = names.members(node) if home == page else {}
    text = names.docstring(place)
    return Item(
        kind=type(node).__name__.removesuffix("Def").lower(),
        name=name,
        anchor=anchor,
        summary=described(names.summary(place), scope, page),
        header=Markup(header(node, name, scope, page)),
        text=described(text, scope, page),
        members=[
            item(page, Place(place.module, place.name, member), member, f"{anchor}.{member}")
            for member, node in inner.items()
            if isinstance(node, ast.FunctionDef) and not member.startswith("_")
        ],
        elsewhere="" if home == page else link(place, page),
    )


class Part(NamedTuple):
    """A parameter or a field, as it is written."""

    name: str
    kind: ast.expr | None = None
    value: ast.expr | None = None
    comment: str = ""


def header(node: ast.AST, name: str, scope: Place, page: str) -> str:
    """How a name is called, or of which type it is, in HTML."""
    title = f'<span class="name">{name}</span>'
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        kind, value = getattr(node, "annotation", None), getattr(node, "value", None)
        kind = None if kind and ast.unparse(kind).startswith("TypeAlias") else kind
        value = None if value and len(ast.unparse(value)) > WIDTH else value
        return shown(Part(title, kind, value), scope, page)
    word, parts, end = "class", [], None
    if isinstance(node, ast.ClassDef):
        parts = fields(node, scope.module)
    else:
        word, parts, end = "def", parameters(node.args), node.returns
        if parts and parts[0].name in ("self", "cls"):
            parts = parts[1:]
        if any(ast.unparse(decorator) == "property" for decorator in node.decorator_list):
            word = "property"
    texts = [shown(part, scope, page) for part in parts]
    call = "" if word == "property" or (word == "class" and not parts) else f"({', '.join(texts)})"
    arrow = f" -&gt; {annotation(end, scope, page)}" if end else ""
    length = len(html.unescape(re.sub(r"<[^>]+>", "", f"{word} {name}{call}{arrow}")))
    if call and (length > WIDTH or any(part.comment for part in parts)):
        comments = [f"  # {html.escape(part.comment)}" if part.comment else "" for part in parts]
        rows = [f"    {text},<i>{c}</i>\n" for text, c in zip(texts, comments, strict=True)]
        call = f"(\n{''.join(rows)})"
    return f'<span class="def">{word}</span> {title}{call}{arrow}'


def annotation(node: ast.expr, scope: Place, page: str) -> str:
    """A type or a value in a header."""
    return f'<span class="annotation">{typed(ast.unparse(node), scope, page)}</span>'


def shown(part: Part, scope: Place, page: str) -> str:
    """A parameter with its type and its default, in HTML."""
    kind = annotation(part.kind, scope, page) if part.kind else ""
    value = f" = {annotation(part.value, scope, page)}" if part.value else ""
    return part.name + (": " if part.name and kind else "") + kind + value


def fields(node: ast.ClassDef, module: str) -> list[Part]:
    """The arguments of a class's constructor, else its bases."""
    inner = names.members(node)
    made = inner.get("__init__") or inner.get("__call__")
    if isinstance(made, ast.FunctionDef):
        return parameters(made.args)[1:]
    parts = []
    for name, n in inner.items():
        if isinstance(n, ast.AnnAssign):
            title = f'<span id="{node.name}.{name}">{name}</span>'
            parts.append(Part(title, n.annotation, n.value, names.comment(module, n)))
    if not parts:
        return [Part("", base) for base in node.bases]
    keyword = any("kw_only" in ast.unparse(d) for d in node.decorator_list)
    return [Part("*"), *parts] if keyword else parts


def parameters(a: ast.arguments) -> list[Part]:
    """The parameters of a function, and the signs between them."""
    plain = [*a.posonlyargs, *a.args]
    defaults = [*[None] * (len(plain) - len(a.defaults)), *a.defaults]
    found = [Part(x.arg, x.annotation, d) for x, d in zip(plain, defaults, strict=True)]
    if a.posonlyargs:
        found.insert(len(a.posonlyargs), Part("/"))
    if a.vararg:
        found.append(Part(f"*{a.vararg.arg}", a.vararg.annotation))
    elif a.kwonlyargs:
        found.append(Part("*"))
    found += [
        Part(x.arg, x.annotation, d) for x, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)
    ]
    return found + ([Part(f"**{a.kwarg.arg}", a.kwarg.annotation)] if a.kwarg else [])


# Pages.


def contents(page: str) -> list[Item]:
    """The public names of a page, but for its own files."""
    found = []
    for name in names.public(page):
        place = names.walk(f"{page}.{name}")
        assert place is not None, f"{page}.{name} is nowhere defined"
        if place.name:
            found.append(item(page, place, name, name))
        elif place.module != f"{page}.{name}":  # a file of a folder, known by a shorter name
            text = about(place.module, page)
            found.append(
                Item("module", name, name, text, Markup(), Markup(), [], link(place, page))
            )
    return found


def about(page: str, on: str) -> Markup:
    """The first paragraph about a page, for a list on another."""
    return described(names.summary(Place(page)), Place(page), on)


def build(folder: pathlib.Path) -> list[pathlib.Path]:
    """Write all pages into a folder, and say which."""
    render.configure(template_directory=DOCS / "templates", search=False)
    floors = {title: [f"fgan.{name}" for name in floor] for title, floor in names.FLOORS.items()}
    guides = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in GUIDES}
    titles = {name: text.partition("\n")[0].strip("# ") for name, text in guides.items()}
    written = []

    def write(name: str, template: str, page: str, **values: object) -> None:
        path = folder / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        values |= {"page": page, "top": top(page), "floors": floors, "guides": titles}
        text = render.env.get_template(template).render(values)
        path.write_text(text, encoding="utf-8")
        written.append(path)

    for page in names.pages():
        text = names.docstring(Place(page))
        write(
            page.replace(".", "/"),
            "page.html.jinja2",
            page,
            text=described(text, Place(page), page),
            files={other: about(other, page) for other in below(page) if other not in text},
            siblings=below(".".join(page.split(".")[:2])),
            items=contents(page),
        )
    for name, text in guides.items():
        write(name, "guide.html.jinja2", "", title=titles[name], text=guide(text))
    rooms = {
        title: {page: about(page, "fgan") for page in floor} for title, floor in floors.items()
    }
    text = described(names.docstring(Place("fgan")), Place("fgan"), "fgan")
    write(
        "index",
        "opening.html.jinja2",
        "fgan",
        text=text,
        items=contents("fgan"),
        rooms=rooms,
        public=names.public,
        below=below,
    )
    return written


def guide(text: str) -> Markup:
    """A page of the documentation as HTML; other words than ours may stand between backticks."""

    def reference(match: re.Match[str]) -> str:
        ours = match[1].startswith("fgan.") or names.find(match[1], Place("fgan"))
        return linked(match[0].strip("`"), Place("fgan"), "fgan") if ours else match[0]

    text = re.sub(r"\]\(([\w-]+)\.md", r"](\1.html", text)
    return Markup(render_helpers.to_html(names.REFERENCE.sub(reference, text)))


def below(page: str) -> list[str]:
    """The pages of a folder's files."""
    return [other for other in names.pages() if other.startswith(f"{page}.")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the API reference.")
    default = DOCS.parent / "build" / "reference"
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=default)
    folder = parser.parse_args().folder
    print(f"{len(build(folder))} pages: open {folder / 'index.html'}")
