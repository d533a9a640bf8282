"""Standard output that cannot write the name of a run: escaped, and never a failure."""

from __future__ import annotations

import io
import os
import sys

import pytest

from fgan.run import config as configs
from fgan.run import loop

TINY = {"data": "ring", "gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8, "steps": 1}


@pytest.fixture
def printed(monkeypatch, tmp_path):
    """Run the command with outputs of an encoding: (exit code, bytes of stdout, of stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(encoding, *args):
        from fgan_cli.main import main

        streams = [io.BytesIO(), io.BytesIO()]
        for name, errors, stream in zip(
            ("stdout", "stderr"), ("strict", "backslashreplace"), streams, strict=True
        ):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding, errors))
        monkeypatch.setattr(sys, "argv", ["fgan", *args])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *(stream.getvalue() for stream in streams)

    return run


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_a_name_that_cannot_be_written_is_escaped(printed, encoding):
    loop.run(configs.resolve(TINY), run_dir=loop.Path("Ω"))
    code, out, err = printed(encoding, "train", "--resume", "Ω", "--steps", "2")
    assert (code, out) == (0, b"\\u03a9\n"), err
    assert b"2 steps" in err
    for args in (["inspect", "Ω"], ["sample", "Ω", "-n", "1", "--out", "Ω.png"]):
        code, out, err = printed(encoding, *args)
        assert (code, err) == (0, b""), args
        assert b"\\u03a9" in out


@pytest.mark.parametrize(
    "args", [["recipes"], ["--help"], ["train", "--help"], ["bench", "--help"]]
)
def test_what_the_command_says_itself_can_be_written(printed, args):
    code, out, err = printed("ascii", *args)
    assert (code, err) == (0, b"")
    assert out


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
def test_a_name_that_is_no_text_is_printed_in_its_own_bytes(printed):
    name = os.fsdecode(b"r\xe9")
    loop.run(configs.resolve(TINY), run_dir=loop.Path(name))
    code, out, err = printed("utf-8", "train", "--resume", name, "--steps", "2", "-q")
    assert (code, out) == (0, b"r\xe9\n"), err
