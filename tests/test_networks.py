"""What holds for every architecture: shapes, one graph, populations, mixed precision, labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support import assert_near, copy_tree, distance, signed

import fgan
from fgan import Batch, conditions, losses, nets, optim, population, pytree, rng, terms
from fgan.compile.graph import count_graphs
from fgan.model import Labels, autocast, channels_last, spectral_norm
from fgan.nets.labels import HEADS

B, K, Z = 4, 3, 5
IMAGE = (2, 16, 16)
# The smallest networks that have all their parts.
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {
        "gen_hidden": (6,), "disc_hidden": (6,), "gen_activation": "relu",
        "disc_activation": "leaky_relu", "slope": 0.2, "batch_norm": "all", "output": "tanh",
        "dropout": 0.0, "z_choice": 2,
    },
    "dcgan": {"features": 2, "slope": 0.2, "z_choice": 2},
    "resnet": {"features": 4, "attention": 8, "z_choice": 2},
    "r3gan": {"features": 8, "growth": 2, "blocks": 1, "z_choice": 2},
}  # fmt: skip
CONVOLVE = [name for name in nets.ALL if name != "mlp"]
NARROW = {name: options | {"features": 2, "attention": 0} for name, options in SMALL.items()}


def players(arch: str, **options: Any) -> tuple[fgan.Model, fgan.Model]:
    gen, disc = nets.ALL[arch](IMAGE, z_dim=Z, **SMALL[arch] | options)
    return gen, spectral_norm(disc) if arch == "resnet" else disc


def game_of(arch: str, wrap: Any = lambda model: model, **options: Any) -> fgan.Game:
    """A conditional game with R1, whose penalty differentiates the discriminator twice."""
    gen, disc = players(arch, num_classes=K)
    # The bias before a batch norm has no gradient but rounding, which a small eps would blow up.
    parts: dict[str, Any] = {
        "gen": wrap(gen),
        "disc": wrap(disc),
        "gen_opt": optim.adam(1e-3, eps=1e-3),
        "disc_opt": optim.adam(2e-3, eps=1e-3),
        "loss": losses.hinge,
        "terms": (terms.make_r1(0.1),),
        "condition": conditions.uniform(K),
        "ema_decay": 0.9,
    }
    return fgan.Game(**parts | options)


def inputs(
    game: fgan.Game, state: fgan.TrainState, t: int, dtype: torch.dtype = torch.float32
) -> tuple[Batch, fgan.Draws]:
    real = Batch(signed((B, *IMAGE), t).tanh().to(dtype), torch.arange(B) % K)
    return real, fgan.make_draws(game, state.key, t, B, dtype=dtype)


def test_every_architecture_is_tested():
    assert SMALL.keys() == nets.ALL.keys()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "size", [16, 32, *(pytest.param(s, marks=pytest.mark.slow) for s in (64, 128, 256))]
)
@pytest.mark.parametrize("arch", CONVOLVE)
def test_every_size_and_number_of_channels(arch, size, channels):
    shape = (channels, size, size)
    options = {name: value for name, value in NARROW[arch].items() if name in SMALL[arch]}
    gen, disc = nets.ALL[arch](shape, z_dim=Z, **options)
    assert (gen.shape, disc.shape) == (((Z,), shape), (shape, ()))
    fake, _ = gen.apply(*gen.init(rng.key(0)), rng.normal(rng.key(1), (B, Z)))
    assert fake.shape == (B, *shape)
    assert fake.abs().max() <= 1 or arch == "r3gan"  # which ends without tanh
    assert (fake.amax(0) > fake.amin(0)).float().mean() > 0.8  # so narrow, some ReLU are silent
    logits, _ = disc.apply(*disc.init(rng.key(2)), fake)
    assert logits.shape == (B,)
    assert len(logits.unique()) > 1
    assert gen.batch_stats == (arch in ("dcgan", "resnet"))
    assert disc.batch_stats == (arch == "dcgan")


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 64, 32), (1, 512, 512), (64, 64), (1, 8, 8)])
@pytest.mark.parametrize("arch", CONVOLVE)
def test_other_shapes_are_refused(arch, shape):
    with pytest.raises(ValueError, match=f"{arch} makes square images of 16, 32, 64, 128, 256"):
        nets.ALL[arch](shape, z_dim=Z, **SMALL[arch])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("arch", nets.ALL)
def test_labels_enter_both_networks(arch, head):
    gen, disc = players(arch, num_classes=K, head=head)
    assert gen.shape == (((Z,), Labels(K)), IMAGE)
    z, x = signed((1, Z), 1, torch.float64), signed((1, *IMAGE), 2, torch.float32)
    z, x, labels = z.expand(K, Z), x.expand(K, *IMAGE), torch.arange(K)
    params, buffers = pytree.map(torch.Tensor.double, moved(*gen.init(rng.key(0))))
    fakes, _ = gen.apply(params, buffers, (z, labels))
    same, _ = gen.apply(params, buffers, (z, labels * 0), train=False)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        assert (fakes[i] - fakes[j]).abs().max() > 1e-4
    assert_near(same[1], same[0], atol=1e-12)  # rows round as their places in a product do
    params, buffers = moved(*disc.init(rng.key(0)))
    if head == "acgan":
        assert disc.shape == (IMAGE, nets.Heads((), (K,)))
        return
    assert disc.shape == ((IMAGE, Labels(K)), ())
    assert len(disc.apply(params, buffers, (x, labels))[0].unique()) == K


@pytest.mark.parametrize("arch", nets.ALL)
def test_every_generator_sees_the_end_of_z_as_a_choice(arch):
    z = torch.tensor([[0.3, -0.2, 0.5, 0.1, 0.4]])
    more, other = z + torch.tensor([0.0, 0, 0, 1, 1]), z + torch.tensor([0.0, 0, 0, 1, 0])
    for num, same in ((2, True), (0, False)):
        gen, _ = players(arch, z_choice=num)
        params, buffers = moved(*gen.init(rng.key(0)))
        image, with_more, with_other = (
            gen.apply(params, buffers, x, train=False)[0] for x in (z, more, other)
        )
        assert torch.equal(image, with_more) == same
        assert not torch.equal(image, with_other)
    with pytest.raises(ValueError, match=f"z_choice is from 2 to {Z - 1} beside z_dim {Z}, not 1"):
        players(arch, z_choice=1)


def moved(params: Any, buffers: Any) -> tuple[Any, Any]:
    """Values of which none is at its special first place, such as a gamma of 1 in each class."""
    return {
        name: p + 0.1 * signed(p.shape, i, p.dtype) for i, (name, p) in enumerate(params.items())
    }, buffers


@pytest.mark.parametrize("arch", nets.ALL)
def test_one_graph_and_one_trace(arch, fresh_dynamo):
    """The donated step of ``make_fx`` and ``torch.compile``, without Inductor, equals the eager.

    Without penalties and attention, which are compiled below, to be quick.
    """
    gen, disc = players(arch, num_classes=K, **{"attention": 0} if arch == "resnet" else {})
    game = game_of(arch, terms=(), gen=gen, disc=disc)
    state = first = fgan.init_state(game, rng.key(1))
    step, graphs = fgan.make_step(game), count_graphs()
    compiled = fgan.compile_step(counted := Counted(step), donate=(0,), backend="eager")
    own = copy_tree(state)
    for t in range(3):
        real, draws = inputs(game, first, t)
        state, expected = step(state, real, draws)
        own, metrics = compiled(own, real, draws)
        assert metrics.finite
        assert_near(metrics, expected, atol=1e-5, rtol=1e-5)
    assert_near(own, state, atol=1e-5, rtol=1e-5)
    assert (count_graphs() - graphs, counted.calls) == (1, 1)
    assert distance(state.gen.params, first.gen.params) > 1e-3


class Counted:
    """A step, and how often Python has run it."""

    def __init__(self, step: Any) -> None:
        self.step, self.calls = step, 0
        self.__name__ = "step"

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return self.step(*args)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arch", nets.ALL)
def test_inductor_equals_eager(arch, dtype):
    """Channels last, as a run has it; bfloat16 rounds at 1/256 and elsewhere when it is fused."""
    game = game_of(arch, lambda model: channels_last(autocast(model, dtype)))
    if dtype == torch.float32:
        game = game_of(arch, channels_last)
    state = fgan.init_state(game, rng.key(1))
    step = fgan.make_step(game)
    compiled = fgan.compile_step(step)
    atol = 1e-4 if dtype == torch.float32 else 0.05
    one = other = state
    for t in range(2):
        real, draws = inputs(game, state, t)
        one, expected = step(one, real, draws)
        other, metrics = compiled(other, real, draws)
        assert metrics.finite
        assert_near(metrics.disc_loss, expected.disc_loss, atol=atol)
        assert_near(metrics.gen_loss, expected.gen_loss, atol=atol)
    assert_near(other.gen.params, one.gen.params, atol=1e-4 if dtype == torch.float32 else 5e-3)


@pytest.mark.parametrize("arch", nets.ALL)
def test_a_member_of_a_population_is_what_it_is_alone(arch):
    game = game_of(arch)
    keys = rng.split(rng.key(9))
    states = [fgan.init_state(game, key, dtype=torch.float64) for key in keys]
    real, _ = inputs(game, states[0], 0, torch.float64)
    draws = [fgan.make_draws(game, key, 0, B, dtype=torch.float64) for key in keys]
    step = fgan.make_step(game)
    alone = [step(state, real, own) for state, own in zip(states, draws, strict=True)]
    together = population.make_step(game)(pytree.stack(states), real, pytree.stack(draws))
    assert alone[0][1].finite
    # Adam divides by the root of squares and so enlarges rounding at 1e-16.
    assert_near(together, pytree.stack(alone), atol=1e-9)
    assert distance(alone[0][0].gen.params, alone[1][0].gen.params) > 1e-2


@pytest.mark.parametrize("arch", nets.ALL)
def test_mixed_precision_and_channels_last(arch):
    """Parameters, statistics and losses stay float32, and layouts stay for life."""
    game = game_of(arch, lambda model: channels_last(autocast(model, torch.bfloat16)))
    state = fgan.init_state(game, rng.key(1))
    real, draws = inputs(game, state, 0)
    new, metrics = fgan.make_step(game)(state, real, draws)
    assert metrics.finite
    for before, after in zip(pytree.leaves(state), pytree.leaves(new), strict=True):
        assert (after.dtype, after.stride()) == (before.dtype, before.stride())
    plain = game_of(arch)
    _, expected = fgan.make_step(plain)(state, real, draws)
    # bfloat16 has 8 bits; the losses of a few layers of such numbers agree to a few parts in 100.
    assert_near(metrics.disc_loss, expected.disc_loss, atol=0.1)
    assert (metrics.disc_loss - expected.disc_loss).abs() > 0


@pytest.mark.parametrize("arch", CONVOLVE)
def test_the_layout_changes_nothing_but_rounding(arch):
    step, other = fgan.make_step(game_of(arch)), fgan.make_step(game_of(arch, channels_last))
    game = game_of(arch, channels_last)
    state = fgan.init_state(game, rng.key(1), dtype=torch.float64)
    real, draws = inputs(game, state, 0, torch.float64)
    assert_near(other(state, real, draws), step(state, real, draws), atol=1e-9)
    assert any(
        p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and p.shape[1] > 1
        for p in state.gen.params.values()
    )


@pytest.mark.parametrize("arch", nets.ALL)
def test_a_step_without_labels(arch):
    gen, disc = players(arch)
    game = replace(game_of(arch), gen=gen, disc=disc, condition=conditions.of_reals)
    state = fgan.init_state(game, rng.key(0))
    real, draws = inputs(game, state, 0)
    new, metrics = fgan.make_step(game)(state, Batch(real.real), draws)
    assert metrics.finite
    assert distance(new.gen.params, state.gen.params) > 1e-4
