"""Every default against where it comes from: a paper, PyTorch, or a document of this project.

The tables hold all of them, so that one that is changed, or is new, has to be changed or named
here as well, with its source.
"""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path

import pytest
import torch

import fgan
from fgan.run import config as configs
from fgan.run import loop
from fgan.run.options import OPTIONS, flag, shown

ROOT = Path(__file__).parent.parent

# Builders of the library: arguments that have a number, a name or a switch as their default.
BUILDERS = {
    # Goodfellow et al. 2014, Algorithm 1: k = 1, in turns. The rest of a game is off.
    "game.Game": {
        "num_disc_steps": 1, "order": "alternating", "share_fakes": False, "same_z": False,
        "disc_batches": "auto", "stat_passes": "every", "ema_decay": 0.0, "terms": (),
        "instance_noise": 0.0, "clip_disc": 0.0,
    },
    "game.Due": {"gen": ()},
    "game.make_step": {"microbatches": 1},
    "game.make_steps": {"microbatches": 1},
    "game.init_player": {"name": "player"},
    "game.descend": {"buffers": ()},
    "population.make_step": {"own_reals": False, "microbatches": 1},
    # Salimans et al. 2016, section 3.4: one-sided, 0.9.
    "losses.smoothed": {"real": 0.9, "fake": 0.0},
    # Mao et al. 2017, equation 9.
    "losses.make_least_squares": {"a": 0.0, "b": 1.0, "c": 1.0},
    # Nowozin et al. 2016, Algorithm 1: the saddle point itself.
    "losses.make_f_gan": {"saturating": True},
    "losses.flipped": {"probability": 0.05},
    "losses.scaled": {"disc": 1.0, "gen": 1.0},
    "losses.GanLoss": {"gen_uses_real": False, "whole_batch": False},
    "losses.FDivergence": {"limit": math.inf},
    # Made for the players' learning rate; the paper's rates are those of each experiment.
    "orders.make_competitive": {"eta": 0.01, "num_iterations": 4},
    "orders.make_consensus": {"gamma": 1.0},
    # Balduzzi et al. 2018, Algorithm 1: lambda = 1.
    "orders.make_symplectic": {"weight": 1.0, "align": False},
    # Metz et al. 2017 unroll some few steps, of Adam.
    "orders.make_unrolled": {"num_steps": 5, "learning_rate": 0.1, "leaders": ("gen",)},
    "orders.Method": {"leaders": (), "min_players": 1},
    # The order of `game.Game`; the rest of an outcome is absent.
    "players.make_step": {"turns": (), "order": "alternating"},
    "players.Outcome": {"metrics": ()},
    # Mescheder et al. 2018, in their experiments: gamma = 10.
    # Odena et al. 2017, section 3: the plain sum.
    "terms.make_acgan": {"weight": 1.0},
    "terms.make_r1": {"gamma": 10.0, "every": 1},
    "terms.make_r2": {"gamma": 10.0, "every": 1},
    # Gulrajani et al. 2017, Algorithm 1: lambda = 10; Petzka et al. 2018 for one side.
    "terms.make_wgan_gp": {"weight": 10.0, "target": 1.0, "one_sided": False, "every": 1},
    "terms.wgan_gp": {"target": 1.0, "one_sided": False},
    "terms.make_zero_centred_interpolates": {"weight": 10.0, "every": 1},
    # Kodali et al. 2017: lambda = 10; their code adds half a standard deviation.
    "terms.make_dragan": {"weight": 10.0, "target": 1.0, "scale": 0.5, "every": 1},
    "terms.dragan": {"target": 1.0, "scale": 0.5},
    # Tseng et al. 2021, section 4.1: 0.3 with the hinge loss on CIFAR; their decay is 0.99.
    "terms.make_lecam": {"weight": 0.3, "decay": 0.99, "one_sided": False, "every": 1},
    "terms.lecam": {"one_sided": False},
    # Karras et al. 2020 (StyleGAN2), their code: weight 2, of which a hundredth is renewed.
    "terms.make_path_length": {"weight": 2.0, "decay": 0.99, "every": 1},
    # Mao et al. 2019, their code.
    "terms.make_mode_seeking": {"weight": 1.0, "eps": 1e-5, "every": 1},
    "terms.mode_seeking": {"eps": 1e-5},
    "terms.make_infogan": {"weight": 1.0, "name": "infogan"},  # Chen et al. 2016, section 7
    "terms.View": {
        "player": "disc", "z": (), "condition": (), "noise": (), "fake_condition": (),
    },
    "terms.total": {"moment": ()},
    "per_example.gradients": {"players": ("gen", "disc")},
    "per_example.gradient_norms": {"players": ("gen", "disc")},
    "per_example.noise_scales": {"players": ("gen", "disc")},
    "terms.Term": {
        "weight": 1.0, "player": "disc", "every": 1, "needs": (), "whole_batch": False,
        "over_ranks": False, "sees_condition": True,
    },
    # Zhao et al. 2020, their code; Karras et al. 2020 (ADA): a fixed rise from 0, target 0.6.
    "augment.make_diffaug": {"parts": ("colour", "translation", "cutout")},
    "augment.translation": {"ratio": 0.125},
    "augment.cutout": {"ratio": 0.5},
    "augment.make_pipeline": {"kinds": ("blit", "geometry", "colour")},
    "augment.make_ada": {
        "target": 0.6, "every": 4, "probability": 0.0, "kinds": ("blit", "geometry", "colour"),
    },
    "augment.Augment": {"probability": 1.0},
    # Tests below hold these to torch.optim.
    "optim.sgd": {"momentum": 0.0, "nesterov": False},
    "optim.adam": {"betas": (0.9, 0.999), "eps": 1e-8},
    "optim.adamw": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
    "optim.lion": {"betas": (0.9, 0.99), "weight_decay": 0.0},
    "optim.rmsprop": {"decay": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False},
    "optim.optimistic_adam": {"betas": (0.9, 0.999), "eps": 1e-8},
    "optim.scale_by_adam": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
    "optim.scale_by_lion": {"b1": 0.9, "b2": 0.99},
    "optim.lookahead": {"k": 5, "alpha": 0.5},
    "optim.averaged": {"decay": 0.999},
    "optim.scale_by_rms": {"decay": 0.99, "eps": 1e-8, "centered": False},
    # The usual number, which makes no part of another rule.
    "optim.scale_by_momentum": {"momentum": 0.9, "nesterov": False},
    # Those of `fgan train`, whose table is below.
    "nets.mlp_generator": {
        "z_dim": 64, "image_shape": (1, 28, 28), "hidden": (256, 512),
        "activation": "leaky_relu", "slope": 0.2, "batch_norm": False, "output": "tanh",
        "z_choice": 0, "num_classes": 0, "condition": "concat",
    },
    "nets.mlp_discriminator": {
        "image_shape": (1, 28, 28), "hidden": (512, 256), "activation": "leaky_relu",
        "slope": 0.2, "dropout": 0.0, "num_classes": 0, "head": "projection",
    },
    # Radford et al. 2016, figure 1 and section 3 (of 64 pixels, here grey).
    "nets.dcgan_generator": {
        "z_dim": 100, "image_shape": (1, 64, 64), "features": 64, "z_choice": 0,
        "num_classes": 0, "condition": "concat",
    },
    "nets.dcgan_discriminator": {
        "image_shape": (1, 64, 64), "features": 64, "slope": 0.2, "num_classes": 0,
        "head": "projection",
    },
    # Miyato et al. 2018, appendix B.4, for CIFAR-10: 4 * 64 and 2 * 64 channels, z of 128.
    "nets.resnet_generator": {
        "z_dim": 128, "image_shape": (3, 32, 32), "features": 64, "attention": 0, "z_choice": 0,
        "num_classes": 0, "condition": "batch_norm",
    },
    "nets.resnet_discriminator": {
        "image_shape": (3, 32, 32), "features": 64, "attention": 0, "num_classes": 0,
        "head": "projection",
    },
    "nets.make_resnet": {"num_classes": 0, "condition": "batch_norm", "head": "projection"},
    # Huang et al. 2024, their code for CIFAR-10: 768 channels, two blocks a stage, z of 64.
    "nets.r3gan_generator": {
        "z_dim": 64, "image_shape": (3, 32, 32), "features": 768, "growth": 0, "blocks": 2,
        "z_choice": 0, "num_classes": 0, "condition": "embedding",
    },
    "nets.r3gan_discriminator": {
        "image_shape": (3, 32, 32), "features": 768, "growth": 0, "blocks": 2, "num_classes": 0,
        "head": "projection",
    },
    "nets.make_r3gan": {"num_classes": 0, "condition": "embedding", "head": "projection"},
    "nets.make_mlp": {"num_classes": 0, "condition": "concat", "head": "projection"},
    "nets.make_dcgan": {"num_classes": 0, "condition": "concat", "head": "projection"},
    # Miyato et al. 2018, Algorithm 1: one step of the power method.
    "model.spectral_norm": {"num_iterations": 1},
    "model.Dropout": {"p": 0.5},  # Srivastava et al. 2014; torch.nn.Dropout
    "model.Model": {"batch_stats": False},
    "model.Labels": {"sizes": ()},
    "model.from_module": {"batch_size": 2},
    "model.to_module": {"weights": ()},
    "schedules.step": {"factor": 0.1},  # torch.optim.lr_scheduler.StepLR
    "schedules.warmup": {"start": 0.0},
    "compile.compile_step": {"donate": (), "backend": "inductor"},
    "game.scheduled": {"factor": ()},
    "game.make_draws": {"share": (0, 1)},  # of one process, the whole batch
    "ranks.mean": {"batch_stats": "sync"},
    "ranks.Mean": {"batch_stats": "sync"},
    "ranks.model_over_ranks": {"name": "the model"},
    "compile.compile_function": {"backend": "inductor"},
    "data.Batches": {"num_disc_steps": 1, "mirror": False, "share": (0, 1)},
    "data.Source": {"skipped": (), "labels": (), "classes": ()},
    "data.StreamedSource": {"skipped": (), "labels": (), "classes": ()},
    "data.ring_points": {"num_points": 100_000, "seed": 0},
    "data.grid_points": {"num_points": 100_000, "seed": 0},
    "data.load": {
        "pattern": "*", "image_size": 0, "channels": 0, "resize": "crop", "skip_bad": False,
        "stream": "auto", "labels": True, "label_name": "",
    },
    # Lin et al. 2018, section 4.2: 128 000 images.
    "data.stacked_mnist": {
        "num": 128_000, "seed": 0, "split": "train", "image_size": 28, "labels": True,
    },
    "data.load_mnist": {"split": "train", "labels": True},
    "data.load_mnist_labels": {"split": "train"},
    "data.make_feed": {"start": 0},
    "data.normalise": {"low": -1.0},
    "metrics.Metric": {"passes": 1, "named_only": False},
    "metrics.train_classifier": {"seed": 0},
    "metrics.mode_coverage": {"num_stds": 3.0},  # Srivastava et al. 2017 (VEEGAN), section 4
    "metrics.parzen_log_density": {"block": 2**23},
    "metrics.neighbourhoods": {"k": 5},  # Naeem et al. 2020, section 4
    "metrics.parzen_score": {"num_validation": 1000, "sigmas": (0.1, 1.0)},  # its ends
    "metrics.sliced_wasserstein": {"num_directions": 512, "seed": 0},  # ours; no paper has one
    "rng.bits": {"shape": (), "first": 0},
    "rng.fold_in": {"stream": 0},
    "rng.normal": {"shape": (), "first": 0},
    "rng.split": {"num": 2},
    "rng.uniform": {"shape": (), "first": 0},
    "pytree.check_like": {"dtype": True},
    "spectrum.eigenvalues": {"num": 6, "num_iterations": 40},
    "spectrum.norms": {"key": (), "num_probes": 16},
    "types.Batch": {"condition": ()},
    "types.DiscDraws": {"condition": ()},
    "types.GenDraws": {"condition": ()},
    "conditions.Condition": {"num_classes": 0, "of_one": False},
}  # fmt: skip


