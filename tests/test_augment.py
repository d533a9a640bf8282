"""Augmentations: their parts against other arithmetic, games with them against other programs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support import (
    BATCH,
    IMAGE,
    assert_near,
    assert_same,
    imperative,
    real_batch,
    signed,
    small_game,
)
from torch._dynamo.testing import CompileCounter
from torch.func import grad, vmap

import fgan
from fgan import augment, losses, nets, optim, pytree, rng, terms
from fgan.augment import ada
from fgan.compile.graph import count_graphs
from fgan.disk import checkpoint
from fgan.errors import ConfigError
from fgan.game import population
from fgan.run import assemble
from fgan.run import config as configs

F64 = torch.float64
IMAGES = signed((4, 3, 6, 8))
DIFFAUG = augment.make_diffaug()
PIPELINE = augment.make_pipeline(0.7)
ROUNDING = 1e-12  # sums of some hundred float64 numbers of size one, each rounded by 1e-16


def uniform(num, batch=4, seed=1):
    return rng.uniform(rng.key(seed), (batch, num))


# DiffAugment, against loops over pixels in the form of the authors' code


def test_colours_are_those_of_diffaugment():
    u = uniform(3).double()
    for i, x in enumerate(IMAGES):
        brighter = x + (u[i, 0] - 0.5)
        grey = brighter.mean(0, keepdim=True)
        saturated = (brighter - grey) * (u[i, 1] * 2) + grey
        expected = (saturated - saturated.mean()) * (u[i, 2] + 0.5) + saturated.mean()
        own = augment.make_diffaug(["colour"]).apply(IMAGES, uniform(3), 1.0)[i]
        assert_near(own, expected, atol=1e-6)  # uniform numbers are float32


def test_translation_shifts_whole_pixels_and_fills_with_zeros():
    found = set()
    for seed in range(12):
        u = uniform(2, seed=seed)
        moved = augment.translation(IMAGES, u, ratio=0.25)  # by at most 2 pixels each way
        for x, y, (a, b) in zip(IMAGES, moved, u.tolist(), strict=True):
            down, right = int(a * 5) - 2, int(b * 5) - 2
            found.add((down, right))
            expected = torch.zeros_like(x)
            for i in range(6):
                for j in range(8):
                    if 0 <= i + down < 6 and 0 <= j + right < 8:
                        expected[:, i, j] = x[:, i + down, j + right]
            assert torch.equal(y, expected)
    assert len(found) > 10


def test_cutout_is_that_of_diffaugment():
    for seed in range(8):
        u = uniform(2, seed=seed)
        cut = augment.cutout(IMAGES, u)
        for x, y, (a, b) in zip(IMAGES, cut, u.tolist(), strict=True):
            mask = torch.ones(6, 8, dtype=F64)
            for i in range(3):
                for j in range(4):
                    row = min(max(i + int(a * 6) - 1, 0), 5)  # 3 of 6 rows
                    mask[row, min(max(j + int(b * 9) - 2, 0), 7)] = 0  # 4 of 8 columns
            assert torch.equal(y, x * mask)


# ADA's pipeline


def pipeline(probability, *kinds):
    return augment.make_pipeline(probability, kinds=kinds or ("blit", "geometry", "colour"))


def test_no_change_is_made_with_probability_zero():
    assert_near(pipeline(0.0).apply(IMAGES, uniform(28), 0.0), IMAGES, atol=1e-6)
    exact = pipeline(0.0, "blit", "geometry")
    assert torch.equal(exact.apply(IMAGES, uniform(18), 0.0), IMAGES)


def test_each_change_is_made_with_the_probability():
    """Of 4000 images a share of 0.3 +- 0.03, four deviations."""
    images = signed((1, 1, 4, 4)).expand(4000, 1, 4, 4)
    changed = pipeline(0.3, "colour").apply(images, uniform(10, 4000), 0.3)
    same = (changed - images).abs().flatten(1).amax(1) < 1e-9
    expected = 0.7**2 * 0.85  # brightness and contrast; and every other luma flip is none
    assert abs(same.double().mean() - expected) < 0.03
    turned = ada._Numbers(uniform(2, 4000), 0.3, 0)
    angle = turned.where(turned.uniform() + 1, 0, of_two=True)
    assert abs((angle != 0).double().mean() - (1 - math.sqrt(0.7))) < 0.03


def test_blits_are_flips_quarter_turns_and_shifts_of_pixels():
    square = signed((1, 1, 5, 5)).expand(64, 1, 5, 5)
    u = uniform(7, 64)
    u[:, 5] = 0.5  # with the next: no shift
    u[:, 6] = 1.0
    blitted = pipeline(1.0, "blit").apply(square, u, 1.0)
    candidates = {
        (flip, turn): torch.rot90(square[0].flip(2) if flip else square[0], turn, (1, 2))
        for flip in (0, 1)
        for turn in range(4)
    }
    seen = set()
    for each in blitted:
        match = [name for name, other in candidates.items() if torch.equal(each, other)]
        assert len(match) == 1
        seen.update(match)
    assert seen == candidates.keys()
    u[:, [1, 3]] = 1.0  # neither flips nor turns
    u[:, 4], u[:, 5], u[:, 6] = 0.99, 0.5, 0.0
    shifted = pipeline(1.0, "blit").apply(square, u, 1.0)
    assert torch.equal(shifted[..., 1:], square[..., :-1])  # by round(0.98 * 0.125 * 5) = 1
    assert torch.equal(shifted[..., 0], square[..., 1])  # mirrored beyond the edge


def test_the_look_up_is_bilinear():
    image = signed((2, 3, 7, 7))
    x, y = (2 * rng.uniform(rng.key(i), (2, 5, 5)).double() for i in (1, 2))
    grid = torch.stack([x / 3, y / 3], -1)  # grid_sample counts from -1 to 1
    expected = torch.nn.functional.grid_sample(image, grid, "bilinear", align_corners=True)
    assert_near(ada._look_up(image, (x, y)), expected, atol=ROUNDING)


def test_the_image_is_mirrored_beyond_its_edges():
    padded = torch.nn.functional.pad(IMAGES, (3, 3, 3, 3), mode="reflect")
    x = torch.arange(14.0) - 6.5 + torch.zeros(4, 12, 1)
    y = (torch.arange(12.0) - 5.5)[:, None] + torch.zeros(4, 12, 14)
    assert torch.equal(ada._look_up(IMAGES, (x, y)), padded)


def test_colours_are_those_of_the_matrices():
    """The authors multiply matrices of homogeneous colours; here each change is a formula."""
    u = uniform(10).double()
    normal = lambda v: math.sqrt(2) * torch.erfinv(2 * v - 1 + 2**-24)  # noqa: E731
    apart = u.clone()
    apart[:, [1, 3, 5, 7, 9]] = 0.0  # the numbers that decide whether a change is made
    found = pipeline(1.0, "colour").apply(IMAGES, apart, 1.0)
    axis = torch.full((3,), 1 / math.sqrt(3), dtype=F64)
    along = torch.outer(axis, axis)
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=F64) / math.sqrt(3)
    for i, x in enumerate(IMAGES):
        brightness, contrast = normal(u[i, 0]) * 0.2, torch.exp2(normal(u[i, 2]) * 0.5)
        luma = torch.eye(3, dtype=F64) - 2 * along * (u[i, 4] * 2).floor()
        angle, more = (2 * u[i, 6] - 1) * math.pi, torch.exp2(normal(u[i, 8]))
        eye = torch.eye(3, dtype=F64)
        hue = angle.cos() * eye + angle.sin() * cross + (1 - angle.cos()) * along
        matrix = (along + (eye - along) * more) @ hue @ luma * contrast
        expected = torch.einsum("ij,jhw->ihw", matrix, x + brightness)
        assert_near(found[i], expected, atol=ROUNDING)
    grey = pipeline(1.0, "colour").apply(IMAGES[:, :1], apart, 1.0)
    signs = set()
    for i, x in enumerate(IMAGES[:, :1]):  # the authors average the rows of the matrix
        brightness, contrast = normal(u[i, 0]) * 0.2, torch.exp2(normal(u[i, 2]) * 0.5)
        sign = 1 - 2 * (u[i, 4] * 2).floor()
        assert_near(grey[i], sign * contrast * (x + brightness), atol=ROUNDING)
        signs.add(sign.item())
    assert signs == {1.0, -1.0}


@pytest.mark.parametrize("change", [DIFFAUG, PIPELINE], ids=["diffaug", "pipeline"])
def test_gradients_flow_as_often_as_terms_need(change):
    images = signed((2, 3, 4, 5)).requires_grad_()
    u = uniform(change.num_numbers, 2).double()
    apply = lambda x: change.apply(x.sin(), u, 0.7)  # noqa: E731
    torch.autograd.gradcheck(apply, images)
    torch.autograd.gradgradcheck(apply, images)


@pytest.mark.parametrize("change", [DIFFAUG, PIPELINE], ids=["diffaug", "pipeline"])
def test_an_image_depends_on_its_own_row_alone(change):
    u = uniform(change.num_numbers)
    whole = change.apply(IMAGES, u, 0.7)
    for i in range(4):
        alone = change.apply(IMAGES[i : i + 1], u[i : i + 1], 0.7)[0]
        assert_near(alone, whole[i], atol=ROUNDING)
    assert_near(vmap(lambda x, v: change.apply(x[None], v[None], 0.7)[0])(IMAGES, u), whole,
                atol=ROUNDING)  # fmt: skip


# Games


def prepared(**options):
    game = small_game(**options)
    state = fgan.init_state(game, rng.key(5), dtype=F64)
    return game, state, real_batch(game, dtype=F64), draws_of(game, state, 0)


def draws_of(game, state, step):
    return fgan.make_draws(game, state.key, step, BATCH, dtype=F64)


def without_changes(draws):
    def less(own):
        noise = {name: u for name, u in own.disc_noise.items() if name != augment.AUGMENT}
        return own._replace(disc_noise=noise)

    return draws._replace(disc=tuple(map(less, draws.disc)), gen=less(draws.gen))


def test_a_game_without_augmentation_keeps_its_numbers():
    options = {"disc": nets.mlp_discriminator(IMAGE, hidden=(5,), dropout=0.5)}
    plain, _, _, draws = prepared(**options)
    _, _, _, with_changes = prepared(**options, augment=DIFFAUG, loss=losses.relativistic)
    assert set(with_changes.disc[0].disc_noise) == {*draws.disc[0].disc_noise, "augment"}
    assert with_changes.disc[0].disc_noise["augment"].shape == (2 * BATCH, 7)
    assert_same(without_changes(with_changes).disc, draws.disc)
    plain_relativistic = replace(plain, loss=losses.relativistic)
    expected = fgan.make_draws(plain_relativistic, rng.key(5), 0, BATCH, dtype=F64)
    assert_same(without_changes(with_changes), expected)


class Loop:
    """An imperative loop whose discriminator sees changed images, with R1 on the slope through."""

    def __init__(self, game, state, change, probability):
        self.gen, self.disc, self.gen_opt, self.disc_opt = imperative(state)
        self.change, self.p = change, probability

    def judge(self, x, u):
        return self.disc(self.change.apply(x, u, self.p))[:, 0]

    def step(self, real, draws):
        softplus = torch.nn.functional.softplus
        u = draws.disc[0].disc_noise["augment"]
        fake = self.gen(draws.disc[0].z).view(-1, *IMAGE).detach()
        real = real.clone().requires_grad_()
        on_real, on_fake = self.judge(real, u[:BATCH]), self.judge(fake, u[BATCH:])
        (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
        r1 = slope.square().flatten(1).sum(1).mean()
        loss = softplus(-on_real).mean() + softplus(on_fake).mean() + 0.5 * r1
        self.disc_opt.zero_grad()
        loss.backward()
        self.disc_opt.step()
        fake = self.gen(draws.gen.z).view(-1, *IMAGE)
        self.gen_opt.zero_grad()
        softplus(-self.judge(fake, draws.gen.disc_noise["augment"])).mean().backward()
        self.gen_opt.step()


@pytest.mark.parametrize("change", [DIFFAUG, PIPELINE], ids=["diffaug", "pipeline"])
def test_a_game_is_the_imperative_loop(change):
    """20 steps in float64; Adam divides by rounded roots, so 1e-10 is a thousand roundings."""
    adam = {"betas": (0.5, 0.999)}
    game, state, _, _ = prepared(
        augment=change, terms=(terms.make_r1(1.0),), gen_opt=optim.adam(0.01, **adam),
        disc_opt=optim.adam(0.02, **adam),
    )  # fmt: skip
    loop, step = Loop(game, state, change, 0.7), fgan.make_step(game)
    for t in range(20):
        real, draws = real_batch(game, t, dtype=F64), draws_of(game, state, t)
        state, _ = step(state, real, draws)
        loop.step(real, draws)
    for net, player in ((loop.gen, state.gen), (loop.disc, state.disc)):
        for p, value in zip(net.parameters(), player.params.values(), strict=True):
            torch.testing.assert_close(p.detach(), value.view_as(p), rtol=0, atol=1e-10)


def adaptive(**options):
    return augment.make_ada(num_steps=20, every=2, kinds=("blit", "colour"), **options)


def test_the_probability_follows_the_sign_of_the_logits():
    """Against the rule, from the logits that the discriminator gave."""
    game, state, _, _ = prepared(augment=adaptive(probability=0.25), num_disc_steps=3)
    p, signs, step = 0.25, [], fgan.make_step(game)
    found = set()
    for t in range(6):
        real, draws = real_batch(game, t, dtype=F64), draws_of(game, state, t)
        disc = state.disc
        for own, u in zip(real, draws.disc, strict=True):
            # The update of the discriminator between its steps is the game's own.
            seen = game.augment.apply(own, u.disc_noise["augment"][:BATCH], p)
            alone = replace(game, num_disc_steps=1, augment=None)
            logits, _ = game.disc.apply(disc.params, {}, seen)
            signs.append(logits.sign().mean())
            fake, _ = game.gen.apply(state.gen.params, {}, u.z)
            changed = game.augment.apply(fake, u.disc_noise["augment"][BATCH:], p)

            def loss(params, seen=seen, changed=changed, alone=alone):
                on = [game.disc.apply(params, {}, x)[0] for x in (seen, changed)]
                return alone.loss.disc(real_logits=on[0], fake_logits=on[1]).mean()

            disc = fgan.descend(game.disc_opt, disc, grad(loss)(disc.params))
            if len(signs) == 2:
                p = min(max(p + 2 / 20 * (1 if sum(signs) / 2 > 0.6 else -1), 0), 1)
                signs = []
        state, metrics = step(state, real, draws)
        assert_near(state.disc.params, disc.params, atol=ROUNDING)
        assert state.carry["augment"].probability.item() == pytest.approx(p, abs=1e-12)
        assert len(signs) == state.carry["augment"].seen
        found.add(round(p, 3))
    assert metrics.terms["augment"].isfinite()
    assert len(found) > 1


def test_a_run_with_memory_and_augmentation_is_resumed_to_the_last_bit(tmp_path):
    game, state, _, _ = prepared(augment=adaptive(), terms=(terms.make_lecam(0.1),))
    step, halfway = fgan.make_step(game), None
    for t in range(6):
        if t == 3:
            checkpoint.save(tmp_path / "a", state, {})
            halfway = state
        state, _ = step(state, real_batch(game, t, dtype=F64), draws_of(game, state, t))
    again = checkpoint.restore(checkpoint.load(tmp_path / "a"), halfway, "a")
    for t in range(3, 6):
        again, _ = step(again, real_batch(game, t, dtype=F64), draws_of(game, again, t))
    assert_same(again, state)
    assert state.carry["augment"].seen == 0


def test_augmentation_is_one_graph_and_a_population():
    game = small_game(augment=adaptive(probability=0.5), terms=(terms.make_r1(1.0),))
    step, keys = fgan.make_step(game), rng.split(rng.key(0), 2)
    alone = [fgan.init_state(game, key) for key in keys]
    states, many = population.init(game, keys), population.make_step(game)
    counter = CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=counter)
    before, traced = count_graphs(), fgan.compile_step(step, backend="eager")
    for t in range(3):
        real = real_batch(game, t)
        draws = [fgan.make_draws(game, key, t, BATCH) for key in keys]
        states, _ = many(states, real, population.make_draws(game, keys, t, BATCH))
        assert_near(compiled(alone[0], real, draws[0]), step(alone[0], real, draws[0]), atol=1e-5)
        assert_near(traced(alone[0], real, draws[0]), step(alone[0], real, draws[0]), atol=1e-5)
        alone = [step(state, real, own)[0] for state, own in zip(alone, draws, strict=True)]
    assert counter.frame_count == 1
    assert count_graphs() == before + 1
    assert_near(states, pytree.stack(alone), atol=1e-5)  # batched products round


def test_a_term_that_judges_sees_the_changes_of_the_moment():
    """The probability of the state reaches the points that a term chooses: here all stay."""
    found = []
    for augment_ in (None, adaptive(probability=0.0), adaptive(probability=1.0)):
        game = small_game(augment=augment_, terms=(terms.make_wgan_gp(10.0),))
        state = fgan.init_state(game, rng.key(3))
        draws = fgan.make_draws(game, state.key, 0, BATCH)
        _, metrics = fgan.make_step(game)(state, real_batch(game, 0), draws)
        found.append(metrics.terms["wgan_gp"])
    assert_near(found[1], found[0], atol=1e-5)  # float32, after the warp of the identity
    assert (found[2] - found[0]).abs() > 1e-3


def test_a_penalty_at_points_of_its_own_sees_changed_images():
    change = augment.make_diffaug(["cutout"])
    game, state, real, draws = prepared(augment=change, terms=(terms.make_wgan_gp(1.0),))
    own = draws.disc[0]
    fake, _ = game.gen.apply(state.gen.params, {}, own.z)

    def critic(x):
        changed = change.apply(x, own.disc_noise["augment"][:BATCH], 1.0)
        return game.disc.apply(state.disc.params, {}, changed)[0]

    expected = terms.wgan_gp(critic, real, fake, own.term_noise["wgan_gp"]).mean()
    _, metrics = fgan.make_step(game)(state, real, draws)
    assert_near(metrics.terms["wgan_gp"], expected, atol=ROUNDING)


def test_augmentations_that_cannot_be():
    with pytest.raises(ValueError, match=r"changes images \[C, H, W\], not data \(2,\)"):
        small_game(
            gen=nets.mlp_generator(3, (2,), hidden=(4,)),
            disc=nets.mlp_discriminator((2,), hidden=(4,)),
            augment=DIFFAUG,
        )
    with pytest.raises(TypeError, match="augment is an Augment"):
        small_game(augment="diffaug")
    with pytest.raises(ValueError, match="name of its own, not augment, augment"):
        small_game(augment=adaptive(), terms=(terms.Term(name="augment", apply=lambda view: 0),))
    for make, message in (
        (lambda: augment.make_diffaug(["color"]), "parts are some of colour"),
        (lambda: augment.make_pipeline(0.5, kinds=("filter",)), "kinds are some of blit"),
        (lambda: augment.make_pipeline(1.5), "probability lies in"),
        (lambda: augment.make_ada(num_steps=0), "num_steps is at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    game, state, real, draws = prepared(augment=DIFFAUG)
    with pytest.raises(ValueError, match="with noise 'augment' of the discriminator"):
        fgan.make_step(game)(state, real, without_changes(draws))


# The names of `fgan train --augment`


@pytest.mark.parametrize("name", [*augment.DIFFAUG_PARTS, *augment.ADA_KINDS])
def test_a_name_is_its_parts(name):
    shape = (3, 8, 8)
    config = configs.resolve(data="cifar10", augment=name, batch_size=50)
    made = assemble.make_game(config, shape).augment
    family, *parts = name.split("_")
    own = {"geom": "geometry", "color": "colour", "bg": "blit geometry"}
    parts = " ".join(own.get(part, part) for part in parts).split()
    if family == "ada":
        expected = augment.make_ada(num_steps=10_000, **({"kinds": parts} if parts else {}))
        assert float(made.update(made.init(), torch.tensor(1.0)).seen) == 1
    else:
        expected = augment.make_diffaug(*[parts] if parts else [])
    assert made.num_numbers == expected.num_numbers
    images, numbers = signed((4, *shape)), uniform(made.num_numbers)
    assert_same(made.apply(images, numbers, 0.9), expected.apply(images, numbers, 0.9))


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("diffaug-color-translation-cutout", "diffaug"),
        ("diffaug-color-cutout", "diffaug_color_cutout"),
        ("ada-bgc", "ada"),
    ],
)
def test_names_of_the_authors(asked, kept):
    assert configs.resolve(augment=asked).augment == kept


def test_pipelines_with_parts_that_there_are_not():
    with pytest.raises(ConfigError, match=r"--augment must be one of none, diffaug, .*ada_bg, not"):
        configs.resolve(augment="ada-bgcf")
