"""The same step in JAX and Optax, as a user of those would write it.

One jitted function makes the next state from a donated one and draws its noise inside; it uses
``jax.value_and_grad``, Optax's Adam, and batch normalisation written by hand, with running
statistics in the state; slopes of the logits, for R1 and R2, are ``jax.grad`` inside it. Only MLPs
are supported. JAX is not imported before it is needed.

Guarded, the step also returns the norm of each player's gradient and keeps the old state when a
loss or a norm is not finite, as the library's step does.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from fgan_benchmarks.harness.problem import Losses, Problem, Program, check_tutorial

from fgan.errors import DeviceError
from fgan.run.config import TrainConfig
from fgan.types import Draws, PlayerState

_MOMENTUM, _EPS = 0.1, 1e-5  # PyTorch's defaults for batch normalisation


def import_jax(device: torch.device) -> Any:
    """JAX on a device of PyTorch's kind, with as many threads.

    Raises:
        DeviceError: when JAX is not installed, or has no such device.
    """
    # JAX reads these when it first looks for devices, in this process or a child.
    os.environ.setdefault("PJRT_NPROC", str(torch.get_num_threads()))
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import jax
        import optax  # noqa: F401
    except ImportError as error:
        raise DeviceError(f"jax cannot be imported: {error}.", "pip install jax optax.") from error
    platform = "gpu" if device.type == "cuda" else device.type
    try:
        found = jax.devices(platform)[device.index or 0]
        jax.config.update("jax_default_device", found)  # type: ignore[no-untyped-call]
    except (RuntimeError, IndexError) as error:
        raise DeviceError(
            f"jax is installed without {device}.", "Install jax for it, or leave jax out."
        ) from error
    return jax


def make_jax(problem: Problem, *, guarded: bool = False) -> Program:
    """The JAX program of a problem.

    Args:
        guarded: whether it returns the gradients' norms and refuses what is not finite.
    Raises:
        ConfigError: for options that the program does not support.
        DeviceError: when JAX cannot be used.
    """
    check_tutorial(problem.config, "jax")
    jax = import_jax(problem.device)
    config = problem.config
    precise = jax.enable_x64(
        config.dtype == "float64"
    )  # a decorator, without which all numbers are float32
    # Lazy penalties make two kinds of step, which take turns.
    every = config.penalty_every if config.r1 or config.r2 else 0
    kinds = [
        make_step(config, penalised, guarded)
        for penalised in ((False, True) if every else (False,))
    ]
    with precise:
        real = _array(problem.real)
        state = {"nets": _first(problem), "key": jax.random.key(config.seed)}
    done = 0

    def kind(number: int) -> bool:
        return every > 0 and (number + 1) % every == 0

    def timed(step: Callable[..., Any]) -> Callable[..., Any]:
        def drawn(state: dict[str, Any], real: Any) -> tuple[dict[str, Any], Any]:
            key, now = jax.random.split(state["key"])
            new, losses = step(state["nets"], real, _draw(config, now))
            return {"nets": new, "key": key}, losses

        jitted: Callable[..., Any] = jax.jit(drawn, donate_argnums=0)
        return jitted

    jitted, given = [timed(step) for step in kinds], [jax.jit(step) for step in kinds]

    def run(count: int) -> None:
        nonlocal state, done
        for number in range(done, done + count):
            state, losses = jitted[kind(number)](state, real)
        done += count
        jax.block_until_ready((state, losses))

    def losses(draws: Sequence[Draws]) -> list[Losses]:
        fresh, found = _first(problem), []
        for number, each in enumerate(draws):
            fresh, (gen, disc, *_) = given[kind(number)](fresh, real, _given(each, config))
            found.append((float(gen), float(disc)))
        return found

    def reset() -> None:
        nonlocal state, done
        state, done = {"nets": _first(problem), "key": jax.random.key(config.seed)}, 0

    return Program(precise(run), precise(losses), precise(reset))


def _array(tensor: torch.Tensor) -> Any:
    import jax.numpy as jnp

    return jnp.array(tensor.detach().cpu().numpy())


def _draw(config: TrainConfig, key: Any) -> dict[str, Any]:
    """The randomness of one step, in the form of `_given`."""
    import jax

    size, shared = config.batch_size, config.share_fakes or config.same_z
    keys = iter(jax.random.split(key, 3 * (config.disc_steps + 1)))

    def uniform(rows: int) -> list[Any]:
        if not config.dropout:
            return []
        whole = jax.random.uniform(next(keys), (rows, sum(config.disc_hidden)))
        cuts = list(itertools.accumulate(config.disc_hidden))[:-1]
        return list(jax.numpy.split(whole, cuts, axis=1))

    def z() -> Any:
        return jax.random.normal(next(keys), (size, config.z_dim))

    gen = {"z": z(), "noise": uniform(size)}
    disc = [
        {
            "z": gen["z"] if shared and i + 1 == config.disc_steps else z(),
            "noise": uniform(2 * size),
        }
        for i in range(config.disc_steps)
    ]
    return {"gen": gen, "disc": disc}


def _given(draws: Draws, config: TrainConfig) -> dict[str, Any]:
    gen_z = _array(draws.gen.z)
    return {
        "gen": {"z": gen_z, "noise": [_array(u) for u in draws.gen.disc_noise.values()]},
        "disc": [
            {
                "z": _array(each.z) if isinstance(each.z, torch.Tensor) else gen_z,
                "noise": [_array(u) for u in each.disc_noise.values()],
            }
            for each in draws.disc
        ],
    }


def _layers(player: PlayerState) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The parameters layer by layer (weights [in, out]), and the running statistics."""
    params: list[dict[str, Any]] = []
    for name, value in player.params.items():
        kind = name.rsplit(".", 1)[1]
        if kind == "weight" and value.ndim == 2:
            params.append({"w": _array(value.T.contiguous())})
        elif kind == "weight":
            params[-1]["scale"] = _array(value)
        else:
            params[-1]["shift" if "b" in params[-1] else "b"] = _array(value)
    stats: list[dict[str, Any]] = []
    for name, value in player.buffers.items():
        if name.endswith("running_mean"):
            stats.append({"mean": _array(value)})
        elif name.endswith("running_var"):
            stats[-1]["var"] = _array(value)
    return params, stats


