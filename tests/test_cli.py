"""The command line: its surface, its exit codes, and what it says."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import fgan
from fgan.run import archs, recipes

SMALL = ["--steps", "6", "--batch-size", "16", "--gen-hidden", "8", "--disc-hidden", "8"]


def test_train_then_sample(fgan, tmp_path):
    code, out, err = fgan("train", "mnist", *SMALL)
    assert (code, out) == (0, "runs/0001-mnist-mlp\n")
    assert "60,000 images of 1×28×28" in err
    assert "step 6/6" in err
    assert "next: fgan sample runs/0001-mnist-mlp" in err

    assert fgan("sample", out.strip(), "-n", 9, "--out", "g.png")[:2] == (0, "g.png\n")
    assert Image.open("g.png").size == (92, 92)
    assert fgan("sample", out.strip(), "-n", 5, "--seed", 1, "--out", "s.npz")[0] == 0
    assert np.load("s.npz")["arr_0"].shape == (5, 28, 28, 1)
    assert fgan("sample", out.strip(), "-n", 3, "--out", "many")[0] == 0
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == [
        "000000.png",
        "000001.png",
        "000002.png",
    ]


def test_a_run_is_repeated_from_its_configuration(fgan, tmp_path):
    fgan("train", "ring", *SMALL, "--run-dir", "a", "--seed", "7")
    code, out, _ = fgan("train", "--config", "a/config.toml", "--run-dir", "b")
    assert (code, out) == (0, "b\n")
    for name in ("config.toml", "checkpoints/step-0000006.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_dry_run_writes_nothing(fgan, tmp_path):
    code, out, err = fgan("train", "grid", "--lr", "0.25", "--dry-run")
    assert code == 0
    assert "lr = 0.25" in out
    assert "100,000 points" in err
    assert list(tmp_path.iterdir()) == []


def test_quiet_prints_the_run_alone(fgan):
    assert fgan("train", "ring", *SMALL, "-q") == (0, "runs/0001-ring-mlp\n", "")


def test_a_run_goes_on(fgan, tmp_path):
    fgan("train", "ring", *SMALL, "--run-dir", "r")
    code, out, err = fgan("train", "--resume", "r", "--steps", 9)
    assert (code, out) == (0, "r\n")
    assert "Resumed from r/checkpoints/step-0000006.safetensors" in err
    assert (tmp_path / "r/checkpoints/step-0000009.safetensors").exists()
    assert "already at step 9" in fgan("train", "--resume", "r")[2]
    code, out, err = fgan("train", "--resume", "r", "--steps", 12, "--lr", 0.5)
    assert (code, out) == (2, "")
    assert "--lr: 0.001 in the run, 0.5 now" in err
    assert fgan("train", "--resume", "r", "--steps", 12, "--lr", 0.5, "--override")[0] == 0
    code, out, _ = fgan("train", "ring", *SMALL, "--resume", "auto", "--run-dir", "new")
    assert (code, out) == (0, "new\n")
    (tmp_path / "other.toml").write_text('data = "ring"\nloss = "hinge"\nsteps = 9\n')
    for said in (["--config", "other.toml"], ["--recipe", "mnist-mlp-small"]):
        code, _, err = fgan("train", *said, "--resume", "auto", "--run-dir", "new")
        assert code == 2
        assert "begun with other options" in err
    longer = (tmp_path / "new/config.toml").read_text().replace("steps = 6", "steps = 8")
    (tmp_path / "longer.toml").write_text(longer)
    code, out, _ = fgan("train", "--config", "longer.toml", "--resume", "auto", "--run-dir", "new")
    assert (code, out) == (0, "new\n")
    assert (tmp_path / "new/checkpoints/step-0000008.safetensors").exists()


def test_a_population(fgan, tmp_path):
    options = ["--optimizer", "sgd", "--sweep", "lr=0.5", "--sweep", "disc-lr=0.25,1e30"]
    code, out, err = fgan("train", "ring", *SMALL, "--seeds", "3,8-9", *options)
    assert (code, out) == (0, "runs/0001-ring-mlp\n")
    assert "6 members, seeds 3,8-9 × lr=0.5 disc_lr=0.25,1e+30" in err
    assert re.search(r"\n  lr +disc_lr +members +gen_loss", err)
    assert re.search(r"\n  0.5 +0.25 +3 +\d\.\d+ ± 0\.\d+ ", err)
    assert re.search(r"\n  0.5 +1e\+30 +3 +none finite ", err)
    named = re.findall(r"Not finite: member (\d) \((.*)\) at \d of 6 steps", err)
    assert named == [
        (str(3 + i), f"seed {s}, lr 0.5, disc_lr 1e+30") for i, s in enumerate((3, 8, 9))
    ]
    assert "next: fgan sample runs/0001-ring-mlp --member 0 -n 64" in err
    rows = [json.loads(row) for row in (tmp_path / "runs/0001-ring-mlp/metrics.jsonl").open()]
    assert [(row["step"], row["member"]) for row in rows] == [(6, i) for i in range(6)]

    run = out.strip()
    assert fgan("sample", run, "--member", 4, "--out", "g.png")[:2] == (0, "g.png\n")
    for wrong in (["--member", 6], ["--member", -1], []):
        code, out, err = fgan("sample", run, *wrong, "--out", "h.png")
        assert (code, out) == (2, "")
        assert "from 0 to 5" in err
    code, out, _ = fgan("inspect", run)
    assert code == 0
    assert "members: 6" in out
    assert "seeds: 3,8-9" in out
    code, out, err = fgan("train", "--resume", run, "--steps", 8)
    assert (code, out) == (0, "runs/0001-ring-mlp\n")
    assert "at 8 of 8 steps" in err
    code, out, err = fgan("train", "--resume", run, "--steps", 9, "--seeds", "3,8")
    assert (code, out) == (2, "")
    assert "--seeds: 3,8-9 in the run, 3,8 now" in err
    assert fgan("train", "ring", *SMALL, "--seeds", "0-2", "-q") == (0, "runs/0002-ring-mlp\n", "")


def test_seeds_alone_are_reported_by_metric(fgan):
    err = fgan("train", "ring", *SMALL, "--seeds", "0-2")[2]
    assert re.search(r"\n  metric +mean +± s.e. +min +max +members\n  gen_loss ", err)
    assert "Every member was finite at every step." in err


def test_inspect_says_what_is_there_and_whether_it_is_intact(fgan, tmp_path):
    fgan("train", "ring", *SMALL, "--run-dir", "r")
    code, out, _ = fgan("inspect", "r")
    assert code == 0
    assert "verdict: intact" in out
    assert "gen/params/0.weight" in out
    code, out, _ = fgan("inspect", "r", "--json")
    assert json.loads(out)["checkpoint"]["config"]["data"] == "ring"
    file = tmp_path / "r/checkpoints/step-0000006.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 4
    file.write_bytes(content)
    code, out, _ = fgan("inspect", "r/checkpoints/step-0000006.safetensors")
    assert code == 4
    assert "damaged" in out


def test_doctor_and_recipes(fgan):
    code, out, _ = fgan("doctor", "--json")
    assert (code, json.loads(out)["compile"]["works"]) == (0, True)
    code, out, _ = fgan("recipes")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(recipes.ALL)


def test_networks(fgan):
    code, out, _ = fgan("networks", "--image-size", 16)
    assert code == 0
    head, *rows = out.splitlines()
    assert head.split()[0] == "G,"
    assert [row.split()[0] for row in rows] == list(archs.ALL)
    code, out, _ = fgan("networks", "--image-size", 16, "--channels", 3, "--json")
    found = {row["arch"]: row for row in json.loads(out)}
    assert found.keys() == archs.ALL.keys()
    assert f"{found['r3gan']['gen_params'] - 16:,}" in rows[-1]  # grey: 2 of 3 rows of 8 fewer
    code, _, err = fgan("networks", "--image-size", 48)
    assert (code, "16, 32, 64, 128, 256" in err) == (2, True)


def test_bench_prints_a_table_or_json(fgan, tmp_path):
    options = [*SMALL[2:], "--quick", "--repeats", 3, "--seconds", 0.001, "--trained-steps", 2]
    code, out, err = fgan("bench", "ring", *options, "--compare", "eager,imperative")
    assert code == 0
    assert re.search(r"^eager .* 1\.00 ", out, re.MULTILINE)
    assert re.search(r"^imperative .*yes", out, re.MULTILINE)
    assert "eager" not in err
    options += ["--recipe", "mnist-mlp-small", "--compare", "imperative", "--json"]
    code, out, _ = fgan("bench", *options)
    found = json.loads(out)
    assert (code, found["config"]["share_fakes"], found["shape"]) == (0, True, [1, 28, 28])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_pictures(fgan, tmp_path, monkeypatch):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "faces").mkdir()
    for i in range(40):
        Image.effect_noise((20, 20), 50 + i).save(tmp_path / "faces" / f"seed{i}.png")
    (tmp_path / "faces" / "seed_bad.png").write_text("no picture")
    options = [*SMALL, "--image-size", 16, "--pattern", "*seed*"]
    code, _, err = fgan("train", "faces", *options)
    assert code == 3
    assert "seed_bad.png" in err
    code, out, err = fgan("train", "faces", *options, "--skip-bad")
    assert (code, out) == (0, "runs/0001-faces-mlp\n")
    assert "40 images of 1×16×16" in err
    assert "seed_bad.png" in (tmp_path / "runs/0001-faces-mlp/skipped.txt").read_text()
    streamed = fgan("train", "faces", *options, "--skip-bad", "--stream", "always")
    assert streamed[:2] == (0, "runs/0002-faces-mlp\n")
    last = "samples/step-0000006.png"
    assert (tmp_path / "runs/0001-faces-mlp" / last).read_bytes() == (
        tmp_path / "runs/0002-faces-mlp" / last
    ).read_bytes()


def test_existing_files_are_never_replaced(fgan, tmp_path):
    fgan("train", "ring", *SMALL, "--run-dir", "r")
    (tmp_path / "x.png").write_text("mine")
    assert fgan("sample", "r", "--out", "x.png")[0] == 7
    assert fgan("train", "ring", *SMALL, "--run-dir", "r")[0] == 7
    assert (tmp_path / "x.png").read_text() == "mine"


def test_divergence_exits_with_six(fgan):
    code, out, err = fgan("train", "ring", "--steps", 40, "--optimizer", "sgd", "--lr", "1e30")
    assert (code, out) == (6, "")
    assert re.search(r"error: .*checkpoints/step-\d+\.safetensors", err)


def test_compile_without_a_compiler(fgan, monkeypatch, tmp_path, tmp_path_factory):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path_factory.mktemp("nothing compiled")))
    monkeypatch.setenv("CXX", "no-such-compiler")
    code, _, err = fgan("train", "ring", "--compile", *SMALL)
    assert code == 5
    assert "C++ compiler, and CXX, which is 'no-such-compiler'," in err
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_fails(fgan, monkeypatch, tmp_path):
    broken = tmp_path / "broken-g++"
    broken.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    # A process of its own: Inductor remembers compilers and kernels.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    ended = subprocess.run(
        [sys.executable, "-m", "fgan", "train", "ring", "--compile", "-q", *SMALL],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 5, ended.stderr
    assert "could not be compiled" in ended.stderr
    assert "--no-compile" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_compiled_training_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "fgan", "train", "ring", "--compile", *SMALL, "--run-dir"]
    for name in ("a", "b"):
        ended = subprocess.run([*command, name], cwd=tmp_path, check=True, capture_output=True)
        assert b"leaked" not in ended.stderr, "an extension module complained at exit"
    same = "checkpoints/step-0000006.safetensors"
    assert (tmp_path / "a" / same).read_bytes() == (tmp_path / "b" / same).read_bytes()


def test_no_memory_is_no_bug(fgan, monkeypatch):
    def greedy(*plan, **options):
        torch.empty(2**58)  # more than any address space holds

    monkeypatch.setattr("fgan.run.loop.train", greedy)
    code, _, err = fgan("train", "ring", *SMALL)
    assert code == 5
    assert "--batch-size" in err


def test_debug_shows_the_traceback(fgan, monkeypatch):
    monkeypatch.setenv("FGAN_DEBUG", "1")
    assert "Traceback" in fgan("sample", "absent")[2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_exit(tmp_path, number, code):
    command = [sys.executable, "-m", "fgan", "train", "ring", "--run-dir", "r", "--log-every", "10"]
    process = subprocess.Popen(
        [*command, "--steps", "1000000"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    metrics = tmp_path / "r" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == b"r\n"
    assert b"resume: fgan train --resume r" in err
    assert len(list((tmp_path / "r" / "checkpoints").iterdir())) == 1


def test_help_version_and_usage_errors_stay_free_of_torch():
    code = """
