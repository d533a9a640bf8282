"""`--dtype auto`: what it becomes on a processor, that it is written down, and that it stays."""

from __future__ import annotations

import pytest
import torch

from fgan.disk import machine
from fgan.errors import ConfigError
from fgan.run import assemble, config, doctor, dtypes, loop, recipes, resume
from fgan.run.plan import make_plan

SMALL = {
    "data": "ring", "z_dim": 3, "gen_hidden": (512,), "disc_hidden": (4,), "batch_size": 8,
    "steps": 3, "device": "cpu", "report": False, "compile": True,
}  # fmt: skip
FAST = "GenuineIntel fpu avx512f avx512_bf16 amx_bf16 amx_tile"
SLOW = "AuthenticAMD fpu avx2 avx512f avx512_vnni bf16"


def on(processor: str, monkeypatch) -> None:
    monkeypatch.setattr(machine, "instructions", lambda: processor)


def settled(**options) -> config.TrainConfig:
    return config.resolve(**SMALL | {"dtype": "auto"} | options)


@pytest.mark.parametrize(
    ("processor", "dtype"),
    [
        (FAST, "bfloat16"),
        ("AuthenticAMD fpu avx512f avx512_bf16", "bfloat16"),
        ("GenuineIntel fpu amx_bf16 amx_tile", "bfloat16"),
        (SLOW, "float32"),
        ("Darwin arm64 arm", "float32"),
    ],
)
def test_it_is_bfloat16_where_the_processor_multiplies_that(processor, dtype, monkeypatch):
    on(processor, monkeypatch)
    made = make_plan(settled())
    assert made.settings["dtype"] == dtype
    expected = make_plan(config.resolve(**SMALL, dtype=dtype))
    z = torch.linspace(-1, 1, 24).view(8, 3)
    weights = made.game.gen.init(assemble.make_key(settled(), "cpu"))
    out = [plan.game.gen.apply(*weights, z)[0] for plan in (made, expected)]
    assert torch.equal(*out)
    devices = doctor.facts()["devices"] if processor == FAST else doctor._devices()
    assert devices[0]["dtype_auto"] == dtype


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("compiles", [True, False])
def test_a_step_that_waits_for_something_else_is_in_float32(device, compiles, monkeypatch):
    """A perceptron's waits for Python, or for launches; one with convolutions for products."""
    monkeypatch.setattr(dtypes, "multiplies_bfloat16", lambda device: True)
    monkeypatch.setattr(dtypes, "find_device", lambda name: torch.device(device))
    waits = device == "cpu" and compiles
    expected = "bfloat16" if waits else "float32"
    assert dtypes.decide_dtype(settled(compile=compiles)).dtype == expected
    narrow = settled(compile=compiles, gen_hidden=(511,))
    assert dtypes.decide_dtype(narrow).dtype == "float32"
    images = config.resolve(data="mnist", arch="dcgan", dtype="auto", compile=compiles)
    assert dtypes.decide_dtype(images).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"data": "mnist"}, "bfloat16"),
        ({"data": "mnist", "conditional": True}, "bfloat16"),
        ({"data": "mnist", "arch": "dcgan"}, "bfloat16"),
        ({"data": "mnist", "arch": "dcgan", "seeds": (0, 1)}, "bfloat16"),
        ({"data": "mnist", "arch": "resnet"}, "float32"),
        ({"data": "mnist", "arch": "r3gan"}, "float32"),
        ({"data": "ring"}, "float32"),
    ],
)
def test_the_default_is_that_of_images_of_a_perceptron_and_a_dcgan(options, dtype, monkeypatch):
    on(FAST, monkeypatch)
    assert dtypes.decide_dtype(config.resolve(**options, compile=True)).dtype == dtype


@pytest.mark.parametrize("name", recipes.ALL)
def test_recipes_stay_in_float32(name, monkeypatch):
    on(FAST, monkeypatch)
    resolved = recipes.resolve(name, data="mnist", compile=True)
    assert dtypes.decide_dtype(resolved).dtype == "float32"


def test_another_dtype_stays_on_every_processor(monkeypatch):
    for processor in (FAST, SLOW):
        on(processor, monkeypatch)
        for dtype in ("float32", "float64", "bfloat16"):
            assert dtypes.decide_dtype(settled(dtype=dtype)).dtype == dtype


def test_where_bfloat16_is_refused_it_is_float32(monkeypatch):
    """These options refuse ``--dtype bfloat16``, and auto does not."""
    on(FAST, monkeypatch)
    options = {"data": "mnist", "arch": "mlp", "batch_norm": "all", "order": "symplectic"}
    options["compile"] = True
    with pytest.raises(ConfigError, match="bfloat16"):
        config.resolve(**options, dtype="bfloat16")
    assert dtypes.decide_dtype(config.resolve(**options, dtype="auto")).dtype == "float32"


@pytest.mark.parametrize(("begun", "goes_on"), [(FAST, SLOW), (SLOW, FAST)])
def test_a_run_keeps_the_dtype_that_it_began_with(begun, goes_on, tmp_path, monkeypatch):
    on(begun, monkeypatch)
    dtype = {FAST: "bfloat16", SLOW: "float32"}[begun]
    loop.run(settled(), run_dir=tmp_path / "run")
    assert config.resolve(file=tmp_path / "run" / "config.toml").dtype == dtype
    on(goes_on, monkeypatch)
    point = resume.find(tmp_path / "run")
    assert point.config.dtype == dtype
    # Who says auto again means what it was, and who names another is refused.
    assert resume.extend(point, {"dtype": "auto", "steps": 5}).config.dtype == dtype
    assert resume.latest_like(settled(), None, tmp_path) is None  # no numbered run is there
    assert not resume.differing(point, settled())
    other = {"bfloat16": "float32", "float32": "bfloat16"}[dtype]
    with pytest.raises(ConfigError, match=f"--dtype: {dtype} in the run, {other} now"):
        resume.extend(point, {"dtype": other})
