"""Puts single changes of meaning into modules and says which of them no test notices.

    python tests/mutate.py fgan/game/step.py --sample 40 --seed 1
    python tests/mutate.py fgan/run/log.py --tests tests/test_metrics_window.py
    python tests/mutate.py fgan/game fgan/run --sample 100 --calls calls.json --processes 2

The script works in a copy of the tree. It runs the tests once as they are, to learn which of
them call which function; a change is then tried against the tests that call the function it is
in, the quickest first, until one fails or they have taken ``--each`` seconds. What is printed at
the end are the survivors: changes after which all these tests pass. A survivor is a missing
assertion, code that nothing needs, or a change that means the same, which only a reader can
tell. Several modules, or folders of them, share one run of the tests, and the sample is of all
their changes; ``--calls`` keeps what that run has learned for the next sample.

Every try is a fork of one process that has loaded torch, so this runs where `os.fork` does.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from mutations import Change, Changes, tests_of, with_defaults


class Learned(NamedTuple):
    """The time of a test and the functions that it calls, as one run of it shows them."""

    seconds: float
    calls: dict[str, list[int]]  # by file: the lines where the functions begin that it calls


class Calls:
    """A plug-in of pytest that notes each test's time, and which functions of modules it calls."""

    def __init__(self, modules: dict[str, str]) -> None:
        self.modules = modules  # names of modules by whole paths
        self.now: set[tuple[str, int]] = (
            set()
        )  # the functions called, by the lines where they begin
        self.tests: dict[str, tuple[float, set[tuple[str, int]]]] = {}
        self.shared: set[tuple[str, int]] = set()  # called by fixtures that several tests share
        self.imported: dict[str, set[tuple[str, int]]] = {}  # by test files, during their import
        self.failed: list[str] = []

    def _begin(self) -> None:
        self.now, self.began = set(), time.perf_counter()
        sys.settrace(self._trace)
        threading.settrace(self._trace)

    def _trace(self, frame, event, argument):
        module = self.modules.get(frame.f_code.co_filename)
        if module:
            self.now.add((module, frame.f_code.co_firstlineno))

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

    def learned(self) -> dict[str, Learned]:
        """By name of a test; what shared fixtures call is called for each."""
        found = {}
        for name, (seconds, called) in self.tests.items():
            by_file: dict[str, list[int]] = {}
            for module, line in sorted(called | self.shared):
                by_file.setdefault(module, []).append(line)
            found[name] = Learned(seconds, by_file)
        return found


class Limits:
    """A plug-in of pytest that ends the process in which a test takes much longer than it did."""

    def __init__(self, usual: dict[str, float]) -> None:
        self.usual = usual

    def pytest_runtest_logstart(self, nodeid, location):
        signal.alarm(10 + int(5 * self.usual.get(nodeid, 10)))


