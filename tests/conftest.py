"""Settings of the whole suite, and the command as a fixture, here or in a process of its own."""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

if "FGAN_TESTS_CACHE" not in os.environ:
    os.environ["FGAN_TESTS_CACHE"] = tempfile.mkdtemp(prefix="fgan-tests-")
    atexit.register(shutil.rmtree, os.environ["FGAN_TESTS_CACHE"], ignore_errors=True)
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.environ["FGAN_TESTS_CACHE"] + "/inductor")
os.environ.setdefault("FGAN_CACHE", os.environ["FGAN_TESTS_CACHE"] + "/fgan")
# Processes have buffered streams, as users' have: what cannot be written is met again at exit.
os.environ.pop("PYTHONUNBUFFERED", None)

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "fgan",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("fgan")


@pytest.fixture(autouse=True)
def _denormals_are_kept():
    """Commands that run in this process have it flush them, which the next test does not expect."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def _no_report_is_written(request, monkeypatch):
    """A report takes longer than most runs of tests; those of test_report ask for theirs."""
    from fgan.run import report

    if request.module.__name__ != "test_report":
        monkeypatch.setattr(report, "is_available", lambda: False)


@pytest.fixture
def study(monkeypatch):
    """A function that imports a module of ``benchmarks/`` by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def fresh_dynamo():
    """Dynamo without anything compiled by other tests, and its counters at zero."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def quick_compiler(monkeypatch):
    """Compiled graphs are made as ever, but without Inductor, which takes most of the time.

    Programs that are run here to show that they are right use it; test_compile tries Inductor.
    """
    from fgan.compile import graph

    compile_with = graph._compile
    monkeypatch.setattr(
        graph, "_compile", lambda made, _, devices: compile_with(made, "eager", devices)
    )


@pytest.fixture
def fgan(monkeypatch, capfd, tmp_path):
    """Run the command in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    caught = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    handlers = {number: signal.getsignal(number) for number in caught}

    def run(*args):
        from fgan_cli.main import main

        monkeypatch.setattr(sys, "argv", ["fgan", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        return end.value.code, out, err

    yield run
    torch.set_flush_denormal(False)  # which the command has the processor do
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def command(tmp_path_factory):
    """Start the command in a real process, with a fault or without; killed when the test ends."""
    from processes import commands

    with commands(tmp_path_factory.mktemp("said")) as start:
        yield start
