"""The games of presets against loops written from the papers, in float64."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional

import fgan
from fgan import optim, rng
from fgan.data import load_mnist
from fgan.game import population
from fgan.metrics.digits import see
from fgan.run.reproduce import digits, mixtures, stacked

CLOSE = {"rtol": 0, "atol": 1e-10}  # steps of the size 1e-4 to 1e-1, summed in another order
softplus = functional.softplus


def strong(state, factor=30.0):
    """The state with larger weights, whose gradients are not lost in a tolerance, and with biases.

    Where all biases are 0, a generator of five units makes some zeros, for which the pieces of a
    maxout unit are equal: ``amax`` and ``max`` differ in whose gradient they take.
    """

    def stronger(player):
        params = {
            name: p * factor if p.ndim > 1 else p + 0.1 * rng.normal(rng.key(i), p.shape, p.dtype)
            for i, (name, p) in enumerate(player.params.items())
        }
        return player._replace(params=params)

    return state._replace(gen=stronger(state.gen), disc=stronger(state.disc))


def trainable(params):
    return {name: p.clone().requires_grad_() for name, p in params.items()}


def assert_all_close(state, gen, disc):
    for found, expected in ((state.gen.params, gen), (state.disc.params, disc)):
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name].detach(), **CLOSE)


def maxout(x, params, name, pieces):
    maps = x @ params[f"{name}.linear.weight"].T + params[f"{name}.linear.bias"]
    return maps.view(len(x), -1, pieces).max(2).values


def test_the_rate_of_adversarial_nets_falls_to_its_end():
    """0.1 / 1.000004^n, and 1e-6 at last, as the paper's configuration has it."""
    for step, rate in ((0, 0.1), (100_000, 0.1 / 1.000004**100_000), (10**7, 1e-6)):
        found = 0.1 * digits.falling(torch.tensor(step)).item()
        assert found == pytest.approx(rate, rel=1e-5)  # float32, and a power of a power


def test_adversarial_nets():
    """Three steps: one forward pass for both players under one mask, and momentum that rises."""
    size, steps = 4, 3
    images = load_mnist().examples[:40]
    game = digits.adversarial_nets(images, gen_width=6, disc_width=5)
    state = strong(fgan.init_state(game, rng.key(3), dtype=torch.float64))
    gen, disc = trainable(state.gen.params), trainable(state.disc.params)
    velocity = {id(p): torch.zeros_like(p) for p in (*gen.values(), *disc.values())}
    momentum = fgan.schedules.linear(0.5, 0.7, num_steps=10)
    step = fgan.scheduled(fgan.make_step(game), digits.falling, momentum=momentum)

    def make(z):
        h = math.sqrt(3) * (2 * torch.distributions.Normal(0.0, 1.0).cdf(z) - 1)
        for name in ("1", "3"):
            h = functional.relu(h @ gen[f"{name}.weight"].T + gen[f"{name}.bias"])
        return torch.sigmoid(h @ gen["5.weight"].T + gen["5.bias"])

    def judge(x, masks):
        h = x * masks["1"] * 1.25
        h = maxout(h, disc, "2", 5) * masks["3"] * 2
        h = maxout(h, disc, "4", 5) * masks["5"] * 2
        return (h @ disc["6.weight"].T + disc["6.bias"])[:, 0]

    for t in range(steps):
        real = images[size * t : size * (t + 1)].double() / 255
        draws = digits.same_masks(fgan.make_draws(game, state.key, t, size, dtype=torch.float64))
        state, _ = step(state, real, draws)

        keep = {"1": 0.2, "3": 0.5, "5": 0.5}
        masks = {n: (u.double() >= keep[n]) for n, u in draws.disc[0].disc_noise.items()}
        fake = make(draws.gen.z)
        of_real = judge(real.flatten(1), {n: m[:size] for n, m in masks.items()})
        of_fake = judge(fake, {n: m[size:] for n, m in masks.items()})
        disc_loss = (softplus(-of_real) + softplus(of_fake)).mean() / 2
        grads = [
            *torch.autograd.grad(softplus(-of_fake).mean(), list(gen.values()), retain_graph=True),
            *torch.autograd.grad(disc_loss, list(disc.values())),
        ]
        rate, beta = 0.1 / 1.000004**t, 0.5 + 0.2 * t / 10
        with torch.no_grad():
            for p, g in zip((*gen.values(), *disc.values()), grads, strict=True):
                velocity[id(p)] = beta * velocity[id(p)] + g
                p -= rate * velocity[id(p)]
    # The schedules are computed in float32, of whose rounding the steps of 1e-2 keep 1e-9.
    for found, expected in ((state.gen.params, gen), (state.disc.params, disc)):
        for name in expected:
            torch.testing.assert_close(found[name], expected[name].detach(), rtol=0, atol=1e-8)


def test_the_first_fakes_have_the_mean_of_the_images():
    images = load_mnist().examples[:1000]
    game = digits.adversarial_nets(images, gen_width=6, disc_width=5)
    params, buffers = game.gen.init(rng.key(0))
    quiet = {name: torch.zeros_like(p) if "weight" in name else p for name, p in params.items()}
    fake, _ = game.gen.apply(quiet, buffers, torch.zeros(1, 100))
    torch.testing.assert_close(fake[0], images.float().mean(0) / 255, rtol=1e-4, atol=1e-6)
    assert params["5.weight"].abs().max() <= 0.05
    assert 0.004 < game.disc.init(rng.key(0))[0]["2.linear.weight"].abs().max() <= 0.005


