"""Exports of generators: parity with the run, programs that load them, and model cards."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file

from fgan import nets
from fgan.disk.rundir import RunDir
from fgan.errors import ConfigError, DeviceError, DiskError, RunError
from fgan.model import to_module
from fgan.run import export as exporting
from fgan.run import images, kept, latents, loop, names
from fgan.run import sample as sampling
from fgan.run.config import resolve
from fgan.run.export import card, formats

MLP = {"gen_hidden": (8,), "disc_hidden": (8,)}
SMALL = {"z_dim": 6, "batch_size": 8, "steps": 2}
RUNS = {
    "mlp": MLP | {"batch_norm": "all"},
    "mlp, sigmoid": MLP | {"output": "sigmoid"},
    "mlp by class": MLP | {"conditional": True},
    "choice by class": MLP | {"z_choice": 4, "conditional": True},
    "population": MLP | {"seeds": (0, 4)},
    "float64": MLP | {"dtype": "float64"},
    "bfloat16": MLP | {"dtype": "bfloat16"},
    "points": MLP | {"data": "ring"},
    "dcgan": {"arch": "dcgan", "features": 2, "image_size": 16},
    "resnet by class": {"arch": "resnet", "features": 2, "image_size": 16, "conditional": True},
    "r3gan": {"arch": "r3gan", "features": 4, "image_size": 16},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run by its name in the table; each is trained once."""
    place = tmp_path_factory.mktemp("runs")
    labels = np.arange(24) % 3
    pixels = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3), np.uint8)
    np.savez(place / "zoo.npz", images=pixels, labels=labels, classes=["ape", "bee", "cat"])
    done = {}

    def run(name):
        if name not in done:
            options = SMALL | {"data": str(place / "zoo.npz")} | RUNS[name]
            folder = place / str(len(done))
            done[name] = loop.run(resolve(base=options), run_dir=folder).run.path
        return done[name]

    return run


def out(name):
    """The name of a program's result."""
    return "points" if name == "points" else "images"


def exported(made, name, folder, *forms):
    """The folder of an export, and the programs of its card."""
    member = 1 if name == "population" else None
    found = exporting.export(made(name), forms, folder / "out", member=member)
    assert [each.format for each in found] == list(forms)
    assert all(0 <= each.difference < 1e-5 for each in found)
    text = (folder / "out" / card.NAME).read_text()
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(programs) == len(forms)
    return folder / "out", programs


def run_program(text, folder, monkeypatch):
    """The values that a program leaves; it is run in its folder."""
    monkeypatch.chdir(folder)
    values = {"__name__": "program"}
    exec(text, values)  # noqa: S102
    return values


def draws_the_samples(program, made, name):
    """Whether a program of z and labels draws the samples of seeds, in batches of any size."""
    seeds, label = range(7), "bee" if "by class" in name else None
    given = [latents.of_seeds(seeds, (6,), torch.float32, torch.device("cpu"))]
    given += [torch.ones(7, dtype=torch.int64)] if label else []
    member = 1 if name == "population" else None
    expected = sampling.sample_seeds(made(name), seeds, member=member, label=label).double()
    # Another number of rows, or another library, may round to the next grey. The products of the
    # bfloat16 run are coarser than the export's, by 2^-8 each.
    near = {"points": 1e-5, "bfloat16": 4}.get(name, 1)
    for size in (7, 3, 1):
        with torch.no_grad():
            found = torch.as_tensor(program(*(each[:size] for each in given)))
        found = found if name == "points" else images.to_uint8(found, 0.0)
        assert found.shape == expected[:size].shape
        assert (found.double() - expected[:size]).abs().max() <= near


