"""The C++ of a library: the parts it is compiled from, and that it works without shortcuts."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._inductor import codecache, cpp_builder, select_algorithm
from torch._inductor.cpp_builder import CppBuilder
from torch._inductor.exc import CppCompileError

from fgan import cpp, kept
from fgan.compile import compile_function
from fgan.toolchain import cxx_version, find_cxx


@pytest.fixture
def built(monkeypatch, tmp_path, shared_parts):
    """The sources of each call of the C++ compiler, as they were when it ended."""
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path))
    seen, build = {}, CppBuilder.build

    def building(builder):
        build(builder)
        sources = [word for word in builder.get_command_line().split() if word.endswith(".cpp")]
        for source in sources:
            with open(source) as file:
                name = builder.get_target_file_path().rsplit("/", 1)[-1].split(".", 1)[-1]
                seen.setdefault(name, []).append(file.read())

    monkeypatch.setattr(CppBuilder, "build", building)
    return seen


def function(x, y):
    return torch.softmax(x @ y, 0) + 1


ARGS = torch.arange(12.0).reshape(3, 4) / 12, torch.eye(4)
INTERFACE = "AOTInductorModelContainerRun("  # a function that every library offers


def check():
    torch.testing.assert_close(compile_function(function)(*ARGS), function(*ARGS))


def test_the_interface_is_compiled_apart_and_once(built, monkeypatch, tmp_path):
    monkeypatch.setattr(kept, "parts", lambda: tmp_path / "parts")

    def interfaces():
        return sum(INTERFACE in part for part in built["o"])

    check()
    (wrapper,) = built["wrapper.o"]
    assert INTERFACE not in wrapper
    assert "run_impl" in wrapper
    assert interfaces() == 1
    assert compile_function(torch.tanh)(ARGS[0]).equal(ARGS[0].tanh())
    assert interfaces() == 1
    monkeypatch.setattr(cpp, "cxx_version", lambda compiler: "another")
    for path in (tmp_path / "parts").iterdir():  # of the other, and damaged
        path.write_bytes(path.read_bytes()[:-1])
    compile_function(torch.sin)(ARGS[0])
    assert interfaces() == 2
    assert len(list((tmp_path / "parts").iterdir())) == 4


def test_a_part_is_kept_whole(monkeypatch, tmp_path):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path))
    names = [f"{i:02d}" for i in range(20)]
    assert kept.recall_part("00") is None
    for i, name in enumerate(names):
        kept.keep_part(name.encode(), name)
        os.utime(kept.parts() / name, (i, i))
        assert kept.recall_part("00") == b"00"  # which makes it the last that was used
    left = {path.name for path in kept.parts().iterdir()}
    assert left == {"00", *names[-15:]}
    path = kept.parts() / "19"
    whole = path.read_bytes()
    for damaged in (b"", whole[:10], whole[:-1], whole + b"x", b"x" + whole[1:]):
        path.write_bytes(damaged)
        assert kept.recall_part("19") is None
    monkeypatch.setenv("FGAN_CACHE", str(path))  # no folder
    kept.keep_part(b"", "00")
    assert kept.recall_part("00") is None


def test_another_compiler_says_so(tmp_path):
    assert cxx_version(find_cxx())
    assert cxx_version(str(tmp_path / "none")) == ""


def test_inputs_are_not_checked_and_nothing_is_left(built, tmp_path):
    check()
    (library,) = (tmp_path / "compiled").iterdir()
    assert {path.name for path in library.iterdir()} <= {"graph.so", "graph.json", "graph.sha256"}
    (wrapper,) = built["wrapper.o"]
    checks = wrapper.partition("__check_inputs_outputs(")[2].partition("}")[0]
    assert "arg0_1" not in checks
    assert "unmatched" not in wrapper


def no_interface(monkeypatch, tmp_path):
    other = tmp_path / "interface.cpp"
    other.write_text("// of another version\nint other() { return 0; }\n")
    monkeypatch.setattr(cpp, "_INTERFACE", other)


def no_join(monkeypatch, tmp_path):
    def fails(*args):
        raise subprocess.CalledProcessError(1, "g++ -r")

    monkeypatch.setattr(cpp, "_join", fails)


def no_products(monkeypatch, tmp_path):
    monkeypatch.setattr(cpp, "_PRODUCTS", tmp_path / "missing.cpp")


def no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(cpp, "_INTERFACE", tmp_path / "missing.cpp")


@pytest.mark.parametrize(
    "fault",
    [
        no_interface,
        no_join,
        no_products,
        pytest.param(no_file, marks=pytest.mark.slow),
    ],
)
def test_else_the_wrapper_is_compiled_whole(built, monkeypatch, tmp_path, caplog, fault):
    fault(monkeypatch, tmp_path)
    caplog.set_level("INFO", "fgan")
    check()
    assert "as Inductor wrote it" in caplog.text
    assert INTERFACE in built["wrapper.o"][-1]


def test_triton_is_not_read(built, monkeypatch):
    """And what Inductor keeps of it for a GPU stays as it was."""

    @staticmethod
    def reads():
        raise AssertionError("all of Triton is read")

    monkeypatch.setattr(codecache.CacheBase, "get_system", reads)
    monkeypatch.setattr(select_algorithm, "_ALGORITHM_SELECTOR_CACHE", None)
    check()
    assert codecache.CacheBase.__dict__["get_system"] is reads
    assert select_algorithm._ALGORITHM_SELECTOR_CACHE is None


def test_compilers_do_not_hear_the_terminal_and_end_with_what_waits(tmp_path):
    pid = tmp_path / "pid"
    command = f"sh -c 'echo $$ > {pid}.tmp; mv {pid}.tmp {pid}; sleep 60'"
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(KeyboardInterrupt), cpp._own_compilers():  # noqa: PT012
            compiling = pool.submit(cpp_builder.run_compile_cmd, command, str(tmp_path))
            while not pid.exists():
                assert not compiling.done()
                time.sleep(0.01)
            assert os.getpgid(int(pid.read_text())) != os.getpgid(0)
            raise KeyboardInterrupt
        with pytest.raises(CppCompileError):
            compiling.result(timeout=30)


def test_what_a_compiler_says_is_in_the_error(tmp_path):
    with cpp._own_compilers(), pytest.raises(CppCompileError, match="no such thing"):
        cpp_builder.run_compile_cmd("sh -c 'echo no such thing; exit 3'", str(tmp_path))
