"""The single changes of meaning that a module can have, and the tests that use the module."""

from __future__ import annotations

import ast
import copy
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
# Names that stand for the same kind of thing: one is written for the other by mistake.
TWINS = (("gen", "disc"), ("real", "fake"), ("min", "max"), ("low", "high"), ("first", "last"))


@dataclasses.dataclass(frozen=True)
class Change:
    """A piece of source and what to write in its place."""

    line: int
    start: int  # in bytes of the source, as is `stop`
    stop: int
    text: str
    function: int  # line of the innermost function around it; 0 for the module

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.stop :]

    def diff(self, source: bytes) -> str:
        """The lines before and after, of which most changes have one each."""
        first = source.rfind(b"\n", 0, self.start) + 1
        last = (source.find(b"\n", self.stop) + 1 or len(source) + 1) - 1
        new = source[first : self.start] + self.text.encode() + source[self.stop : last]
        old = source[first:last].decode().splitlines()
        return "\n".join(
            [f"    - {o}" for o in old] + [f"    + {n}" for n in new.decode().split("\n")]
        )


def with_defaults(trees: Iterable[ast.AST]) -> dict[str, list[tuple[list[str], set[str]]]]:
    """By name of a function or class: its positional parameters, and those with a default."""
    found: dict[str, list[tuple[list[str], set[str]]]] = {}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            args = node.args
            names = [a.arg for a in (*args.posonlyargs, *args.args) if a.arg not in ("self", "cls")]
            optional = set(names[len(names) - len(args.defaults) :] if args.defaults else [])
            pairs = zip(args.kwonlyargs, args.kw_defaults, strict=True)
            optional |= {a.arg for a, default in pairs if default is not None}
            found.setdefault(node.name, []).append((names, optional))
        elif isinstance(node, ast.ClassDef):
            rows = [row for row in node.body if isinstance(row, ast.AnnAssign)]
            names = [row.target.id for row in rows if isinstance(row.target, ast.Name)]
            optional = {n for n, row in zip(names, rows, strict=False) if row.value is not None}
            found.setdefault(node.name, []).append((names, optional))
    return found