def test_uniform_latents():
    z = digits.Uniform()(rng.normal(rng.key(0), (100_000,)))
    assert z.abs().max() <= math.sqrt(3)
    assert z.mean().abs() < 0.01  # three standard errors
    assert abs(z.var() - 1) < 0.01
    assert abs((z.abs() < math.sqrt(3) / 2).double().mean() - 0.5) < 0.005


@pytest.mark.parametrize("m", [1, 2])
def test_pacgan(m):
    """Two simultaneous steps of Adam, with batch norm in the generator and packs of fakes."""
    size = 6
    game = mixtures.pacgan(m, gen_width=5, disc_width=4)
    state = strong(fgan.init_state(game, rng.key(1), dtype=torch.float64))
    gen, disc = trainable(state.gen.params), trainable(state.disc.params)
    adam = [torch.optim.Adam(list(p.values()), lr=1e-4, betas=(0.8, 0.999)) for p in (gen, disc)]

    def make(z):
        h = z
        for i in range(4):
            h = h @ gen[f"{3 * i}.weight"].T
            h = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt()
            h = functional.relu(h * gen[f"{3 * i + 1}.weight"] + gen[f"{3 * i + 1}.bias"])
        return h @ gen["12.weight"].T + gen["12.bias"]

    def judge(x):
        h = torch.stack([torch.cat(list(pack)) for pack in x.split(m)])
        for name in "012":
            h = maxout(h, disc, name, 5)
        return (h @ disc["3.weight"].T + disc["3.bias"])[:, 0]

    for t in range(2):
        real = rng.normal(rng.key(20 + t), (size, 2), torch.float64)
        draws = fgan.make_draws(game, state.key, t, size, dtype=torch.float64)
        state, _ = fgan.make_step(game)(state, real, draws)
        of_real, of_fake = judge(real), judge(make(draws.gen.z))
        gen_grads = torch.autograd.grad(
            softplus(-of_fake).mean(), list(gen.values()), retain_graph=True
        )
        disc_loss = (softplus(-of_real) + softplus(of_fake)).mean()
        disc_grads = torch.autograd.grad(disc_loss, list(disc.values()))
        for rule, params, grads in zip(adam, (gen, disc), (gen_grads, disc_grads), strict=True):
            for p, g in zip(params.values(), grads, strict=True):
                p.grad = g
            rule.step()
    assert_all_close(state, gen, disc)


def test_the_sizes_of_the_networks_of_pacgan():
    """The counts that follow from the paper's text: only the first layer of D knows of packs."""
    counts = {}
    for m in (1, 2, 4):
        game = mixtures.pacgan(m)
        params = [model.init(rng.key(0))[0] for model in (game.gen, game.disc)]
        counts[m] = [sum(p.numel() for p in each.values()) for each in params]
    gen = 2 * 400 + 3 * 400 * 400 + 4 * 2 * 400 + 400 * 2 + 2
    for m, found in counts.items():
        disc = (2 * m + 1) * 1000 + 2 * (200 + 1) * 1000 + 200 + 1
        assert found == [gen, disc]


def test_stacked_digits_are_found_again():
    source = stacked.stacked_digits(300)
    assert source.shape == (3, 32, 32)
    images = source.examples.float() / 127.5 - 1
    found = stacked.modes_of(images)
    classes = see(source.examples[..., 2:-2, 2:-2].reshape(-1, 1, 28, 28)).logits.argmax(1)
    triples = {tuple(each) for each in classes.view(-1, 3).tolist()}
    assert found.captured == len(triples)
    assert 0 < found.reverse_kl < math.log(1000)
    one = stacked.modes_of(images[:1].expand(5, -1, -1, -1))
    assert one == (1, pytest.approx(math.log(1000)))


def test_nearest_error():
    known = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    images = torch.tensor([[0.1, 0.2], [0.9, 0.8], [0.2, 0.0], [1.0, 0.9]])
    labels, classes = torch.tensor([3, 7]), torch.tensor([3, 7, 7, 7])
    assert digits.nearest_error(known, labels, images, classes) == 0.25


def test_members_have_batches_and_latents_of_their_own():
    trial = mixtures.Trial("tiny", 2, torch.device("cpu"), compile=False)
    game = mixtures.pacgan(1, gen_width=4, disc_width=3)
    source = mixtures.ring().source
    both = mixtures.train(game, source, trial, num_steps=2, batch_size=4, every=2)
    alone = mixtures.train(
        game,
        source,
        mixtures.Trial("tiny", 1, torch.device("cpu"), compile=False),
        num_steps=2,
        batch_size=4,
        every=1,
    )
    first = population.member(both, 0)
    for name, p in population.member(alone, 0).disc.params.items():
        torch.testing.assert_close(first.disc.params[name], p, rtol=0, atol=1e-6)
    second = population.member(both, 1)
    assert not torch.equal(
        first.disc.params["0.linear.weight"], second.disc.params["0.linear.weight"]
    )


def test_a_member_that_is_not_finite_is_told_of():
    said = []
    trial = mixtures.Trial(
        "tiny", 2, torch.device("cpu"), compile=False, note=lambda *told: said.append(told)
    )
    game = dataclasses.replace(
        mixtures.pacgan(1, gen_width=4, disc_width=3), gen_opt=optim.sgd(1e38)
    )
    mixtures.train(game, mixtures.ring().source, trial, num_steps=4, batch_size=4, every=2)
    label, facts = said[-1]
    assert (label, facts["steps"]) == ("not finite", 4)
    assert all(0 < refused <= 4 for refused in facts["steps_refused"])
