"""Puts single changes of meaning into one module and says which of them no test notices.

    python tests/mutate.py fgan/game/step.py --sample 40 --seed 1
    python tests/mutate.py fgan/run/log.py --tests tests/test_metrics_window.py

The script works in a copy of the tree. It runs the tests once as they are, to learn which of
them call which function of the module; a change is then tried against the tests that call the
function it is in, the quickest first, until one fails. What is printed at the end are the
survivors: changes after which all tests pass. A survivor is a missing assertion, code that
nothing needs, or a change that means the same, which only a reader can tell.

Every try is a fork of one process that has loaded torch, so this runs where `os.fork` does.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import dataclasses
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

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


class Calls:
    """A plug-in of pytest that notes which functions of a file each test calls, and its time."""

    def __init__(self, module: Path) -> None:
        self.module = str(module)
        self.now: set[int] = set()  # lines where the functions called begin
        self.tests: dict[str, tuple[float, set[int]]] = {}
        self.shared: set[int] = set()  # called by fixtures that several tests share
        self.imported: dict[str, set[int]] = {}  # by test files, while they are imported
        self.failed: list[str] = []

    def _begin(self) -> None:
        self.now, self.began = set(), time.perf_counter()
        sys.settrace(self._trace)
        threading.settrace(self._trace)

    def _trace(self, frame, event, argument):
        if frame.f_code.co_filename == self.module:
            self.now.add(frame.f_code.co_firstlineno)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector):
        self._begin()
        report = yield
        sys.settrace(None)
        self.imported.setdefault(collector.nodeid.split("::")[0], set()).update(self.now)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        self._begin()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        before, self.now = self.now, set()
        made = yield
        if fixturedef.scope != "function":
            self.shared |= self.now
        self.now |= before
        return made

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid, location):
        sys.settrace(None)
        called = self.now | self.imported.get(nodeid.split("::")[0], set())
        self.tests[nodeid] = (time.perf_counter() - self.began, called)


class Limits:
    """A plug-in of pytest that ends the process in which a test takes much longer than it did."""

    def __init__(self, usual: dict[str, float]) -> None:
        self.usual = usual

    def pytest_runtest_logstart(self, nodeid, location):
        signal.alarm(10 + int(5 * self.usual.get(nodeid, 10)))


class Tree:
    """A copy of the tree, in which tests are run, each time in a process of its own."""

    def __init__(self, root: Path, module: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mutate-"))
        kept = shutil.ignore_patterns(".*", "__pycache__", "runs", "*.egg-info", "build")
        shutil.copytree(root, self.folder, ignore=kept, dirs_exist_ok=True, symlinks=True)
        for name, place in (("fgan_cli", "cli"), ("fgan_benchmarks", "benchmarks")):
            if (self.folder / place).is_dir():
                (self.folder / name).symlink_to(place)
        self.module = self.folder / module
        self.source = self.module.read_bytes()
        self.log = self.folder / "log.txt"
        self.options = ["-q", "-p", "no:cacheprovider", f"--basetemp={self.folder / 'tmp'}"]

    def run(self, work: Callable[[], int], seconds: float) -> int | None:
        """The result of ``work`` in a child process; None when it takes longer or dies."""
        child = os.fork()
        if not child:
            code = 70
            try:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(out, 1)
                os.dup2(out, 2)
                os.chdir(self.folder)
                os.environ["FGAN_TESTS_CACHE"] = str(self.folder / "cache")
                os.environ["PYTHONPATH"] = os.pathsep.join([str(self.folder), *sys.path])
                sys.path[:0] = [str(self.folder), str(self.folder / "tests")]
                code = work()
            finally:
                os._exit(code)
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    return os.waitstatus_to_exitcode(status)
                time.sleep(0.01)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # what the tests have started

    def learn(self, tests: list[str], seconds: float) -> tuple[dict[str, tuple], list[str]]:
        """By name of a test: its seconds, and the functions it calls; and those that fail."""
        notes = self.folder / "calls.json"

        def work() -> int:
            calls = Calls(self.module)
            code = pytest.main([*self.options, *tests], plugins=[calls])
            known = {n: (s, sorted(at | calls.shared)) for n, (s, at) in calls.tests.items()}
            notes.write_text(json.dumps([known, calls.failed]))
            return int(code)

        if self.run(work, seconds) not in (0, 1):
            raise SystemExit(f"The tests do not run as they are:\n{self.log.read_text()[-2000:]}")
        known, failed = json.loads(notes.read_text())
        return {name: of for name, of in known.items() if name not in failed}, failed

    def notices(self, change: Change, tests: dict[str, float]) -> bool:
        """Whether one of the tests, given with the seconds that each takes, fails or hangs."""

        def work() -> int:
            return int(pytest.main(["-x", *self.options, *tests], plugins=[Limits(tests)]))

        self.module.write_bytes(change.applied(self.source))
        try:
            return self.run(work, 60 + 6 * sum(tests.values())) != 0
        finally:
            self.module.write_bytes(self.source)


def mutate(root: Path, module: Path, given: argparse.Namespace) -> tuple[int, int]:
    """Try changes of a module, a path under ``root``; how many were noticed, of how many."""
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    caught, tried, began = 0, 0, time.monotonic()
    tree = Tree(root, module)
    try:
        parsed = ast.parse(tree.source)
        package = [ast.parse(p.read_bytes()) for p in (root / module.parts[0]).rglob("*.py")]
        changes = Changes(tree.source, with_defaults(package)).all()
        total = len(changes)
        changes = random.Random(given.seed).sample(changes, min(given.sample or total, total))
        tests = given.tests or tests_of(module, parsed, root)
        if not tests:
            raise SystemExit(f"No test uses {module}: name some with --tests.")
        calls, failed = tree.learn(tests, given.seconds)
        for name in failed:
            print(f"left out, for it fails as it is: {name}")
        took = f"{time.monotonic() - began:.0f} s for one run of them"
        print(
            f"{module}: {len(changes)} of {total} changes, {len(calls)} tests, {took}", flush=True
        )
        for change in changes:
            if time.monotonic() - began > given.seconds:
                print(f"{len(changes) - tried} changes were not tried: the time is over")
                break
            able = {n: s for n, (s, at) in calls.items() if change.function in (0, *at)}
            noticed = able and tree.notices(change, dict(sorted(able.items(), key=lambda i: i[1])))
            tried, caught = tried + 1, caught + bool(noticed)
            if not noticed:
                print(f"SURVIVED {module}:{change.line}{'' if able else ', which no test calls'}")
                print(change.diff(tree.source), flush=True)
        return caught, tried
    finally:
        print(f"{module}: {caught} of {tried} caught ({100 * caught / max(1, tried):.0f} %)")
        shutil.rmtree(tree.folder, ignore_errors=True)


def preload(root: Path) -> None:
    """Import once for all tries the modules that the tests need and no change touches."""
    if root != Path(__file__).resolve().parent.parent:
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(ImportError):
        import hypothesis
        import numpy
        import PIL.Image
        import safetensors.torch
        import torch._dynamo
        import torch.func
        import torchvision

        assert all((hypothesis, numpy, PIL.Image, safetensors, torch, torchvision))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", type=Path, help="such as fgan/game/step.py")
    parser.add_argument("--tests", nargs="+", help="test files, or names of tests as for pytest")
    parser.add_argument("--sample", type=int, default=0, help="how many changes; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="which of them")
    parser.add_argument("--seconds", type=float, default=600.0, help="begin no change after that")
    given = parser.parse_args()
    file = given.module.resolve()
    root = next((p for p in file.parents if (p / "tests").is_dir()), None)
    if root is None or not file.is_file():
        raise SystemExit(f"There is no {given.module} with a folder of tests beside its package.")
    preload(root)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of all that clears up
    caught, tried = mutate(root, file.relative_to(root), given)
    raise SystemExit(0 if caught == tried else 1)


if __name__ == "__main__":
    main()
