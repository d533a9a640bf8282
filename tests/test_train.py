"""The loop: what a run leaves behind, and that it does what its configuration says."""

from __future__ import annotations

import json
import math

import pytest
import torch
from support import assert_same

import fgan
from fgan import pytree
from fgan.disk import checkpoint
from fgan.errors import ConfigError, DiskError, DivergedError
from fgan.run import assemble, config, loop, names, sample, summary
from fgan.run.members import Member
from fgan.run.options import WEIGHTS
from fgan.run.plan import make_plan

TINY = {
    "z_dim": 8,
    "gen_hidden": (16,),
    "disc_hidden": (16,),
    "batch_size": 32,
    "steps": 12,
    "log_every": 5,
    "sample_every": 6,
    "save_every": 6,
    "lr_schedule": "constant",
}


def tiny(**options):
    return config.resolve(TINY | options)


def rows(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_what_a_run_leaves_behind(tmp_path):
    result = loop.run(tiny(loss="non_saturating"), run_dir=tmp_path / "r")
    run = result.run
    found = sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file())
    assert found == [
        "checkpoints/step-0000006.safetensors",
        "checkpoints/step-0000012.safetensors",
        "config.toml",
        "metrics.jsonl",
        "progress.gif",
        "samples/real.png",
        "samples/step-0000006.png",
        "samples/step-0000012.png",
    ]
    assert [row["step"] for row in rows(run)] == [5, 10, 12]
    last = rows(run)[-1]
    assert list(last) == [
        "step",
        "epoch",
        "images_seen",
        "gen_loss",
        "disc_loss",
        "value",
        "d_real",
        "d_fake",
        "gen_grad_norm",
        "disc_grad_norm",
        "images_per_second",
        "seconds",
    ]
    assert last["images_seen"] == 12 * 32
    assert last["epoch"] == pytest.approx(12 / (60000 // 32), abs=1e-4)
    assert all(math.isfinite(v) for v in last.values())
    assert last["disc_loss"] == pytest.approx(-last["value"], rel=1e-6)
    assert int(result.state.step) == 12


def test_the_same_seed_gives_the_same_files(tmp_path):
    first = loop.run(tiny(seed=3), run_dir=tmp_path / "a").run
    second = loop.run(config.resolve(file=first.config), run_dir=tmp_path / "b").run
    other = loop.run(tiny(seed=4), run_dir=tmp_path / "c").run
    for name in ("checkpoints/step-0000012.safetensors", "samples/step-0000012.png", "config.toml"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name
        assert (first.path / name).read_bytes() != (other.path / name).read_bytes(), name
    timeless = [
        [{k: v for k, v in row.items() if "second" not in k} for row in rows(run)]
        for run in (first, second)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize(
    "options",
    [
        {"data": "ring"},
        {"data": "grid", "disc_steps": 3, "loss": "minimax"},
        {"order": "simultaneous", "optimizer": "rmsprop"},
        {"share_fakes": True, "batch_norm": "all", "dropout": 0.3},
        {"ema": 0.0, "optimizer": "sgd", "lr": 0.1},
        {"dtype": "bfloat16"},
        {"dtype": "float64", "data": "ring", "disc_lr": 1e-4},
    ],
    ids=str,
)
def test_the_loop_is_the_step_fed_by_hand(tmp_path, options):
    """The state after a run equals that of the public step over the same batches and draws."""
    settings = tiny(**options)
    result = loop.run(settings, run_dir=tmp_path / "r")
    source = assemble.load_source(settings)
    game = assemble.make_game(settings, source.shape)
    dtype = torch.float64 if settings.dtype == "float64" else torch.float32
    key = fgan.rng.key(settings.seed)
    state = fgan.init_state(game, key, dtype=dtype)
    batches = fgan.data.Batches(source, key, settings.batch_size, settings.disc_steps)
    steps = fgan.make_steps(game)
    for t in range(settings.steps):
        real = fgan.data.normalise(source.examples[batches.indices(t)], dtype=dtype)
        draws = fgan.make_draws(game, key, t, settings.batch_size, dtype=dtype)
        state, _ = steps(t)(state, real, draws)
    # A block of draws is made by vectorised code whose last elements may take another path:
    # one unit in the last place of a latent, at most.
    for name, a, b in zip(
        pytree.paths(state), pytree.leaves(state), pytree.leaves(result.state), strict=True
    ):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)


def test_parameters_and_losses_stay_float32_in_bfloat16(tmp_path):
    result = loop.run(tiny(dtype="bfloat16"), run_dir=tmp_path / "r")
    kinds = {leaf.dtype for leaf in pytree.leaves(result.state)}
    assert kinds == {torch.float32, torch.int64}  # int64: the key, the step, counts of batches


def test_divergence_keeps_and_names_the_last_finite_state(tmp_path):
    with pytest.raises(DivergedError) as caught:
        loop.run(tiny(optimizer="sgd", lr=1e30, steps=50), run_dir=tmp_path / "r")
    assert caught.value.exit_code == 6
    saved = sorted((tmp_path / "r" / "checkpoints").iterdir())[-1]
    assert str(saved) in caught.value.problem
    tensors = checkpoint.load(saved).tensors
    assert all(t.isfinite().all() for t in tensors.values())


def test_every_step_can_be_logged(tmp_path):
    run = loop.run(tiny(log_every=1, data="ring"), run_dir=tmp_path / "r").run
    assert [row["step"] for row in rows(run)] == list(range(1, 13))
    assert all(row["images_per_second"] > 0 for row in rows(run))


def test_a_stop_saves_and_ends_after_the_step(tmp_path):
    class StopAtFour(loop.Observer):
        steps = 0

        def advanced(self, step):
            self.steps = step

        def stop_requested(self):
            return self.steps == 4

    result = loop.run(tiny(), StopAtFour(), run_dir=tmp_path / "r")
    assert (result.steps, result.stopped) == (4, True)
    assert result.run.saved()[-1].name == "step-0000004.safetensors"
    assert not result.run.metrics.exists()  # the resumed run writes that line


def test_nothing_is_written_when_the_plan_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="larger than the data"):
        loop.run(tiny(batch_size=60001))
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        loop.run(tiny(), run_dir=tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_epochs_become_steps():
    plan = make_plan(config.resolve(TINY | {"steps": None, "epochs": 2.0, "batch_size": 128}))
    assert plan.steps == 2 * (60000 // 128)
    assert make_plan(config.resolve(data="ring", epochs=1e-9)).steps == 1


def test_samples_depend_on_seed_and_index_alone(tmp_path):
    run = loop.run(tiny(), run_dir=tmp_path / "r").run
    many = sample.sample(run.path, 300, seed=5)
    assert many.shape == (300, 1, 28, 28)
    assert many.dtype == torch.uint8
    assert torch.equal(sample.sample(run.path, 7, seed=5), many[:7])
    assert torch.equal(sample.sample(run.saved()[-1], 7, seed=5), many[:7])
    assert not torch.equal(sample.sample(run.path, 7, seed=6), many[:7])


def test_points_to_the_last_bit_too(tmp_path):
    """As floats they show how a product of one row, or of a few, is rounded."""
    options = {**TINY, "data": "ring", "steps": 2, "gen_hidden": (48, 48), "output": "linear"}
    run = loop.run(config.resolve(options), run_dir=tmp_path / "r").run
    many = sample.sample(run.path, 300)
    for count in (1, 3, 257):
        assert torch.equal(sample.sample(run.path, count), many[:count])


def test_samples_of_batch_statistics_too(tmp_path):
    """A batch is normalised whole, however few are asked for or drawn."""
    options = {**TINY, "data": "mnist", "batch_norm": "all", "sample_stats": "batch"}
    for who in ({}, {"seeds": "0-1"}):
        point = config.resolve(options, steps=2, batch_size=8, grid=1, **who)
        result = loop.run(point, run_dir=tmp_path / f"run{len(who)}")
        assert result.run.sample_path(2).exists()
        which = {"member": 0} if who else {}
        few, more = (sample.sample(result.run.path, num=n, **which) for n in (1, 257))
        assert len(more) == 257
        assert_same(more[:1], few)


def test_samples_come_from_the_average(tmp_path):
    result = loop.run(tiny(), run_dir=tmp_path / "r")
    game = make_plan(tiny()).game
    key = fgan.rng.fold_in(fgan.rng.key(5), 0, fgan.rng.Stream.SAMPLES)
    z = fgan.rng.normal(fgan.rng.fold_in(key, 0, fgan.rng.SampleStream.LATENTS), (256, 8))[:7]
    average = result.state.ema
    expected, _ = game.gen.apply(average.params, average.buffers, z, train=False)
    drawn = fgan.data.normalise(sample.sample(result.run.path, 7, seed=5))
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1 / 255 + 1e-6)  # half a grey level


NAMED = [
    *({"loss": name} for name in names.LOSSES),
    *({"optimizer": name} for name in names.OPTIMIZERS),
    *({"order": name} for name in names.ORDERS),
    *(
        {name: 2.0, **dict.fromkeys({"penalty_every"} & {*term.takes.values()}, 2)}
        for name, term in WEIGHTS.items()
    ),
    {"spectral_norm": True, "instance_noise": 0.1, "clip_disc": 0.5},
    {"sample_stats": "batch", "batch_norm": "all", "stat_passes": "own"},
]


@pytest.mark.parametrize("options", NAMED, ids=str)
def test_every_name_trains_and_resumes(tmp_path, options):
    point = {**TINY, "data": "ring", "steps": 4, "lr": 1e-3, "disc_hidden": (8,), **options}
    whole = loop.run(config.resolve(point), run_dir=tmp_path / "whole")
    loop.run(config.resolve(point | {"steps": 3}), run_dir=tmp_path / "part")
    part = loop.resume(tmp_path / "part", steps=4)
    assert whole.state.step == 4
    assert_same(part.state, whole.state)


def test_the_means_of_terms_are_columns_of_steps_in_which_they_were_due(tmp_path):
    options = {"data": "ring", "loss": "hinge", "r1": 1.0, "wgan_gp": 2.0, "penalty_every": 4,
               "log_every": 2, "steps": 4, "sample_every": 0}  # fmt: skip
    lines = rows(loop.run(tiny(**options), run_dir=tmp_path / "one").run)
    assert [(row["term_r1"] is None, row["term_wgan_gp"] is None) for row in lines] == [
        (True, True), (False, False),
    ]  # fmt: skip
    result = loop.run(tiny(**options, seeds=(0, 1)), run_dir=tmp_path / "two")
    both = [row for row in rows(result.run) if row["step"] == 4]
    assert both[0]["term_r1"] == pytest.approx(lines[1]["term_r1"], rel=1e-4)
    assert both[0]["term_r1"] != both[1]["term_r1"]
    overall = summary.overall(both)
    assert overall["term_r1"] == pytest.approx(sum(row["term_r1"] for row in both) / 2)
    (setting,) = summary.settings([Member(0, 0, {}), Member(1, 1, {})], both)
    assert setting.spreads["term_wgan_gp"].num == 2