def _rules(config: TrainConfig) -> tuple[Any, Any]:
    import optax

    b1, b2 = config.betas
    return optax.adam(config.lr, b1, b2), optax.adam(config.rate_of_disc, b1, b2)


def _first(problem: Problem) -> dict[str, Any]:
    """The state before the first step, in new arrays."""
    import jax

    state = problem.init()
    (gen, stats), (disc, _) = _layers(state.gen), _layers(state.disc)
    gen_opt, disc_opt = _rules(problem.config)
    average = jax.tree.map(jax.numpy.copy, (gen, stats)) if problem.config.ema else ()
    return {
        "gen": gen,
        "stats": stats,
        "disc": disc,
        "gen_opt": gen_opt.init(gen),
        "disc_opt": disc_opt.init(disc),
        "ema": average,
    }


def make_step(config: TrainConfig, penalised: bool, guarded: bool = False) -> Callable[..., Any]:
    """The pure function ``step(state, real, draws) -> (state, (gen_loss, disc_loss))``.

    Args:
        penalised: whether the discriminator's loss has the penalties R1 and R2.
        guarded: whether the norms of both gradients follow the losses, and a step of which one of
            these is not finite leaves the state as it was.
    """
    import jax
    import jax.numpy as jnp
    import optax

    wide = jnp.float64 if config.dtype == "float64" else jnp.float32
    low = jnp.bfloat16 if config.dtype == "bfloat16" else wide
    activations: dict[str, Callable[[Any], Any]] = {
        "leaky_relu": lambda x: jax.nn.leaky_relu(x, config.slope),
        "relu": jax.nn.relu,
        "tanh": jnp.tanh,
    }
    outputs = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "linear": lambda x: x}
    gen_opt, disc_opt = _rules(config)
    paired = config.loss == "relativistic"

    def norm(grads: Any) -> Any:
        return jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(grads)))

    def linear(layer: dict[str, Any], x: Any) -> Any:
        return x.astype(low) @ layer["w"].astype(low) + layer["b"].astype(low)

    def batch_norm(layer: dict[str, Any], x: Any, stats: dict[str, Any]) -> tuple[Any, Any]:
        exact = x.astype(wide)
        mean, var = exact.mean(0), exact.var(0)
        n = x.shape[0]
        moved = {
            "mean": (1 - _MOMENTUM) * stats["mean"] + _MOMENTUM * mean,
            "var": (1 - _MOMENTUM) * stats["var"] + _MOMENTUM * var * n / (n - 1),
        }
        y = (exact - mean) * jax.lax.rsqrt(var + _EPS) * layer["scale"] + layer["shift"]
        return y.astype(x.dtype), moved

    def generate(layers: list[Any], stats: list[Any], z: Any) -> tuple[Any, list[Any]]:
        moved: list[Any] = []
        x = z
        for layer in layers[:-1]:
            x = linear(layer, x)
            if "scale" in layer:
                x, new = batch_norm(layer, x, stats[len(moved)])
                moved.append(new)
            x = activations[config.gen_activation](x)
        squash: Any = outputs[config.output]
        return squash(linear(layers[-1], x)).astype(wide), moved

    def judge(layers: list[Any], x: Any, noise: list[Any]) -> Any:
        for i, layer in enumerate(layers[:-1]):
            x = activations[config.disc_activation](linear(layer, x))
            if config.dropout:
                x = x * (noise[i] >= config.dropout).astype(x.dtype) / (1 - config.dropout)
        return linear(layers[-1], x)[:, 0].astype(wide)

    def disc_loss(layers: list[Any], real: Any, fake: Any, noise: list[Any]) -> Any:
        def judged(x: Any) -> tuple[Any, Any]:
            logits = judge(layers, x, noise)
            return logits.sum(), logits

        both = jnp.concatenate([real, fake])
        penalty: Any = 0.0
        if penalised:  # logits and slopes come from one pass
            slopes, logits = jax.grad(judged, has_aux=True)(both)
            r1, r2 = (part.sum(1).mean() for part in jnp.split(slopes**2, 2))
            penalty = config.penalty_every * (config.r1 * r1 + config.r2 * r2) / 2
        else:
            logits = judged(both)[1]
        on_real, on_fake = jnp.split(logits, 2)
        if paired:
            loss = jax.nn.softplus(on_fake - on_real).mean()
        else:
            loss = jax.nn.softplus(-on_real).mean() + jax.nn.softplus(on_fake).mean()
        return loss * config.disc_loss_scale + penalty

    def step(state: dict[str, Any], real: Any, draws: dict[str, Any]) -> tuple[Any, Any]:
        gen, stats, disc = state["gen"], state["stats"], state["disc"]
        disc_moments, norms = state["disc_opt"], []
        flat = real.reshape(config.disc_steps, config.batch_size, -1)
        pull_back: Any = None
        for i, extra in enumerate(draws["disc"]):
            if config.share_fakes and i + 1 == config.disc_steps:
                fake, pull_back, stats = jax.vjp(
                    lambda p, stats=stats, z=extra["z"]: generate(p, stats, z), gen, has_aux=True
                )
            else:
                fake, stats = generate(gen, stats, extra["z"])
            loss, grads = jax.value_and_grad(disc_loss)(disc, flat[i], fake, extra["noise"])
            norms.append(norm(grads))
            updates, disc_moments = disc_opt.update(grads, disc_moments, disc)
            disc = optax.apply_updates(disc, updates)
        if pull_back is None:
            fake, pull_back, stats = jax.vjp(
                lambda p: generate(p, stats, draws["gen"]["z"]), gen, has_aux=True
            )

        def gen_loss(fake: Any) -> Any:
            if paired:
                both = jnp.concatenate([flat[-1], fake])
                on_real, on_fake = jnp.split(judge(disc, both, draws["gen"]["noise"]), 2)
                return jax.nn.softplus(on_real - on_fake).mean()
            return jax.nn.softplus(-judge(disc, fake, draws["gen"]["noise"])).mean()

        played, slope = jax.value_and_grad(gen_loss)(fake)
        (grads,) = pull_back(slope)
        norms.append(norm(grads))
        updates, gen_moments = gen_opt.update(grads, state["gen_opt"], gen)
        gen = optax.apply_updates(gen, updates)
        average = state["ema"]
        if config.ema:
            average = jax.tree.map(
                lambda old, new: config.ema * old + (1 - config.ema) * new, average, (gen, stats)
            )
        new = {"gen": gen, "stats": stats, "disc": disc, "ema": average}
        new |= {"gen_opt": gen_moments, "disc_opt": disc_moments}
        if not guarded:
            return new, (played, loss)
        found = (played, loss, *norms)
        finite = jnp.isfinite(jnp.stack(found)).all()
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state), found

    return step