@pytest.mark.parametrize("name", RUNS)
def test_what_is_written_draws_the_samples_of_the_run(made, name, tmp_path, monkeypatch):
    folder, (by_torch, by_values) = exported(made, name, tmp_path, "torch", "safetensors")
    assert "fgan" not in by_torch
    names = run_program(by_torch, folder, monkeypatch)
    draws_the_samples(names["generator"], made, name)
    first = names[out(name)]
    assert len(first) == 16
    names = run_program(by_values, folder, monkeypatch)
    assert names[out(name)].shape == first.shape
    low = 0.0 if "sigmoid" in name else -1.0
    if name != "points":
        assert 0 <= float(names["images"].min()) <= float(names["images"].max()) <= 1
    module = formats.Program(names["generator"], low, is_images=name != "points")
    draws_the_samples(module, made, name)
    said = f"`generator.safetensors`: the same from {low:g} (black) to 1 (white)"
    assert (said in (folder / card.NAME).read_text()) == (name != "points")
    said = "The last 4 numbers of `z` are a choice of one in 4: the generator sees only which"
    assert (said in (folder / card.NAME).read_text()) == ("choice" in name)


ONNX = [pytest.param(n, marks=[] if n == "mlp by class" else pytest.mark.slow) for n in RUNS]


@pytest.mark.parametrize("name", ONNX)
def test_onnxruntime_draws_the_samples_of_the_run(made, name, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder, (program,) = exported(made, name, tmp_path, "onnx")
    assert not {"fgan", "torch"} & set(re.findall(r"\w+", program))
    names = run_program(program, folder, monkeypatch)
    assert len(names[out(name)]) == 16
    session = names["session"]
    assert [each.shape[0] for each in session.get_inputs()] == ["batch"] * (1 + ("class" in name))

    def run(*given):
        named = dict(zip(("z", "labels"), (t.numpy() for t in given), strict=False))
        return session.run(None, named)[0]

    draws_the_samples(run, made, name)


@pytest.mark.slow
def test_a_process_without_fgan_draws_the_samples(made, tmp_path):
    folder, (program,) = exported(made, "resnet by class", tmp_path, "torch")
    z = latents.of_seeds(range(16), (6,), torch.float32, torch.device("cpu"))
    np.save(folder / "z.npy", z.numpy())
    first = "import numpy, sys; sys.modules['fgan'] = None  # so that importing it fails"
    given = program.replace("torch.randn(16, 6)", "torch.from_numpy(numpy.load('z.npy'))")
    assert given != program
    code = f"{first}\n{given}\nnumpy.save('x', images)"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    found = images.to_uint8(torch.from_numpy(np.load(folder / "x.npy")), 0.0).int()
    for i in range(3):
        expected = sampling.sample_seeds(made("resnet by class"), range(i, 16, 3), label=str(i))
        assert (found[i::3] - expected.int()).abs().max() <= 1
    assert (folder / "torch.png").stat().st_size > 0


def test_values_have_the_names_of_the_module(made, tmp_path):
    folder, _ = exported(made, "resnet by class", tmp_path, "safetensors")
    path = folder / "generator.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["fgan"])
    gen, _ = nets.ALL[facts.pop("arch")](**facts)
    assert load_file(path).keys() == to_module(gen).state_dict().keys()


def test_an_export_that_differs_is_refused_and_removed(made, tmp_path, monkeypatch):
    right = formats.ALL["torch"]

    def wrong(by):
        def read(path, fresh):
            run = right.read(path, fresh)
            return lambda *given: run(*given) + by

        return right._replace(read=read)

    for by in (2e-4, float("nan")):
        monkeypatch.setitem(formats.ALL, "torch", wrong(by))
        with pytest.raises(RunError, match=r"generator\.pt2 is not kept, because it differs"):
            exporting.export(made("mlp"), ("safetensors", "torch"), tmp_path / "out")
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setitem(formats.ALL, "torch", wrong(5e-5))
    exporting.export(made("mlp"), ("torch",), tmp_path / "out")


def test_the_card(made, tmp_path):
    folder, _ = exported(made, "mlp by class", tmp_path, "torch")
    text = (folder / card.NAME).read_text()
    assert "# A generator of images: mlp on " in text
    assert "- `z`: float32 [B, 6], standard normal" in text
    assert "the numbers of the classes: 0 ape, 1 bee, 2 cat." in text
    assert "images, float32 [B, 3, 8, 8], from 0 (black) to 1 (white)" in text
    assert "Licence of the data: unknown: fill in." in text
    assert "| `--conditional` | yes | no |" in text
    assert "--lr`" not in text
    assert "None were computed" in text
    assert re.search(r"\| torch \| \d+\.\d+", text)
    run = RunDir(made("mlp by class"))
    own = {
        "step": 2, "seed": 0, "samples": 100, "against": "train", "metric": "classes",
        "protocol": "1: nearest", "fgan": "0", "data": "x",
        "values": {"kl_to_uniform": 0.125, "shares": [0.5, None]},
        "intervals": {"kl_to_uniform": [0.1, 0.25]},
    }  # fmt: skip
    cut = own | {"truncation": 1.25}
    other = own | {"step": 1, "metric": "parzen"}, own | {"member": 0, "metric": "m"}
    kept.add(run, [own, cut, *other])
    exporting.export(run.path, ("safetensors",), tmp_path / "again")
    text = (tmp_path / "again" / card.NAME).read_text()
    assert "| classes.kl_to_uniform | 0.125 | 0.1 to 0.25 | 100 | train | 1: nearest |" in text
    assert "| classes.shares | 0.5 not finite |  | 100 |" in text
    assert "| classes.shares | 0.5 not finite |  | 100, cut off at 1.25 |" in text
    assert "parzen" not in text
    assert "| m." not in text


def test_the_licences_that_are_known():
    assert set(card.LICENCES) <= set(names.DATA_SETS)
    assert "CC BY-SA 3.0" in card.LICENCES["mnist"]


def test_refusals(made, tmp_path, monkeypatch):
    def refused(problem, error=ConfigError, run="mlp", forms=("torch",), **options):
        with pytest.raises(error, match=problem):
            exporting.export(made(run), forms, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    refused("--format has no 'tf'", forms=("torch", "tf"))
    refused("--format has no ''", forms=())
    refused("--format torch,torch names a format twice", forms=("torch", "torch"))
    refused("--member is missing", run="population")
    refused("there is no --member 2", run="population", member=2)
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused("--format onnx needs onnx, which cannot", DeviceError, forms=("onnx",))
    (tmp_path / "here").mkdir()
    with pytest.raises(DiskError, match="exists and is not replaced"):
        exporting.export(made("mlp"), ("torch",), tmp_path / "here")


def test_a_run_that_samples_by_batch_statistics_is_refused(tmp_path):
    options = SMALL | MLP | {"data": "ring", "sample_stats": "batch", "batch_norm": "all"}
    run = loop.run(resolve(base=options), run_dir=tmp_path / "run").run.path
    with pytest.raises(ConfigError, match="--sample-stats batch"):
        exporting.export(run, ("torch",), tmp_path / "out")


def test_the_command(fgan, made, tmp_path):
    run = made("bfloat16")
    code, said, err = fgan("export", run, "--format", "torch, safetensors", "-o", "gen")
    assert code == 0, err
    assert re.fullmatch(
        r"generator\.pt2 +differs from the run by \d\.\de-\d\d\n"
        r"generator\.safetensors +differs from the run by \d\.\de-\d\d\n"
        r"largest allowed +1e-04\ngen\n",
        said,
    )
    assert "The run multiplies in bfloat16" in err
    found = sorted(path.name for path in (tmp_path / "gen").iterdir())
    assert found == ["MODEL_CARD.md", "generator.pt2", "generator.safetensors"]
    code, said, err = fgan("export", run, "--format", "jax", "-o", "x")
    assert (code, said) == (2, "")
    assert err == (
        "error: --format has no 'jax'.\n"
        "fix: Use some of torch, onnx, safetensors, as in --format torch,onnx.\n"
    )
