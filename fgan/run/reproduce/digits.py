"""MNIST: the likelihood of the first adversarial nets, and classes of a conditional DCGAN.

References:
    Goodfellow et al. 2014, arXiv:1406.2661, section 5 and table 1, with the authors'
    ``mnist.yaml``; Radford, Metz and Chintala 2016, arXiv:1511.06434, table 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fgan import data, losses, metrics, nets, optim, pytree, schedules
from fgan.data import Source, resize
from fgan.game import Game
from fgan.metrics.common import nearest_rows
from fgan.model import Dropout, Model, from_module
from fgan.run.reproduce.rows import Reproduced, Row, Trial, over_trials
from fgan.run.reproduce.training import samples, train
from fgan.types import Draws, TrainState

_SHAPE = (1, 28, 28)
_TRAIN = 50_000  # of the 60 000 training images; the others are for validation
_NUM_SAMPLES = 10_000


def goodfellow2014(trial: Trial) -> Reproduced:
    """Table 1 on MNIST: 225 ± 2 nats; DBN 138, stacked CAE 121, deep GSN 214."""
    images = data.load_mnist().examples
    test = data.load_mnist("test").examples
    num_test, num_samples = trial.of(len(test), len(test), 20), trial.of(_NUM_SAMPLES, 10_000, 20)
    batch_size = trial.of(100, 100, 4)
    an_epoch = trial.of(_TRAIN // batch_size, _TRAIN // batch_size, 1)
    epochs = trial.of(full=250, quick=4, tiny=2)
    game = adversarial_nets(images[:_TRAIN], trial.of(1200, 1200, 6), trial.of(240, 240, 6))
    validation = images[_TRAIN:][: trial.of(10_000, 10_000, 20)].to(trial.device)
    best: list[tuple[float, Tensor]] = [(-math.inf, torch.empty(0))] * trial.seeds

    def look(done: int, states: TrainState) -> None:
        """Keep the samples of each member that make the validation images likeliest."""
        found = []
        for i, some in enumerate(samples(game, states, num_samples)):
            densities = metrics.parzen_log_density(validation[:1000], some, metrics.SIGMAS)
            found.append(round(float(densities.mean(1).max()), 2))
            if found[-1] > best[i][0]:
                best[i] = (found[-1], some)
        trial.note("validation, nats", {"epochs": done / an_epoch, "log_likelihood": found})

    train(
        game,
        Source("mnist", images[:_TRAIN]),
        trial,
        num_steps=epochs * an_epoch,
        batch_size=batch_size,
        every=trial.of(full=10, quick=1, tiny=1) * an_epoch,
        look=look,
        low=0.0,
        factor=falling,
        values={"momentum": schedules.linear(0.5, 0.7, num_steps=250 * an_epoch)},
        drawn=same_masks,
    )
    scores = [
        metrics.parzen_score(some, validation, test[:num_test].to(trial.device)) for _, some in best
    ]
    row = over_trials(
        "test images, nats",
        225.0,
        [score.log_likelihood for score in scores],
        published_error=2.0,
        unit=1.0,
    )
    deviations = [
        "the paper's ± 2 is over test images of one model; ours is over seeds",
        "the paper's rule of stopping is not published: the samples are those of the best "
        "validation likelihood among those measured",
        "the momentum rises with each batch, the authors' with each epoch",
    ]
    if trial.size != "full":
        deviations.append(f"{epochs} epochs of 250")
    return Reproduced([row], deviations)


def falling(step: Tensor) -> Tensor:
    """The learning rate of 0.1 is divided by 1.000004 a batch, but stays above 1e-6."""
    return torch.exp(-math.log(1.000004) * step.to(torch.float32)).clamp(min=1e-6 / 0.1)


def adversarial_nets(images: Tensor, gen_width: int = 1200, disc_width: int = 240) -> Game:
    """The game of the paper's MNIST experiment.

    Args:
        images: uint8 [N, 1, 28, 28], whose pixel means are the generator's first output.
    """
    opt = optim.sgd(0.1, momentum=0.5)
    return Game(
        gen=_generator(images, gen_width),
        disc=_discriminator(disc_width),
        gen_opt=opt,
        disc_opt=opt,
        loss=losses.scaled(losses.non_saturating, disc=0.5),
        order="simultaneous",
        share_fakes=True,
    )


class Uniform(nn.Module):
    """Normal latents become uniform ones on (-√3, √3), of variance 1."""

    def forward(self, z: Tensor) -> Tensor:
        """√3 (2 Phi(z) - 1)."""
        return math.sqrt(3) * torch.erf(z / math.sqrt(2))


def _generator(images: Tensor, width: int) -> Model:
    """U(-√3, √3)^100 -> 1200 ReLU -> 1200 ReLU -> 784 sigmoid."""
    means = (images.flatten(1).to(torch.float64).mean(0) / 255).clamp(1e-7, 1 - 1e-7)

    def build() -> nn.Module:
        last = nn.Linear(width, 784)
        network = nn.Sequential(
            Uniform(),
            nn.Linear(100, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            last,
            nn.Sigmoid(),
            nn.Unflatten(1, _SHAPE),
        )
        _uniform_weights(network, 0.05)
        with torch.no_grad():
            last.bias.copy_(means.logit())
        return network

    return from_module(build, (100,))


def _discriminator(width: int) -> Model:
    """784 -> maxout 240 x 5 -> maxout 240 x 5 -> 1, with dropout on the input of each layer."""

    def build() -> nn.Module:
        network = nn.Sequential(
            nn.Flatten(1),
            Dropout(0.2),
            nets.Maxout(784, width, num_pieces=5),
            Dropout(0.5),
            nets.Maxout(width, width, num_pieces=5),
            Dropout(0.5),
            nn.Linear(width, 1),
            nn.Flatten(0),
        )
        _uniform_weights(network, 0.005)
        return network

    return from_module(build, _SHAPE)


def _uniform_weights(network: nn.Module, bound: float) -> None:
    """Weights U(-bound, bound), biases 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)


