"""Spectral normalisation against torch's parametrization, step by step."""

from __future__ import annotations

import pytest
import torch
from support import IMAGE, assert_near, assert_same, copy_tree, run_steps, signed, small_game
from torch import nn
from torch.func import grad, vmap
from torch.nn.utils import parametrizations

import fgan
from fgan import model, nets, optim, pytree, rng, terms
from fgan.compile import compile_function, compile_step
from fgan.model import Model, Shape, from_module, spectral_norm


def mlp():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.ConvTranspose2d(3, 4, 2, 2),
        nn.Tanh(),
        nn.Flatten(1),
        nn.Linear(4 * 8 * 8, 1),
    )


CASES = {
    "mlp": (mlp, (3,), {}),
    "convolutions": (convolutions, (2, 4, 4), {"3.weight": 1}),
}


def normalised(name, num_iterations=1):
    build, shape, dims = CASES[name]
    plain = from_module(build, input_shape=shape)
    return spectral_norm(plain, num_iterations, output_dims=dims)


def oracle(name, params, buffers, num_iterations=1):
    """The module with torch's parametrizations, holding the same numbers."""
    module = CASES[name][0]().double()
    module.load_state_dict(
        {**params, **{k: b for k, b in buffers.items() if not k.endswith((".u", ".v"))}}
    )
    for key in params:
        layer_name, _, weight = key.rpartition(".")
        if params[key].ndim < 2:
            continue
        layer = module.get_submodule(layer_name)
        parametrizations.spectral_norm(layer, weight, num_iterations)
        inside = layer.parametrizations[weight][0]
        inside._u.copy_(buffers[f"{key}.u"])
        inside._v.copy_(buffers[f"{key}.v"])
    return module


def original(module):
    """The module's parameters under their names without parametrization."""
    return {
        name.replace("parametrizations.", "").replace(".original", ""): p
        for name, p in module.named_parameters()
    }


def test_normalised_twice_is_refused():
    once = spectral_norm(nets.mlp_discriminator((3,), hidden=(4,)))
    with pytest.raises(ValueError, match="its weights are normalised"):
        spectral_norm(once).init(rng.key(0))


def test_a_weight_of_zeros_is_refused():
    """It was divided by its norm of 0, and no step of the game was finite."""
    disc = nets.r3gan_discriminator((3, 16, 16), features=2)
    with pytest.raises(ValueError, match=r"the weight 1\.conv3\.weight begins with zeros"):
        spectral_norm(disc).init(rng.key(0))


def test_values_are_made_under_vmap():
    def init(key):
        return {"w": rng.normal(key, (4, 3))}, {}

    def apply(params, buffers, x, **_):
        return x @ params["w"].mT, buffers

    made = spectral_norm(Model(init=init, apply=apply, shape=Shape((3,), (4,))))
    keys = rng.split(rng.key(0), 3)
    together = vmap(made.init)(keys)
    assert_near(together, pytree.stack([made.init(key) for key in keys]), atol=1e-6)