def plain(value) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return all(isinstance(part, bool | int | float | str) for part in parts)


def builders() -> dict[str, dict]:
    found = {}
    for name in fgan.__all__:
        module = getattr(fgan, name)
        if not inspect.ismodule(module) or name == "errors":
            continue
        for made in getattr(module, "__all__", [n for n in dir(module) if n[0] != "_"]):
            builder = getattr(module, made)
            home = getattr(builder, "__module__", "")
            own = home == module.__name__ or home.startswith(module.__name__ + ".")
            if not callable(builder) or not own or not inspect.signature(builder).parameters:
                continue
            given = inspect.signature(builder).parameters.values()
            defaults = {p.name: p.default for p in given if plain(p.default)}
            if defaults:
                found[f"{name}.{made}"] = defaults
    sigmas = found["metrics.parzen_score"]["sigmas"]
    found["metrics.parzen_score"]["sigmas"] = (sigmas[0], sigmas[-1])
    return found


def test_the_defaults_of_the_library():
    assert builders() == BUILDERS


@pytest.mark.parametrize(
    ("ours", "theirs", "called"),
    [
        ("sgd", torch.optim.SGD, {}),
        ("adam", torch.optim.Adam, {}),
        ("adamw", torch.optim.AdamW, {}),
        ("rmsprop", torch.optim.RMSprop, {"decay": "alpha"}),
        ("optimistic_adam", torch.optim.Adam, {}),
    ],
)
def test_the_defaults_of_optimizers_are_those_of_pytorch(ours, theirs, called):
    parameters = inspect.signature(theirs).parameters
    for name, value in BUILDERS[f"optim.{ours}"].items():
        assert value == parameters[called.get(name, name)].default, name