def same_masks(draws: Draws) -> Draws:
    """Draws with which the generator meets the discriminator under the masks of its own pass."""
    disc = draws.disc[0]

    def of_fakes(u: Tensor) -> Tensor:  # [..., 2B, features], reals first
        size = u.shape[-2] // 2
        return u.narrow(-2, size, size)

    noise = pytree.map(of_fakes, disc.disc_noise)
    return Draws(draws.disc, draws.gen._replace(disc_noise=noise))


def cond_dcgan_1nn(trial: Trial) -> Reproduced:
    """Table 3: test error of 1-NN on generated labelled digits, and on real ones."""
    real, test = data.load_mnist(), data.load_mnist("test")
    num_test = trial.of(10_000, 10_000, 20)
    num_samples = trial.of(50_000, 50_000, 50)
    num_real = trial.of(60_000, 60_000, 100)
    side = trial.of(32, 32, 16)
    adam = optim.adam(2e-4, betas=(0.5, 0.999))
    features = trial.of(64, 16, 2)
    game = Game(
        gen=nets.dcgan_generator(100, (1, side, side), features=features, num_classes=10),
        disc=nets.dcgan_discriminator(
            (1, side, side), features=features, num_classes=10, head="concat"
        ),
        gen_opt=adam,
        disc_opt=adam,
        loss=losses.non_saturating,
    )
    images = resize.resize_images(real.examples[: trial.of(60_000, 60_000, 100)], side)
    batch_size = trial.of(128, 128, 4)
    epochs = trial.of(full=25, quick=2, tiny=1)
    an_epoch = trial.of(len(images) // batch_size, len(images) // batch_size, 1)
    source = Source("mnist", images, (), _labels(real)[: len(images)], real.classes)
    states = train(
        game,
        source,
        trial,
        num_steps=epochs * an_epoch,
        batch_size=batch_size,
        every=an_epoch,
        look=lambda done, states: trial.note("trained", {"epochs": done / an_epoch}),
    )
    wanted = torch.arange(num_samples, device=trial.device) % 10
    seen, classes = test.examples[:num_test].to(trial.device), _labels(test)[:num_test]
    classes = classes.to(trial.device)
    errors = []
    for some in samples(game, states, num_samples, wanted):
        found = nn.functional.interpolate(some, (28, 28), mode="bilinear", antialias=True)
        errors.append(100 * nearest_error((found + 1) / 2, wanted, seen, classes))
    known = real.examples[:num_real].to(trial.device)
    of_real = 100 * nearest_error(known, _labels(real)[:num_real].to(trial.device), seen, classes)
    rows = [
        Row("real digits, % wrong", 3.1, of_real, 0.05, "half a published digit"),
        over_trials("generated digits, % wrong", 2.98, errors, unit=0.01),
    ]
    deviations = [
        f"images of {side}×{side} (28×28 resized), and of 28×28 for the neighbours",
        "the paper does not say how long it trained, nor in what batches: "
        f"{epochs} epochs of batches of {batch_size}",
        "real digits: all 60 000 training images",
    ]
    if trial.size != "full":
        deviations.append(f"{features} channels in the last hidden layer, not 64")
    return Reproduced(rows, deviations)


def nearest_error(known: Tensor, labels: Tensor, images: Tensor, classes: Tensor) -> float:
    """The share of images that get a wrong class from the nearest known one (Euclidean 1-NN).

    Args:
        known: [N, ...] with labels [N]; images: [M, ...] with classes [M].
    """
    nearest = nearest_rows(images.flatten(1), known.flatten(1))
    return float((labels[nearest] != classes).double().mean())


def _labels(source: Source) -> Tensor:
    assert isinstance(source.labels, Tensor)
    return source.labels
