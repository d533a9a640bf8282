"""The run of all studies: what a short run asks of each, and which cases are compared again."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest


@pytest.fixture
def run(study):
    return study("run")


class Parsed(Exception):  # noqa: N818  (nothing went wrong)
    """Thrown where a study would begin, with its arguments."""


def parsed(run, name: str, options: list[str], monkeypatch) -> argparse.Namespace:
    whole = argparse.ArgumentParser.parse_args

    def parse(parser, *args, **named):
        raise Parsed(whole(parser, options))

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", parse)
        patched.setattr(sys, "argv", [f"{name}.py"])
        with pytest.raises(Parsed) as found:
            run.STUDIES[name].module.main()
    return found.value.args[0]


def test_every_study_knows_its_options_and_does_less_in_a_short_run(run, monkeypatch):
    fewer = []
    for name, each in run.STUDIES.items():
        short, whole = (
            vars(parsed(run, name, each.command(tiny=False, whole=whole), monkeypatch))
            for whole in (False, True)
        )
        for key in ("cases", "programs", "members", "axes", "archs", "loops"):
            if key in short and short[key] != whole[key]:
                assert set(short[key].split(",")) < set(whole[key].split(",")), (name, key)
                fewer.append(name)
        for key in ("repeats", "seconds", "trained_steps", "starts"):
            assert short.get(key, 0) <= whole.get(key, 0), (name, key)
        assert parsed(run, name, each.command(tiny=True, whole=False), monkeypatch).tiny
    assert {"step_time", "networks", "ranks", "streaming"} <= set(fewer)


def test_only_a_whole_run_times_kept_denormals(run, monkeypatch):
    for name in ("step_time", "networks"):
        for whole, expected in ((False, "flushed"), (True, "both")):
            options = run.STUDIES[name].command(tiny=False, whole=whole)
            assert parsed(run, name, options, monkeypatch).denormals == expected


def test_old_cases_that_a_short_run_has_are_compared_again(run):
    networks, products, others = (run.STUDIES[n] for n in ("networks", "products", "population"))
    assert networks.again(["mlp", "r3gan"], whole=False) == ["--cases", "mlp"]
    assert networks.again(["mlp", "r3gan"], whole=True) == ["--cases", "mlp,r3gan"]
    # Old results without any of the few cases have their own measured again.
    assert products.again(["mnist-mlp-small"], whole=False) == ["--cases", "mnist-mlp-small"]
    assert others.again([], whole=False) == []


@pytest.mark.parametrize(("more", "cases"), [([], "mlp"), (["--whole"], "mlp,r3gan")])
def test_a_comparison_asks_a_study_for_few_cases_or_all(run, tmp_path, monkeypatch, more, cases):
    ratio = {"median": 1.5, "low": 1.4, "high": 1.6}

    def made(arch):
        times = {"milliseconds": {"median": 1.0}, "speedup": ratio}
        return {"baseline": "modules", "config": {"batch_size": 64}, "notes": [],
                "programs": {"modules": times, "compiled-donated": times}}  # fmt: skip

    file = tmp_path / "networks-old.json"
    file.write_text(json.dumps({"cases": {arch: made(arch) for arch in ("mlp", "r3gan")}}))
    asked = []

    def answer(command, **named):
        asked.append(command)
        named = command[-1].split(",")
        found = json.dumps({"cases": {arch: made(arch) for arch in named}})
        return subprocess.CompletedProcess(command, 0, found)

    monkeypatch.setattr(run.subprocess, "run", answer)
    words = ["run.py", "--against", str(file), "--results", str(tmp_path / "new"), *more]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code == 0
    (command,) = asked
    assert command[-2:] == ["--cases", cases]
    assert ("flushed" in command) is (not more)