class Child:
    """Work in a process of its own, in a copy of the tree, and what that prints in a file."""

    def __init__(self, folder: Path, work: Callable[[], int], log: Path) -> None:
        self.pid = os.fork()
        if self.pid:
            return
        code = 70
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.chdir(folder)
            os.environ["FGAN_TESTS_CACHE"] = str(folder / "cache")
            os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *sys.path])
            sys.path[:0] = [str(folder), str(folder / "tests")]
            code = work()
        finally:
            os._exit(code)

    def result(self, end: float) -> int | None:
        """The work's result; None if it lasts until ``end``, a monotonic time."""
        try:
            while time.monotonic() < end:
                done, status = os.waitpid(self.pid, os.WNOHANG)
                if done:
                    return os.waitstatus_to_exitcode(status)
                time.sleep(0.01)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            return None
        finally:
            self.end()

    def end(self) -> None:
        """End also what the tests have started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class Tree:
    """A copy of the tree, in which tests are run, each time in a process of its own."""

    def __init__(self, root: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mutate-"))
        kept = shutil.ignore_patterns(".*", "__pycache__", "runs", "*.egg-info", "build")
        shutil.copytree(root, self.folder, ignore=kept, dirs_exist_ok=True, symlinks=True)
        for name, place in (("fgan_cli", "cli"), ("fgan_benchmarks", "benchmarks")):
            if (self.folder / place).is_dir():
                (self.folder / name).symlink_to(place)

    def _pytest(self, arguments: list[str], plugin: object, tmp: str) -> int:
        options = ["-q", "-p", "no:cacheprovider", f"--basetemp={self.folder / tmp}"]
        return int(pytest.main([*options, *arguments], plugins=[plugin]))

    def learn(
        self, modules: list[str], tests: list[str], seconds: float, processes: int
    ) -> tuple[dict[str, Learned], list[str]]:
        """The functions of the modules that each test calls, and the names of failing tests."""
        end = time.monotonic() + seconds
        paths = {str(self.folder / module): module for module in modules}

        def work(part: list[str], i: int) -> int:
            calls = Calls(paths)
            code = self._pytest(part, calls, f"tmp{i}")
            found = json.dumps([calls.learned(), calls.failed])
            (self.folder / f"calls{i}.json").write_text(found)
            return code

        learned, failed = {}, []
        parts = [part for i in range(processes) if (part := tests[i::processes])]
        logs = [self.folder / f"log{i}.txt" for i in range(len(parts))]
        children = [
            Child(self.folder, lambda part=part, i=i: work(part, i), logs[i])
            for i, part in enumerate(parts)
        ]
        try:
            for i, child in enumerate(children):
                code = child.result(end)
                if code is None:
                    raise SystemExit(f"The tests as they are take over {seconds:.0f} seconds.")
                if code not in (0, 1):
                    said = logs[i].read_text()[-2000:]
                    raise SystemExit(f"The tests do not run as they are:\n{said}")
                known, bad = json.loads((self.folder / f"calls{i}.json").read_text())
                learned |= {name: Learned(*of) for name, of in known.items() if name not in bad}
                failed += bad
        finally:
            for child in children:
                child.end()
        return learned, failed

    def notices(self, module: str, change: Change, tests: dict[str, float]) -> bool:
        """Whether one of the tests, given with the seconds that each takes, fails or hangs."""
        path, limit = self.folder / module, 60 + 6 * sum(tests.values())
        source = path.read_bytes()
        path.write_bytes(change.applied(source))
        try:
            work = Child(
                self.folder,
                lambda: self._pytest(["-x", *tests], Limits(tests), "tmp"),
                self.folder / "log.txt",
            )
            return work.result(time.monotonic() + limit) != 0
        finally:
            path.write_bytes(source)


def quickest(able: dict[str, float], seconds: float) -> dict[str, float]:
    """The quickest tests, in that order, that take so long together; one at least."""
    chosen: dict[str, float] = {}
    for name, took in sorted(able.items(), key=lambda row: row[1]):
        if chosen and sum(chosen.values()) + took > seconds:
            break
        chosen[name] = took
    return chosen


def calls_of_tests(
    tree: Tree, root: Path, modules: list[str], given: Namespace
) -> dict[str, Learned]:
    """The functions that each test calls; the file of --calls has them, or one run finds them."""
    if given.calls and given.calls.exists():
        return {n: Learned(*of) for n, of in json.loads(given.calls.read_text()).items()}
    began = time.monotonic()
    trees = {module: ast.parse((root / module).read_bytes()) for module in modules}
    used = {test for module in modules for test in tests_of(Path(module), trees[module], root)}
    tests = given.tests or sorted(used)
    if not tests:
        raise SystemExit(f"No test uses {', '.join(modules)}: name some with --tests.")
    learned, failed = tree.learn(modules, tests, given.seconds, given.processes)
    for name in failed:
        print(f"left out, for it fails as it is: {name}")
    took = time.monotonic() - began
    print(f"{len(learned)} tests, {took:.0f} s for one run of them", flush=True)
    if given.calls:
        given.calls.write_text(json.dumps(learned))
    return learned


def callers(
    learned: dict[str, Learned], module: str, change: Change, files: list[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """The seconds of the tests that call the function of a change, and of all of its module.

    Args:
        files: the test files that import the module, or use what it makes public.
    """
    users = {
        name: of.seconds
        for name, of in learned.items()
        if module in of.calls or name.split("::")[0] in files
    }
    able = {
        name: seconds
        for name, seconds in users.items()
        if change.function in (0, *learned[name].calls.get(module, ()))
    }
    return able, users


def mutate(root: Path, modules: list[str], given: Namespace) -> tuple[int, int]:
    """Try changes of modules, paths under ``root``; how many were noticed, of how many."""
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    caught, tried, began = 0, 0, time.monotonic()
    tree = Tree(root)
    try:
        package = (root / Path(modules[0]).parts[0]).rglob("*.py")
        defaults = with_defaults([ast.parse(path.read_bytes()) for path in package])
        sources = {module: (root / module).read_bytes() for module in modules}
        every = [
            (module, change)
            for module, source in sources.items()
            for change in Changes(source, defaults).all()
        ]
        changes = random.Random(given.seed).sample(
            every, min(given.sample or len(every), len(every))
        )
        print(f"{len(changes)} of {len(every)} changes in {len(modules)} modules", flush=True)
        learned = calls_of_tests(tree, root, modules, given)
        for module, change in changes:
            if time.monotonic() - began > given.seconds:
                print(f"{len(changes) - tried} changes were not tried: the time is over")
                break
            files = tests_of(Path(module), ast.parse(sources[module]), root)
            able, users = callers(learned, module, change, files)
            # Imports and other processes call functions too, and no test is seen to do so.
            some = quickest(able or users, given.each)
            noticed = some and tree.notices(module, change, some)
            tried, caught = tried + 1, caught + bool(noticed)
            if not noticed:
                left = len(able) - len(some)
                why = f", with {left} longer tests not run" if left > 0 else ""
                why = why if able else ", which no test calls"
                print(f"SURVIVED {module}:{change.line}{why}")
                print(change.diff(sources[module]), flush=True)
        return caught, tried
    finally:
        print(f"{caught} of {tried} caught ({100 * caught / max(1, tried):.0f} %)")
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
    parser.add_argument("modules", nargs="+", type=Path, help="files, or folders of them")
    parser.add_argument("--tests", nargs="+", help="test files, or names of tests as for pytest")
    parser.add_argument("--sample", type=int, default=0, help="how many changes; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="which of them")
    parser.add_argument("--seconds", type=float, default=600.0, help="begin no change after that")
    parser.add_argument("--each", type=float, default=60.0, help="seconds of tests for a change")
    parser.add_argument("--processes", type=int, default=1, help="that the tests run in at first")
    parser.add_argument("--calls", type=Path, help="keep here, or take from here, what is learned")
    given = parser.parse_args(namespace=Namespace())
    places = [place.resolve() for place in given.modules]
    files = [file for at in places for file in (sorted(at.rglob("*.py")) if at.is_dir() else [at])]
    root = next((p for p in places[0].parents if (p / "tests").is_dir()), None)
    missing = [str(file) for file in files if not file.is_file()]
    if root is None or missing or not files:
        names = ", ".join(missing) or "module"
        raise SystemExit(f"There is no {names} with a folder of tests beside its package.")
    preload(root)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of all that clears up
    caught, tried = mutate(root, [str(file.relative_to(root)) for file in files], given)
    raise SystemExit(0 if caught == tried else 1)


if __name__ == "__main__":
    main()