import sys
from fgan_cli.main import main
for args in (["--version"], ["--help"], ["train", "--help"], ["sample", "--help"],
             ["train", "mnist", "--lr", "nan"], ["train", "--nonsense"],
             ["bench", "--help"], ["bench", "--compare", "nothing"],
             ["evaluate", "--help"], ["evaluate", "r", "--metrics", "nothing"],
             ["sample", "r", "--seeds", "1", "-n", "2"], ["interpolate", "--help"],
             ["interpolate", "r", "--seeds", "x"],
             ["report", "--help"], ["report"], ["report", "r", "-o", "no/such.html"]):
    sys.argv = ["fgan", *args]
    try:
        main()
    except SystemExit:
        pass
    assert not {"torch", "plotly", "jinja2"} & set(sys.modules), args
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


DOCUMENT = (pathlib.Path(__file__).parent.parent / "docs" / "options.md").read_text("utf-8")
BY_PANEL = {  # the options of a run, as the documentation has them
    part.split("\n")[0]: " ".join(re.findall(r"^\| `(--[^`]+)`", part, re.MULTILINE))
    for part in DOCUMENT.replace("/", " ").split("## ")[1:]
}
NOT_MEASURED = {
    "--lr-schedule", "--lr-length", "--lr-end", "--lr-warmup", "--sample-stats",
    "--conditional", "--unconditional", "--condition-head",
}  # fmt: skip
PLAYED = f"{BY_PANEL['Networks']} {BY_PANEL['Game']} ".split()
SURFACE = {
    "train": " ".join(BY_PANEL.values())
    + " --recipe --config --resume --override --run-dir --lock --no-lock --dry-run --quiet --help",
    "bench": " ".join(flag for flag in PLAYED if flag not in NOT_MEASURED)
    + """ --seed --device --dtype --threads --image-size --channels --recipe --config
        --compare --repeats --seconds --trained-steps --quick --json --plot --help""",
    "recipes": "--help --compile --recipe",
    "networks": "--image-size --channels --json --help",
    "inspect": "--json --help",
    "doctor": "--json --help",
    "sample": "--num --seed --seeds --truncation --member --label --out --device --help",
    "project": "--label --steps --starts --seed --member --out --device --help",
    "export": "--format --member --out --help",
    "interpolate": "--seeds --frames --loop --truncation --member --label --out --device --help",
    "evaluate": "--against --metrics --num --seed --member --truncation --all --again --image-size "
    "--channels --device --json --help",
    "report": "--out --diagnose --no-diagnose --open --no-open --help",
}