# Options of `fgan train`: of MNIST and other images with the perceptron, which is the default.
IMAGES = {
    # benchmarks/results/mnist-mlp-defaults.md, whose first sentence is tested below
    "loss": "relativistic", "r1": 1.0, "r2": 1.0, "penalty_every": 4, "lr": 1e-3,
    "betas": (0.0, 0.999), "batch_size": 64, "ema": 0.9999, "epochs": 20.0, "z_dim": 74,
    "z_choice": 10, "lr_schedule": "linear", "lr_end": 0.1,
    "gen_hidden": (256, 512), "disc_hidden": (512, 256), "batch_norm": "all", "slope": 0.2,
    "gen_activation": "leaky_relu", "disc_activation": "leaky_relu", "optimizer": "adam",
    "dtype": "auto",
    # the README's first command
    "data": "mnist", "arch": "mlp", "output": "tanh", "seed": 0,
    # those of convolutional networks; no effect here
    "features": 64, "attention": 0, "growth": 0, "blocks": 2,
    # nothing that is not asked for
    "data_root": "", "labels": "", "mirror": False, "pattern": "*",
    "image_size": 0, "channels": 0, "skip_bad": False,
    # benchmarks/results/mnist-conditional.md
    "conditional": False, "condition_head": "acgan",
    "dropout": 0.0, "disc_loss_scale": 1.0, "lr_length": 0, "lr_warmup": 0, "disc_steps": 1,
    "order": "alternating", "share_fakes": False,
    "same_z": False, "wgan_gp": 0.0, "zero_centred": 0.0, "dragan": 0.0, "instance_noise": 0.0,
    "augment": "none", "clip_disc": 0.0, "spectral_norm": False, "init_from": "",
    "compile": False, "threads": 0, "chunk_steps": 0, "device": "auto",
    # as in an imperative loop
    "disc_batches": "auto", "stat_passes": "every", "sample_stats": "running",
    # what the help texts say
    "resize": "crop", "stream": "auto", "log_every": 100, "sample_every": 1000,
    "evaluate_every": 0, "metrics": (), "keep_best": "",
    "save_every": 5000, "keep": 2, "on_nonfinite": "halt", "grid": 64,
    "gif": True, "report": True, "tensorboard": False,
}  # fmt: skip
NO_PENALTIES = {"r1": 0.0, "r2": 0.0, "penalty_every": 1}
CONSTANT = {"lr_schedule": "constant", "lr_end": 0.0}
PLAIN = {"z_dim": 64, "z_choice": 0}
POINTS = {
    **NO_PENALTIES, **CONSTANT, "dtype": "float32", "loss": "non_saturating", "z_dim": 2,
    "z_choice": 0, "gen_hidden": (128, 128), "disc_hidden": (128, 128), "batch_norm": "none",
    "output": "linear", "betas": (0.5, 0.999),
    "batch_size": 256, "ema": 0.999, "epochs": 25.0,
}  # fmt: skip
# benchmarks/results/arch-defaults.md; the widths are for two cores.
CONVOLUTIONS = {"dtype": "float32", "image_size": 32, "betas": (0.0, 0.99)}
DCGAN = {**CONVOLUTIONS, "arch": "dcgan", "features": 16, "dtype": "auto"}
RESNET = {
    **CONVOLUTIONS, **CONSTANT, "arch": "resnet", "z_dim": 128, "z_choice": 0, "features": 4,
    "ema": 0.9998, "epochs": 10.0, "condition_head": "projection",
}  # fmt: skip
R3GAN = {
    **CONVOLUTIONS, **CONSTANT, **PLAIN, "arch": "r3gan", "features": 8, "growth": 8, "blocks": 1,
    "ema": 0.999, "epochs": 5.0, "condition_head": "projection",
}  # fmt: skip
# Alternatives to others, and what a population has.
NOT_GIVEN = {"disc_lr": 0.0, "steps": 0, "init_member": -1, "seeds": (), "sweep": ()}


