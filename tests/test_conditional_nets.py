"""The networks that take labels: their formulas, and a whole game against an imperative loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from oracle import moments, values
from support import assert_near, assert_same, signed
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

import fgan
from fgan import Batch, conditions, losses, model, nets, optim, pytree, rng, terms
from fgan.model import Labels
from fgan.nets.labels import CONDITIONINGS, HEADS

B, K, Z = 6, 3, 4
LABELS = torch.arange(B) % K
IMAGE = (2, 16, 16)  # of DCGAN
POINT = (1, 1, 2)  # of perceptrons


def mlp(condition: str = "concat", head: str = "projection") -> tuple[fgan.Model, fgan.Model]:
    gen = nets.mlp_generator(
        Z, POINT, hidden=(5,), batch_norm=True, num_classes=K, condition=condition
    )
    return gen, nets.mlp_discriminator(POINT, hidden=(5,), num_classes=K, head=head)


def dcgan(condition: str = "concat", head: str = "projection") -> tuple[fgan.Model, fgan.Model]:
    gen = nets.dcgan_generator(Z, IMAGE, features=2, num_classes=K, condition=condition)
    return gen, nets.dcgan_discriminator(IMAGE, features=2, num_classes=K, head=head)


ARCHS = {"mlp": (mlp, POINT), "dcgan": (dcgan, IMAGE)}


def made(model: fgan.Model, dtype: torch.dtype = torch.float64) -> tuple[dict, dict]:
    """Values of which none is at its special first place, such as a gamma of 1."""
    params, buffers = pytree.to(model.init(rng.key(0)), dtype=dtype)
    return {
        n: p + signed(p.shape, i, dtype) / 10 for i, (n, p) in enumerate(params.items())
    }, buffers


@pytest.mark.parametrize("condition", CONDITIONINGS)
@pytest.mark.parametrize("arch", ARCHS)
def test_a_generator_and_how_labels_enter_it(arch, condition):
    make, shape = ARCHS[arch]
    gen, _ = make(condition=condition)
    assert gen.shape == (((Z,), Labels(K)), shape)
    params, buffers = made(gen)
    z = signed((B, Z))
    out, moved = gen.apply(params, buffers, (z, LABELS))
    assert out.shape == (B, *shape)
    assert (out.amax(0) - out.amin(0)).min() > 0
    assert gen.batch_stats
    assert any(not torch.equal(moved[n], buffers[n]) for n in buffers)
    # The same network without labels, with what the formula gives it in their place.
    width = Z + {"concat": K, "embedding": Z, "batch_norm": 0}[condition]
    if arch == "mlp":
        plain = nets.mlp_generator(width, shape, hidden=(5,), batch_norm=True)
    else:
        plain = nets.dcgan_generator(width, shape, features=2)
    own = {n.removeprefix("layers."): p for n, p in (params | buffers).items()}
    if condition == "batch_norm":
        # One class at a time, with the statistics of all.
        for y in range(K):
            values = by_class(own, y)
            one, _ = plain.apply(*split(plain, values), z)
            same, _ = gen.apply(params, buffers, (z, torch.full((B,), y)))
            assert_near(same, one, atol=1e-12)
        return
    rows = own["rows.weight"] if condition == "embedding" else torch.eye(K, dtype=z.dtype)
    expected, _ = plain.apply(*split(plain, own), torch.cat([z, rows[LABELS]], 1))
    assert_near(out, expected, atol=1e-12)


def by_class(own: dict[str, Tensor], y: int) -> dict[str, Tensor]:
    """The values of plain batch norms in the place of conditional ones, for one class."""
    names = {".norm.": ".", ".gamma.weight": ".weight", ".beta.weight": ".bias"}
    found = {}
    for name, value in own.items():
        rows = ".gamma." in name or ".beta." in name
        for part, other in names.items():
            name = name.replace(part, other)
        found[name] = value[y] if rows else value
    return found


def split(plain: fgan.Model, own: dict[str, Tensor]) -> tuple[dict, dict]:
    params, buffers = plain.init(rng.key(0))
    assert {n: own[n].shape for n in params} == {n: p.shape for n, p in params.items()}
    return {n: own[n] for n in params}, {n: own[n] for n in buffers}


@pytest.mark.parametrize("stats", ["train", "eval"])
@pytest.mark.parametrize("spatial", [(), (4, 5)])
def test_conditional_batch_norm(spatial, stats):
    """gamma[y] * (x - mean) / std + beta[y], with statistics over all classes."""
    norm = nn.BatchNorm2d(7) if spatial else nn.BatchNorm1d(7)
    with torch.no_grad():
        norm.weight.copy_(signed(7, 1))
        norm.bias.copy_(signed(7, 2))
    ours = nets.ConditionalBatchNorm(norm.double(), K).double()
    assert torch.equal(ours.gamma.weight, norm.weight.expand(K, 7))
    assert torch.equal(ours.beta.weight, norm.bias.expand(K, 7))
    with torch.no_grad():
        ours.gamma.weight.copy_(signed((K, 7), 3))
        ours.beta.weight.copy_(signed((K, 7), 4))
    ours.train(stats == "train")
    x = signed((B, 7, *spatial), 5) + 2
    dims = [0, 2, 3] if spatial else [0]
    mean, var = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
    if stats == "eval":
        mean, var = torch.zeros_like(mean), torch.ones_like(var)
    expand = (B, 7, *[1] * len(spatial))
    expected = (x - mean) / (var + 1e-5).sqrt() * ours.gamma.weight[LABELS].reshape(expand)
    expected = expected + ours.beta.weight[LABELS].reshape(expand)
    assert_near(ours(x, LABELS), expected, atol=1e-12)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("arch", ARCHS)
def test_a_discriminator_and_its_head(arch, head):
    make, shape = ARCHS[arch]
    _, disc = make(head=head)
    params, buffers = made(disc)
    x = signed((B, *shape))
    plain = {
        "mlp": lambda s: nets.mlp_discriminator(s, hidden=(5,)),
        "dcgan": lambda s: nets.dcgan_discriminator(s, features=2),
    }[arch]
    count = len(plain(shape).init(rng.key(0))[0])  # the last of its parameters belong to the logit
    if head == "concat":
        assert disc.shape.input == (shape, Labels(K))
        one_hot = torch.eye(K, dtype=x.dtype)[LABELS]
        if arch == "mlp":
            joined = torch.cat([x.flatten(1), one_hot], 1)
        else:
            maps = one_hot[:, :, None, None].expand(B, K, 16, 16)
            joined = torch.cat([x, maps], 1)
        own = {n.removeprefix("layers."): p for n, p in (params | buffers).items()}
        wide = plain(joined.shape[1:])
        expected, _ = wide.apply(*split(wide, own), joined)
        out, _ = disc.apply(params, buffers, (x, LABELS))
        assert len(params) == count
        assert_near(out, expected, atol=1e-12)
        return
    features = features_of(arch, x, params)
    if head == "acgan":
        assert disc.shape == (shape, nets.Heads((), (K,)))
        out, _ = disc.apply(params, buffers, x)
        assert isinstance(out, nets.Heads)
        expected = linear(arch, features, params, "logit.0")[:, 0]
        assert_near(out.logits, expected, atol=1e-12)
        assert_near(out.classes, linear(arch, features, params, "classes.0"), atol=1e-12)
        return
    assert disc.shape == ((shape, Labels(K)), ())
    summed = features.sum((2, 3)) if features.ndim > 2 else features
    expected = linear(arch, features, params, "logit.0")[:, 0]
    expected = expected + torch.stack(
        [params["rows.weight"][y] @ phi for y, phi in zip(LABELS, summed, strict=True)]
    )
    assert_near(disc.apply(params, buffers, (x, LABELS))[0], expected, atol=1e-12)


def features_of(arch: str, x: Tensor, params: dict[str, Tensor]) -> Tensor:
    p = {n.removeprefix("features."): v for n, v in params.items()}
    if arch == "mlp":
        return functional.leaky_relu(
            functional.linear(x.flatten(1), p["1.weight"], p["1.bias"]), 0.2
        )
    x = functional.leaky_relu(functional.conv2d(x, p["0.weight"], stride=2, padding=1), 0.2)
    x = functional.conv2d(x, p["2.weight"], stride=2, padding=1)
    x = functional.batch_norm(x, None, None, p["3.weight"], p["3.bias"], training=True)
    return functional.leaky_relu(x, 0.2)


def linear(arch: str, features: Tensor, params: dict[str, Tensor], name: str) -> Tensor:
    if arch == "mlp":
        return features @ params[f"{name}.weight"].T + params[f"{name}.bias"]
    return torch.einsum("bchw,kchw->bk", features, params[f"{name}.weight"])


def test_first_values():
    gen, disc = nets.dcgan_generator(8, (1, 16, 16), num_classes=50, condition="batch_norm"), None
    params, _ = gen.init(rng.key(0))
    gamma = [p for n, p in params.items() if "gamma" in n]
    assert [p.shape for p in gamma] == [(50, 128), (50, 64)]
    for p in gamma:  # 3200 numbers or more: their deviation is within 5 %
        assert p.mean().sub(1).abs() < 1e-3
        assert p.std().item() == pytest.approx(0.02, rel=0.05)
    assert all((p == 0).all() for n, p in params.items() if "beta" in n)
    disc = nets.mlp_discriminator((2,), hidden=(64,), num_classes=50)
    rows = disc.init(rng.key(0))[0]["rows.weight"]
    assert rows.abs().max() < (6 / (50 + 64)) ** 0.5  # Glorot and Bengio 2010


def test_rows_keep_their_precision_under_autocast():
    gen = model.autocast(mlp("batch_norm")[0], torch.bfloat16)
    rows = nets.Rows(K, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rows(LABELS), rows.weight[LABELS])
    out, _ = gen.apply(*made(gen, torch.float32), (signed((B, Z), 0, torch.float32), LABELS))
    assert out.dtype == torch.float32


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("label", [-1, K])
def test_a_label_out_of_range_changes_nothing(label, head):
    """A step cannot look at values; it is not finite, where an index would read elsewhere."""
    game = replace(game_of("mlp", "concat", head), condition=conditions.of_reals)
    state = fgan.init_state(game, rng.key(0))
    labels = torch.cat([LABELS[1:], torch.tensor([label])])
    batch = Batch(signed((B, *POINT), 0, torch.float32), labels)
    new, metrics = fgan.make_step(game)(state, batch, fgan.make_draws(game, state.key, 0, B))
    assert not metrics.finite
    assert_same(new, state)


def test_wrappers_of_models_take_labels():
    disc = dcgan()[1]
    wrapped = model.channels_last(model.autocast(model.spectral_norm(disc), torch.bfloat16))
    game = replace(game_of("dcgan", "batch_norm", "projection"), disc=wrapped)
    state = fgan.init_state(game, rng.key(0))
    assert "rows.weight.u" in state.disc.buffers
    batch = Batch(signed((B, *IMAGE), 0, torch.float32), LABELS)
    new, metrics = fgan.make_step(game)(state, batch, fgan.make_draws(game, state.key, 0, B))
    assert metrics.finite
    assert not torch.equal(new.disc.params["rows.weight"], state.disc.params["rows.weight"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nets.mlp_generator(condition="label"), "condition is one of concat, embedding, b"),
        (lambda: nets.mlp_discriminator(head="label"), "head is one of projection, concat, acgan"),
        (lambda: nets.mlp_generator(condition="embedding"), "needs labels: give num_classes"),
        (lambda: nets.dcgan_generator(condition="batch_norm"), "needs labels: give num_classes"),
        (lambda: nets.mlp_discriminator(head="acgan"), "needs labels: give num_classes"),
        (lambda: nets.dcgan_discriminator(head="concat"), "needs labels: give num_classes"),
        (lambda: nets.mlp_generator(num_classes=-1), "at least 0, not -1"),
        (lambda: nets.dcgan_discriminator(num_classes=-1), "at least 0, not -1"),
        (
            lambda: nets.mlp_generator(num_classes=3, condition="batch_norm"),
            "needs a batch norm: give batch_norm=True",
        ),
    ],
)
def test_what_networks_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def game_of(arch: str, condition: str, head: str, **options: Any) -> fgan.Game:
    gen, disc = ARCHS[arch][0](condition, head)
    rules = {"gen_opt": optim.adam(0.01, eps=1e-4), "disc_opt": optim.adam(0.02, eps=1e-4)}
    return fgan.Game(gen=gen, disc=disc, **rules, condition=conditions.uniform(K), **options)


@pytest.mark.parametrize(
    ("arch", "condition", "head"),
    [
        ("mlp", "embedding", "concat"),
        ("mlp", "concat", "acgan"),
        ("mlp", "batch_norm", "projection"),
        ("dcgan", "batch_norm", "projection"),
    ],
)
def test_members_of_a_population_are_what_they_are_alone(arch, condition, head):
    game = game_of(arch, condition, head, terms=(terms.make_r1(0.1),))
    keys = rng.split(rng.key(9))
    states = [fgan.init_state(game, key, dtype=torch.float64) for key in keys]
    batch = Batch(signed((B, *ARCHS[arch][1])), LABELS)
    draws = [fgan.make_draws(game, key, 0, B, dtype=torch.float64) for key in keys]
    step = fgan.make_step(game)
    alone = [step(state, batch, own) for state, own in zip(states, draws, strict=True)]
    many = vmap(step, in_dims=(0, None, 0))
    assert alone[0][1].finite
    assert_near(many(pytree.stack(states), batch, pytree.stack(draws)), pytree.stack(alone), 1e-10)


class Norm(nn.Module):
    """Conditional batch norm as projects write it, with tables of ``nn.Embedding``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.gamma, self.beta = nn.Embedding(K, width), nn.Embedding(K, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.gamma(y) * self.norm(x) + self.beta(y)


class TheirGen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(Z, 5), Norm(5), nn.Linear(5, 2)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        hidden = functional.leaky_relu(self.norm(self.first(z), y), 0.2)
        return self.last(hidden).tanh().unflatten(1, POINT)


class TheirDisc(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.logit, self.classes = nn.Linear(2, 5), nn.Linear(5, 1), nn.Embedding(K, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        phi = functional.leaky_relu(self.first(x.flatten(1)), 0.2)
        return self.logit(phi)[:, 0] + (self.classes(y) * phi).sum(1)


class TheirClassifier(TheirDisc):
    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Linear(5, K)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        phi = functional.leaky_relu(self.first(x.flatten(1)), 0.2)
        return self.logit(phi)[:, 0], self.classes(phi)


def judged(disc: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | float]:
    """The imperative discriminator's logits, and its mean cross-entropy if it classifies."""
    if not isinstance(disc, TheirClassifier):
        return disc(x, y), 0.0
    logits, classes = disc(x)
    return logits, functional.cross_entropy(classes, y)


GEN_NAMES = {
    "layers.0.": "first.", "layers.1.": "norm.", "layers.3.": "last.",
}  # fmt: skip
DISC_NAMES = {
    "features.1.": "first.",
    "logit.0.": "logit.",
    "rows.": "classes.",
    "classes.0.": "classes.",
}


def renamed(tree: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    found = {}
    for name, value in tree.items():
        start = next(start for start in names if name.startswith(start))
        found[names[start] + name.removeprefix(start)] = value
    return found


@pytest.mark.parametrize("head", ["projection", "acgan"])
@pytest.mark.parametrize("order", ["alternating", "simultaneous"])
def test_a_conditional_game_equals_the_imperative_loop(order, head):
    """Twenty steps in float64 with R1; both round at 1e-16. Adam's eps is as in test_parity."""
    k, gamma = 2 if order == "alternating" else 1, 0.5
    game = game_of(
        "mlp",
        "batch_norm",
        head,
        loss=losses.hinge,
        num_disc_steps=k,
        order=order,
        disc_batches="apart" if order == "simultaneous" else "together",
        terms=(terms.make_r1(gamma), *([terms.make_acgan(weight=0.7)] if head == "acgan" else [])),
    )
    state = fgan.init_state(game, rng.key(5), dtype=torch.float64)
    step, first = fgan.make_step(game), state
    gen, disc = (
        TheirGen().double(),
        (TheirClassifier() if head == "acgan" else TheirDisc()).double(),
    )
    gen.load_state_dict(renamed(state.gen.params | state.gen.buffers, GEN_NAMES))
    disc.load_state_dict(renamed(state.disc.params, DISC_NAMES))
    gen_opt = torch.optim.Adam(gen.parameters(), lr=0.01, eps=1e-4)
    disc_opt = torch.optim.Adam(disc.parameters(), lr=0.02, eps=1e-4)
    for t in range(20):
        x, y = signed((k, B, *POINT), t), (torch.arange(k * B) * (t + 1) % 5 % K).reshape(k, B)
        draws = fgan.make_draws(game, state.key, t, B, dtype=torch.float64)
        state, metrics = step(state, Batch(x, y) if k > 1 else Batch(x[0], y[0]), draws)
        for real, labels, own in zip(x, y, draws.disc, strict=True):
            real.requires_grad_()
            fake = gen(own.z, own.condition).detach()
            real_logits, of_real = judged(disc, real, labels)
            fake_logits, of_fake = judged(disc, fake, own.condition)
            (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
            loss = (1 - real_logits).relu().mean() + (1 + fake_logits).relu().mean()
            loss = loss + gamma / 2 * slope.square().flatten(1).sum(1).mean()
            loss = loss + 0.7 * (of_real + of_fake)
            disc_opt.zero_grad()
            loss.backward()
            if order == "alternating":
                disc_opt.step()
        grads = [p.grad.clone() for p in disc.parameters()]
        fake = gen(draws.gen.z, draws.gen.condition)
        fake_logits, of_fake = judged(disc, fake, draws.gen.condition)
        gen_loss = 0.7 * of_fake - fake_logits.mean()
        gen_opt.zero_grad()
        gen_loss.backward()
        gen_opt.step()
        if order == "simultaneous":
            for p, grad in zip(disc.parameters(), grads, strict=True):
                p.grad = grad
            disc_opt.step()
        expected = {"disc_loss": loss, "gen_loss": gen_loss}
        assert_near({n: getattr(metrics, n) for n in expected}, expected, atol=1e-10)
        for net, player, rule, names in (
            (gen, state.gen, gen_opt, GEN_NAMES),
            (disc, state.disc, disc_opt, DISC_NAMES),
        ):
            params, buffers = values(net)
            assert_near(renamed(player.params, names), params, atol=1e-10)
            assert_near(renamed(player.buffers, names), buffers, atol=1e-10)
            nu = renamed(player.opt_state[0].nu, names)
            assert_near(nu, moments(net, rule, "exp_avg_sq"), atol=1e-10)
    for player, origin in ((state.gen, first.gen), (state.disc, first.disc)):
        shifts = pytree.map(torch.sub, player.params, origin.params)
        assert min(x.abs().max() for n, x in shifts.items() if "weight" in n) > 1e-2