def _means_nothing(node: ast.AST, parent: ast.AST) -> bool:
    """Documentation, imports, names of types, and the words of messages."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr | ast.Assert):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(parent, ast.Raise):
        return True
    if isinstance(node, ast.AnnAssign) and node.value is None:
        return True
    if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
        return True
    names = [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
    return names == ["__all__"]


def _may_go(target: ast.expr, scope: ast.AST) -> bool:
    """Whether a name has a value in a function also without this assignment."""
    if not isinstance(target, ast.Name):
        return isinstance(target, ast.Attribute | ast.Subscript)
    nodes = list(ast.walk(scope))
    stores = [n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    bound = [n.id for n in stores] + [n.arg for n in nodes if isinstance(n, ast.arg)]
    return bound.count(target.id) > 1


class Changes:
    """All changes of one module."""

    def __init__(
        self, source: bytes, defaults: dict[str, list[tuple[list[str], set[str]]]]
    ) -> None:
        self.source, self.defaults = source, defaults
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.tree = ast.parse(source)
        self.identifiers = {n.id for n in ast.walk(self.tree) if isinstance(n, ast.Name)}
        self.identifiers |= {n.attr for n in ast.walk(self.tree) if isinstance(n, ast.Attribute)}
        self.identifiers |= {n.arg for n in ast.walk(self.tree) if isinstance(n, ast.arg)}

    def all(self) -> list[Change]:
        unique = {(c.start, c.stop, c.text): c for c in self._of(self.tree, self.tree)}
        return sorted(unique.values(), key=lambda c: (c.start, c.stop, c.text))

    def _of(self, node: ast.AST, scope: ast.AST) -> Iterator[Change]:
        """Changes of a node and of all that is in it; the scope is the function it is in."""
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            scope = node
        elif isinstance(node, ast.ClassDef | ast.arguments):
            scope = self.tree  # bodies and defaults, which a test may look at without a call
        yield from self._here(node, scope)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "type_comment", "decorator_list", "bases"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST) or _means_nothing(child, node):
                    continue
                plain = isinstance(child, ast.Name | ast.Attribute | ast.Call)
                if name in ("test", "ifs") and plain:
                    yield self._change(child, f"not {ast.unparse(child)}", scope)
                yield from self._of(child, scope)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset

    def _change(
        self, node: ast.AST, text: str, scope: ast.AST, span: tuple[int, int] | None = None
    ) -> Change:
        decorators = getattr(scope, "decorator_list", [])  # where Python says that code begins
        function = decorators[0].lineno if decorators else getattr(scope, "lineno", 0)
        start, stop = span or self._span(node)
        return Change(node.lineno, start, stop, text, function)

    def _here(self, node: ast.AST, scope: ast.AST) -> Iterator[Change]:
        for changed in self._others(node, scope):
            text = ast.unparse(changed)
            whole = isinstance(changed, ast.Constant | ast.Name | ast.Call | ast.Attribute)
            bracketed = isinstance(node, ast.expr) and not whole
            yield self._change(node, f"({text})" if bracketed else text, scope)
        if isinstance(node, ast.Call):
            for argument in self._optional(node):
                start, stop = self._span(argument)
                after = re.compile(rb"\s*,\s*").match(self.source, stop)
                yield self._change(argument, "", scope, (start, after.end() if after else stop))

    def _others(self, node: ast.AST, scope: ast.AST) -> Iterator[ast.AST]:
        """The expressions that could stand in place of a node."""

        def edited(edit: Callable[[ast.AST], None]) -> ast.AST:
            other = copy.deepcopy(node)
            edit(other)
            return other

        match node:
            case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
                yield edited(lambda n: setattr(n, "op", SWAPS[type(op)]()))
            case ast.Compare(ops=ops):
                for i, op in enumerate(ops):
                    if type(op) in SWAPS:
                        yield edited(lambda n, i=i, op=op: n.ops.__setitem__(i, SWAPS[type(op)]()))
            case ast.UnaryOp(op=ast.Not() | ast.USub()):
                yield node.operand
            case ast.Constant(value=bool() as value):
                yield ast.Constant(not value)
            case ast.Constant(value=int() | float() as value):
                other = value + 1 if value % 1 == 0 else value / 2
                yield ast.Constant({0: 1, 1: 0}.get(value, other))
            case ast.Name(id=name, ctx=ast.Load()):
                yield from (ast.Name(other) for other in self._twins(name))
            case ast.Attribute(attr=name, ctx=ast.Load()):
                yield from (ast.Attribute(node.value, other) for other in self._twins(name))
            case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Break() | ast.Continue():
                yield ast.Pass()
            case ast.Assign(targets=[target]) if _may_go(target, scope):
                yield ast.Pass()
            case ast.Return(value=ast.Call(args=[ast.Name() | ast.Attribute() as first, *_])):
                yield ast.Return(first)
        if isinstance(node, ast.AugAssign):
            yield ast.Pass()

    def _optional(self, node: ast.Call) -> Iterator[ast.AST]:
        """The arguments of a call that could be left out, so far as that is known."""
        known = self.defaults.get(getattr(node.func, "id", getattr(node.func, "attr", "")))
        for keyword in node.keywords:
            if keyword.arg and (known is None or any(keyword.arg in names for _, names in known)):
                yield keyword
        last = len(node.args) - 1
        if last >= 0 and any(n[last:] and n[last] in optional for n, optional in known or []):
            yield node.args[last]

    def _twins(self, name: str) -> Iterator[str]:
        """Other identifiers of the module that this one could be mistaken for."""
        for pair in TWINS:
            for one, other in (pair, pair[::-1]):
                parts = name.split("_")
                swapped = "_".join(other if part == one else part for part in parts)
                if swapped != name and swapped in self.identifiers:
                    yield swapped


def tests_of(module: Path, tree: ast.Module, root: Path) -> list[str]:
    """The test files that import a module of the package, or use what it makes public."""
    dotted = ".".join(module.with_suffix("").parts).removesuffix(".__init__")
    public = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
        if not node.name.startswith("_")
    }  # fmt: skip
    found = []
    for path in sorted((root / "tests").glob("test_*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        modules, names = set(), set()
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                modules |= {f"{node.module}", *(f"{node.module}.{a.name}" for a in node.names)}
                ours = (node.module or "").split(".")[0] == module.parts[0]
                names |= {a.name for a in node.names if ours}
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
        if dotted in modules or names & public:
            found.append(f"tests/{path.name}")
    return found