@pytest.mark.parametrize(
    ("given", "others"),
    [
        ({}, {}),
        ({"data": "ring"}, POINTS),
        ({"data": "grid"}, POINTS),
        ({"arch": "dcgan"}, DCGAN),
        ({"arch": "dcgan", "conditional": True}, DCGAN | {"z_dim": 100, "z_choice": 0}),
        ({"arch": "resnet"}, RESNET),
        ({"arch": "r3gan"}, R3GAN),
        ({"loss": "hinge"}, NO_PENALTIES),
        ({"conditional": True}, PLAIN),
        ({"z_dim": 5}, PLAIN),
        ({"z_choice": 0}, PLAIN),
        ({"z_dim": 80, "z_choice": 10}, {}),
        ({"z_choice": 20}, {}),
        ({"order": "competitive"}, CONSTANT),  # one rate
        ({"seeds": (0, 1)}, {"on_nonfinite": "skip"}),  # the other members go on
    ],
    ids=str,
)
def test_the_defaults_of_a_run(given, others):
    assert vars(configs.resolve(given)) == IMAGES | NOT_GIVEN | others | given


def test_the_document_of_the_defaults():
    o = IMAGES
    text = (ROOT / "benchmarks/results/mnist-mlp-defaults.md").read_text(encoding="utf-8")
    steps = 60_000 // o["batch_size"] * int(o["epochs"])
    sentence = (
        f"The defaults: paired {o['loss']} loss with R1 and R2 of γ {o['r1']:g} in every fourth "
        f"step, Adam (β₁ {o['betas'][0]:g}, β₂ {o['betas'][1]:g}, a rate of 1e-3 that falls in a "
        f"line to {o['lr_end']:g} times that), batch {o['batch_size']}, moving average {o['ema']}, "
        f"{o['epochs']:g} epochs ({steps // 1000} {steps % 1000:03d} steps); generator "
        f"{o['z_dim']}-256-512-784 with batch norm, whose last {o['z_choice']} inputs are a choice "
        f"of one; discriminator 784-512-256-1, leaky ReLU {o['slope']}."
    )
    assert sentence in " ".join(text.split())
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert "`rollback` to the last checkpoint, at most three times" in readme
    assert loop.MAX_ROLLBACKS == 3