@pytest.mark.parametrize("command", SURFACE)
def test_the_options_of_each_command(fgan, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = fgan(command, "--help")
    assert code == 0
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", out))
    assert shown == set(SURFACE[command].split())


README = (pathlib.Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_commands_of_the_readme(fgan, monkeypatch):
    monkeypatch.setattr("fgan.run.diagnose.subject.NUM", 100)
    monkeypatch.setattr("fgan.run.known.EXAMPLES", 1000)
    commands = re.findall(
        r"^(?:.*&& )?fgan (train|sample|evaluate|diagnose|inspect) (.*)$", README, re.MULTILINE
    )
    assert len(commands) >= 4
    fgan("train", "mnist", *SMALL, "--run-dir", "runs/0001-mnist-mlp")
    fgan("train", "ring", *SMALL, "--seeds", "0-7", "--run-dir", "runs/0002-ring-mlp")
    fgan("train", "mnist", *SMALL, "--conditional", "--run-dir", "runs/0003-mnist-mlp")
    for verb, rest in commands:
        args = rest.split("#")[0].split()
        quick = {"train": ["--dry-run"], "evaluate": ["-n", "20"]}.get(verb, [])
        code, _, err = fgan(verb, *args, *quick)
        assert code == 0, (verb, rest, err)


def test_the_code_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        short = block.replace("range(1000)", "range(3)").replace("range(done, 1000)", "range(2)")
        exec(short, names)  # noqa: S102
        if "metrics.value: [8]" in block:
            assert names["metrics"].value.shape == (8,)
    assert names["state"].step == 5
    assert fgan.Run.load("runs/mine", names["state"])[1] == 1000


def test_the_module_is_the_command():
    out = subprocess.run(
        [sys.executable, "-m", "fgan", "--version"], capture_output=True, check=True, text=True
    )
    assert re.fullmatch(r"fgan \d+\.\d+\.\d+\n", out.stdout)


def test_warnings_of_pytorch_about_itself_are_not_shown(tmp_path):
    # In a process of its own: a warning comes once. Forward derivatives script functions.
    command = [sys.executable, "-m", "fgan", "train", "ring", *SMALL, "-q", "--order", "symplectic"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stderr == ""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(tmp_path, closed):
    command = shlex.join([sys.executable, "-m", "fgan", "train", "ring", *SMALL, "--run-dir", "r"])
    ended = subprocess.run(["sh", "-c", f"{command} {closed}"], cwd=tmp_path, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert b"Traceback" not in ended.stderr
    assert (tmp_path / "r/checkpoints/step-0000006.safetensors").exists()


def test_what_to_type_next_can_be_typed(fgan, tmp_path):
    _, _, err = fgan("train", "ring", *SMALL, "--run-dir", "my run (1)")
    (line,) = re.findall(r"next: fgan (.*)", err)
    assert fgan(*shlex.split(line))[0] == 0
    assert (tmp_path / "samples.png").exists()