@pytest.mark.parametrize("num_iterations", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_equals_torch_over_several_steps(name, num_iterations):
    made = normalised(name, num_iterations)
    params, buffers = pytree.to(made.init(rng.key(3)), None, torch.float64)
    module = oracle(name, params, buffers, num_iterations)
    start = copy_tree(params)
    for t in range(6):
        x = signed((5, *made.shape.input), t)
        before = copy_tree((params, buffers))
        for train in (False, True):  # evaluation uses u, v of the step before

            def loss(p, buffers=buffers, x=x, train=train):
                out, new = made.apply(p, buffers, x, train=train)
                return out.square().sum(), (out, new)

            grads, (out, new) = grad(loss, has_aux=True)(params)
            module.train(train)
            module.zero_grad()
            expected = module(x)
            expected.square().sum().backward()
            torch.testing.assert_close(out, expected.detach(), rtol=1e-10, atol=1e-12)
            wanted = {key: p.grad for key, p in original(module).items()}
            assert_near(grads, {key: wanted[key] for key in grads}, atol=1e-10, rtol=1e-10)
            assert_same((params, buffers), before)
            if not train:
                assert_same(new, buffers)
        buffers = new
        params = pytree.map(lambda p, g: p - 0.05 * g, params, grads)
        with torch.no_grad():
            for key, p in original(module).items():
                p.copy_(params[key])
    assert max((params[k] - start[k]).abs().max() for k in params) > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_weights_have_the_spectral_norm_one(name):
    """The power method, given enough iterations, finds what the decomposition finds."""
    seen = {}

    def apply(params, buffers, x, *, noise=model.NO_NOISE, train=True):
        seen.update(params)
        return x, buffers

    build, shape, dims = CASES[name]
    plain = from_module(build, input_shape=shape)
    watched = model.Model(plain.init, apply, plain.shape)
    made = spectral_norm(watched, 200, output_dims=dims)
    params, buffers = pytree.to(made.init(rng.key(5)), None, torch.float64)
    made.apply(params, buffers, signed((2, *shape)))
    for key, weight in params.items():
        if weight.ndim < 2:
            assert seen[key] is weight
            continue
        matrix = seen[key].transpose(0, dims.get(key, 0)).flatten(1)
        norm = torch.linalg.matrix_norm(matrix, 2)
        torch.testing.assert_close(norm, torch.ones_like(norm), rtol=1e-6, atol=0)
        norm = torch.linalg.matrix_norm(weight.transpose(0, dims.get(key, 0)).flatten(1), 2)
        torch.testing.assert_close(seen[key], weight / norm, rtol=1e-6, atol=1e-9)


def test_init_follows_the_key_alone():
    made = normalised("convolutions")
    torch.manual_seed(1)
    one = made.init(rng.key(1))
    torch.manual_seed(2)
    again, other = made.init(rng.key(1)), made.init(rng.key(2))
    assert_same(one, again)
    plain = from_module(CASES["convolutions"][0], input_shape=(2, 4, 4)).init(rng.key(1))
    assert_same(one[0], plain[0])
    names = {f"{i}.weight.{x}" for i in (0, 3, 6) for x in "uv"}
    assert set(one[1]) == set(plain[1]) | names
    for name in names:
        torch.testing.assert_close(one[1][name].norm(), torch.ones(()))
        assert (one[1][name] != other[1][name]).any()
    assert one[1]["3.weight.u"].shape == (4,)
    # The first pass finds u and v already near the singular vectors.
    for seed in range(3):
        params, buffers = normalised("mlp").init(rng.key(seed))
        for name in ("0.weight", "2.weight"):
            sigma = buffers[f"{name}.u"] @ params[name] @ buffers[f"{name}.v"]
            assert sigma > 0.99 * torch.linalg.matrix_norm(params[name], 2)


def test_what_is_kept_of_the_model():
    plain = nets.mlp_discriminator(IMAGE, hidden=(5,), dropout=0.3)
    made = spectral_norm(plain)
    assert (made.shape, made.noise_shapes, made.batch_stats) == (
        plain.shape,
        plain.noise_shapes,
        plain.batch_stats,
    )
    assert normalised("convolutions").batch_stats


def test_gradient_penalties_see_through_it():
    """Double backward, with u and v constant at both levels."""
    made = normalised("mlp")
    params, buffers = pytree.to(made.init(rng.key(4)), None, torch.float64)
    module = oracle("mlp", params, buffers)
    x = signed((5, 3), 9)

    def penalty(p):
        return terms.r1(lambda x: made.apply(p, buffers, x)[0][:, 0], x).sum()

    y = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(module(y).sum(), y, create_graph=True)
    slope.square().sum().backward()
    wanted = {k: p.grad for k, p in original(module).items() if p.grad is not None}
    grads = grad(penalty)(params)
    assert len(wanted) >= 5
    assert_near({k: grads[k] for k in wanted}, wanted, atol=1e-10, rtol=1e-10)
    compiled = compile_function(grad(penalty), backend="aot_eager")(params)
    assert_near(compiled, grads, atol=1e-12)


def test_members_of_a_population_are_themselves():
    made = normalised("mlp")
    members = [made.init(key) for key in rng.split(rng.key(0), 3)]
    x = signed((3, 5, 3), 0, torch.float32)
    alone = [made.apply(p, b, each) for (p, b), each in zip(members, x, strict=True)]
    together = vmap(made.apply)(*pytree.stack(members), x)
    assert_near(together, pytree.stack(alone), atol=1e-6)


def test_under_autocast_the_vectors_keep_their_type():
    plain = nets.mlp_discriminator(IMAGE, hidden=(5,))
    x = signed((4, *IMAGE), 0, torch.float32)
    orders = [
        model.autocast(spectral_norm(plain), torch.bfloat16),
        spectral_norm(model.autocast(plain, torch.bfloat16)),
    ]
    params, buffers = spectral_norm(plain).init(rng.key(0))
    expected, wanted = spectral_norm(plain).apply(params, buffers, x)
    for made in orders:
        out, new = made.apply(params, buffers, x)
        assert_same(new, wanted)
        assert out.dtype == torch.float32
        assert not torch.equal(out, expected)  # bfloat16 was at work
        torch.testing.assert_close(out, expected, rtol=0.05, atol=0.02)


def test_a_game_with_a_normalised_discriminator(fresh_dynamo):
    disc = spectral_norm(nets.mlp_discriminator(IMAGE, hidden=(5,)))
    game = small_game(disc=disc, num_disc_steps=2)
    state = fgan.init_state(game, rng.key(1))
    end, history = run_steps(game, state, 4)
    assert all(metrics.finite for metrics in history)
    still = {k for k, b in state.disc.buffers.items() if torch.equal(b, end.disc.buffers[k])}
    (last,) = {k for k, b in state.disc.buffers.items() if b.shape == (1,)}
    assert still == {last}  # the u of a single output is 1 for ever
    compiled = compile_step(fgan.make_step(game), backend="aot_eager")
    actual, _ = run_steps(game, state, 4, step=compiled)
    assert_near(actual, end, atol=1e-5, rtol=1e-5)


def test_out_of_range():
    plain = from_module(mlp, input_shape=(3,))
    with pytest.raises(ValueError, match="at least one"):
        spectral_norm(plain, 0)
    with pytest.raises(ValueError, match=r"no weight 1\.weight; there are 0\.weight"):
        spectral_norm(plain, output_dims={"1.weight": 1}).init(rng.key(0))


def average_of(gen, steps=150):
    """The averaged generator of a short game at a high rate."""
    rule = optim.adam(5e-3, betas=(0.0, 0.9))
    disc = nets.mlp_discriminator((3,), hidden=(8,))
    game = fgan.Game(gen=gen, disc=disc, gen_opt=rule, disc_opt=rule, ema_decay=0.98)
    key = rng.key(0)
    state, step = fgan.init_state(game, key), fgan.make_step(game)
    real = rng.normal(rng.key(9), (8, 3))
    for t in range(steps):
        state, _ = step(state, real, fgan.make_draws(game, key, t, 8))
    return state


def test_averaged_weights_are_normalised_too():
    """u and v stay unit vectors; an average of them would make sigma too small."""
    gen = nets.mlp_generator(z_dim=4, image_shape=(3,), hidden=(16, 16), output="linear")
    state = average_of(spectral_norm(gen))
    params, buffers = state.sampler
    for name, weight in params.items():
        if weight.ndim < 2:
            continue
        u, v = buffers[f"{name}.u"], buffers[f"{name}.v"]
        sigma = torch.dot(u, torch.mv(weight, v))
        exact = torch.linalg.matrix_norm(weight, 2)
        # From below, for u and v are unit vectors; one step of the power method at each of
        # many small moves of the weights keeps up with them.
        assert 0.99 < (sigma / exact).item() <= 1 + 1e-5


def test_torchs_spectral_norm_is_averaged_so_too():
    def build():
        return nn.Sequential(
            nn.Linear(4, 16),
            nn.ReLU(),
            nn.utils.parametrizations.spectral_norm(nn.Linear(16, 3)),
        )

    state = average_of(fgan.from_module(build, (4,)), steps=20)
    vectors = [b for name, b in state.sampler.buffers.items() if name.endswith(("_u", "_v"))]
    assert [v.norm().item() for v in vectors] == pytest.approx([1, 1], abs=1e-5)
