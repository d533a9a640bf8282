"""A classifier trained on the spot for any labelled images, and the metrics that look through it.

It is small and trained in seconds, on nine tenths of the examples; its accuracy on the others is
said with every result, because no metric sees more than its classifier does. The same examples and
seed on the same machine give the same classifier. Values compare with those of the same data only.

References:
    Heusel et al. 2017, arXiv:1706.08500 (Fréchet distance of a classifier's features); Shmelkov et
    al. 2018, arXiv:1807.09499, section 3 (GAN-test: the accuracy of a classifier of real images on
    conditional samples).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fgan import rng
from fgan.metrics.common import as_rows, shares_of
from fgan.metrics.intervals import Intervals, around, error_of_mean, jackknife_counts, of_share
from fgan.metrics.moments import frechet_distance
from fgan.metrics.network import Network, shown

_SIDE = 32  # images of other sizes are resized
_EPOCHS, _BATCH, _RATE, _SEEN = 5, 100, 2e-3, 1000


@dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Attributes:
        network: images [N, C, 32, 32] in [0, 1] -> logits [N, K] and features [N, 64].
        channels: those of the images that it sees.
        accuracy: the share of examples that it was not trained on whose class it finds.
        shares: float64 [K], the share of each class among the examples.
    """

    network: nn.Module
    channels: int
    accuracy: float
    shares: Tensor

    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, K] and features [N, 64] of images [N, C, H, W].

        Raises:
            ValueError: for images of other channels or with numbers that are not finite.
        """
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise ValueError(
                f"the classifier sees images [N, {self.channels}, H, W], not {list(images.shape)}"
            )
        as_rows(images, "the images")
        with torch.no_grad():
            seen = [self.network(shown(block, _SIDE)) for block in torch.split(images, _SEEN)]
        logits, features = (torch.cat(parts) for parts in zip(*seen, strict=True))
        return logits, features


def train_classifier(examples: Tensor, labels: Tensor, *, seed: int = 0) -> Classifier:
    """Train a classifier on nine tenths of labelled images.

    Args:
        examples: [N, C, H, W], uint8 or floats in [0, 1]; labels: int64 [N], from 0.
        seed: that of the first weights, of the split and of the order.
    Raises:
        ValueError: for fewer than two classes or ten images, or for other shapes.
    """
    if examples.ndim != 4 or labels.shape != examples.shape[:1] or len(examples) < 10:
        raise ValueError(f"ten labelled images or more are classified, not {list(examples.shape)}")
    counts = torch.bincount(labels)
    if len(counts) < 2:
        raise ValueError("two classes or more can be told apart")
    device, key = examples.device, rng.key(seed, examples.device)
    network = _made(examples.shape[1], len(counts), key)
    order = rng.permutation(rng.fold_in(key, 1), len(examples))
    held, used = order.tensor_split([max(1, len(order) // 10)])
    optimizer = torch.optim.AdamW(network.parameters(), _RATE)
    steps = _EPOCHS * max(1, len(used) // _BATCH)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2 * _RATE, total_steps=steps)
    with torch.enable_grad():
        for batch in itertools.islice(_batches(used, key), steps):
            logits, _ = network(shown(examples[batch], _SIDE))
            loss = functional.cross_entropy(logits, labels[batch].to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            falling.step()
    network.eval().requires_grad_(False)
    made = Classifier(network, examples.shape[1], math.nan, shares_of(counts))
    right = made.see(examples[held])[0].argmax(1) == labels[held].to(device)
    return replace(made, accuracy=float(right.double().mean()))


def _made(channels: int, num_classes: int, key: Tensor) -> Network:
    """A network whose first weights come from the key, and not from torch's generator."""
    with torch.device("meta"):
        network = Network(channels, num_classes)
    network.to_empty(device=key.device)
    for i, (name, value) in enumerate(network.state_dict().items()):
        if value.ndim > 1:  # He et al. 2015, arXiv:1502.01852
            numbers = rng.normal(rng.fold_in(key, 2 + i), tuple(value.shape))
            value.copy_(numbers * math.sqrt(2 / value[0].numel()))
        else:
            value.fill_(1 if name.endswith("running_var") or _scales(network, name) else 0)
    return network


def _scales(network: nn.Module, name: str) -> bool:
    """Whether a name is that of the scale of a normalisation."""
    owner, _, last = name.rpartition(".")
    return last == "weight" and isinstance(network.get_submodule(owner), nn.BatchNorm2d)


def _batches(used: Tensor, key: Tensor) -> Iterator[Tensor]:
    for epoch in itertools.count(1000):
        order = used[rng.permutation(rng.fold_in(key, epoch), len(used))]
        whole = [batch for batch in torch.split(order, _BATCH) if len(batch) > 1]
        yield from (batch for batch in whole if len(batch) == len(whole[0]))