# Where the help has words in place of a value.
WORDS = {
    "data_root": "a cache folder; for mnist the packaged copy", "image_size": "as they are",
    "attention": "none", "labels": "the one that belongs to the images",
    "channels": "as they are", "disc_lr": "--lr", "lr_length": "the whole run",
    "steps": "--epochs", "init_from": "none", "init_member": "none", "seeds": "--seed",
    "sweep": "none", "metrics": "all that fit the data", "keep_best": "none",
}  # fmt: skip


def test_the_defaults_in_the_help(fgan, monkeypatch):
    monkeypatch.setenv("COLUMNS", "900")
    code, out, _ = fgan("train", "--help")
    assert code == 0
    for name in (n for n in OPTIONS if n != "data"):
        default = WORDS.get(name) or shown(IMAGES[name])
        lines = [line for line in out.splitlines() if re.search(rf"│ +{flag(name)}(?![\w-])", line)]
        assert len(lines) == 1, name
        assert f"[default: {default}]" in lines[0], name


@pytest.mark.parametrize(
    ("command", "defaults"),
    [
        ("sample", {"num": 64, "seed": 0, "out": "samples.png", "device": "auto"}),
        ("evaluate", {"seed": 0, "device": "auto", "metrics": "all that fit the data"}),
        ("bench", {"repeats": 15, "seconds": 0.3, "trained-steps": 1000}),
    ],
)
def test_the_defaults_of_other_commands(fgan, monkeypatch, command, defaults):
    monkeypatch.setenv("COLUMNS", "900")
    _, out, _ = fgan(command, "--help")
    for name, value in defaults.items():
        (line,) = (line for line in out.splitlines() if re.search(rf"│ +--{name}(?![\w-])", line))
        assert f"[default: {value}]" in line