class ClassifierDistance(NamedTuple):
    """The Fréchet distance of a trained classifier's features.

    Attributes:
        distance, of_means: as in `fgan.metrics.FrechetDistance`.
        accuracy: the classifier's, on examples that it was not trained on.
        intervals: those of the distances, for this classifier.
    """

    distance: float
    of_means: float
    accuracy: float
    intervals: Intervals


def frechet_classifier(
    samples: Tensor, examples: Tensor, classifier: Classifier
) -> ClassifierDistance:
    """The Fréchet distance between a classifier's features of samples and of examples.

    Args:
        samples: [M, C, H, W]; examples: [N, C, H, W].
    Raises:
        ValueError: as `Classifier.see` and `fgan.metrics.frechet_distance`.
    """
    pair = (classifier.see(images)[1] for images in (samples, examples))
    distance, of_means, intervals = frechet_distance(*pair)
    return ClassifierDistance(distance, of_means, classifier.accuracy, intervals)


class ClassifierClasses(NamedTuple):
    """The classes that a trained classifier finds in samples.

    Attributes:
        kl: KL(shares || shares among the examples) in nats.
        entropy: that of the shares in nats: log K for equal ones, 0 for one class.
        shares: float64 [K].
        sure: the share of samples to whose class it gives a probability of 0.9 or more.
        accuracy: the classifier's, on examples that it was not trained on.
        intervals: those of all but the shares and the accuracy, over samples.
    """

    kl: float
    entropy: float
    shares: Tensor
    sure: float
    accuracy: float
    intervals: Intervals


def classifier_classes(samples: Tensor, classifier: Classifier) -> ClassifierClasses:
    """Count the classes among samples.

    Args:
        samples: [M, C, H, W].
    Raises:
        ValueError: as `Classifier.see`; or for examples among which a class is missing.
    """
    if not (classifier.shares > 0).all():
        raise ValueError("among the examples a class is missing")
    log_p = classifier.see(samples)[0].double().log_softmax(1)
    counts = torch.bincount(log_p.argmax(1), minlength=log_p.shape[1])

    def entropy(counts: Tensor) -> float:
        shares = shares_of(counts)
        return float(-torch.xlogy(shares, shares).sum())

    def divergence(counts: Tensor) -> float:
        return -entropy(counts) - float(torch.xlogy(shares_of(counts), classifier.shares).sum())

    sure = float((log_p.max(1).values >= math.log(0.9)).double().mean())
    kl, spread = max(0.0, divergence(counts)), entropy(counts)
    return ClassifierClasses(
        kl=kl,
        entropy=spread,
        shares=shares_of(counts),
        sure=sure,
        accuracy=classifier.accuracy,
        intervals={
            "kl": around(kl, jackknife_counts(counts, divergence), low=0),
            "entropy": around(
                spread, jackknife_counts(counts, entropy), low=0, high=math.log(len(counts))
            ),
            "sure": of_share(sure, len(log_p)),
        },
    )


class LabelsFound(NamedTuple):
    """Whether conditional samples are what their labels say.

    Attributes:
        log_likelihood: the mean log-probability in nats that the classifier gives to the label
            that a sample was made for.
        correct: the share of samples whose label it finds; GAN-test in the paper.
        accuracy: the classifier's own, on examples: what ``correct`` would be for real ones.
        intervals: those of the first two, over samples.
    """

    log_likelihood: float
    correct: float
    accuracy: float
    intervals: Intervals


def labels_found(samples: Tensor, sample_labels: Tensor, classifier: Classifier) -> LabelsFound:
    """Judge conditional samples by the classifier.

    Args:
        samples: [M, C, H, W]; sample_labels: int64 [M], the classes that they were made for.
    Raises:
        ValueError: as `Classifier.see`, or for labels that do not fit.
    """
    log_p = classifier.see(samples)[0].double().log_softmax(1)
    if sample_labels.shape != samples.shape[:1] or int(sample_labels.max()) >= log_p.shape[1]:
        raise ValueError("each sample has one label, of a class of the examples")
    own = log_p.gather(1, sample_labels[:, None].to(log_p.device))[:, 0]
    mean = float(own.mean())
    correct = float((log_p.argmax(1) == sample_labels.to(log_p.device)).double().mean())
    return LabelsFound(
        log_likelihood=mean,
        correct=correct,
        accuracy=classifier.accuracy,
        intervals={
            "log_likelihood": around(mean, error_of_mean(own), high=0),
            "correct": of_share(correct, len(own)),
        },
    )
