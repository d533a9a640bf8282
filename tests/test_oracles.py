"""Metrics against public packages on the same features, in float64.

prdc is the package of Naeem et al.; torch-fidelity that of Obukhov et al. Both take the distances
and the roots in another order, so that they agree to rounding: 1e-10 of values near 1.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from fgan import metrics, rng
from fgan.metrics import inception


def features(num=300, dims=12):
    fake = rng.normal(rng.key(1), (num, dims), torch.float64)
    mixing = rng.normal(rng.key(3), (dims, dims), torch.float64) / math.sqrt(dims)
    return fake, rng.normal(rng.key(2), (num, dims), torch.float64) @ mixing + 0.2


@pytest.mark.parametrize("k", [1, 5])
def test_prdc(k):
    prdc = pytest.importorskip("prdc")
    fake, real = features()
    expected = prdc.compute_prdc(real.numpy(), fake.numpy(), nearest_k=k)
    found = metrics.neighbourhoods(fake, real, k=k)
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, abs=1e-12)
    assert 0 < found.precision != found.recall < 1


def test_frechet_distance():
    fidelity = pytest.importorskip("torch_fidelity.metric_fid")
    fake, real = features()
    statistics = [fidelity.fid_features_to_statistics(each) for each in (fake, real)]
    expected = fidelity.fid_statistics_to_metric(*statistics, verbose=False)
    (expected,) = expected.values()
    assert metrics.frechet_distance(fake, real).distance == pytest.approx(expected, rel=1e-8)


def test_kernel_distance():
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    fake, real = (each.numpy() for each in features())

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    pairs = kernel(fake, fake), kernel(fake, real), kernel(real, real)
    expected = fidelity.mmd2(*pairs)  # unbiased
    found = metrics.kernel_distance(*map(torch.from_numpy, (fake, real)))
    assert found.distance == pytest.approx(expected, rel=1e-10)


def test_the_two_sample_test():
    neighbours = pytest.importorskip("sklearn.neighbors")
    fake, real = features()
    points, kinds = torch.cat([fake, real]).numpy(), np.arange(600) >= 300
    found = neighbours.NearestNeighbors(n_neighbors=2).fit(points).kneighbors(points)[1][:, 1]
    right = kinds[found] == kinds
    expected = right.mean(), right[:300].mean(), right[300:].mean()
    assert metrics.nearest_neighbour_test(fake, real)[:3] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["mean", "shape"])
def test_sliced_wasserstein_along_each_axis(name):
    """In one dimension it is scipy's distance of order 1 only where all gaps are equal."""
    stats = pytest.importorskip("scipy.stats")
    fake = features()[0][:, :1]
    real = fake + 0.7 if name == "mean" else fake.flip(0)
    expected = stats.wasserstein_distance(fake[:, 0].numpy(), real[:, 0].numpy())
    found = metrics.sliced_wasserstein(fake, real, num_directions=4).distance
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
def test_prdc_of_normal_points_is_that_of_the_authors_readme():
    """Naeem et al.: 10 000 points of 1 000 dimensions each, k = 5; they say it may fluctuate.

    Tolerances are the widths of our intervals. That of the density is wide, because in so many
    dimensions few examples are in the neighbourhood of very many samples.
    """
    fake, real = (rng.normal(rng.key(i), (10_000, 1000), torch.float64) for i in (1, 2))
    found = metrics.neighbourhoods(fake, real)
    published = {"precision": 0.4772, "recall": 0.4705, "density": 1.0555, "coverage": 0.9735}
    for name, value in published.items():
        low, high = found.intervals[name]
        assert abs(getattr(found, name) - value) < high - low, name


@pytest.mark.slow
def test_centroids_beat_true_samples_by_parzen_windows():
    """Theis et al. 2016, table 1: k-means centroids score higher than samples of the data."""
    from sklearn.cluster import MiniBatchKMeans

    from fgan.data import load_mnist

    train, test = load_mnist().examples, load_mnist("test").examples
    points = train[:20_000].flatten(1).numpy() / 255
    centroids = MiniBatchKMeans(1000, batch_size=4000, n_init=1, random_state=0).fit(points)
    centres = torch.from_numpy(centroids.cluster_centers_).view(-1, 1, 28, 28)
    scores = [
        metrics.parzen_score(samples, train[-10_000:], test[:2000]).log_likelihood
        for samples in (centres, train[:1000] / 255)
    ]
    assert scores[0] > scores[1] + 20


def test_fid_is_refused_without_its_weights(tmp_path):
    pytest.importorskip("torch_fidelity")
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    inception._network.cache_clear()
    with pytest.raises(Exception, match="there is no file") as caught:
        metrics.fid(images, images, tmp_path / "none.pth")
    assert "FGAN_INCEPTION" in caught.value.fix
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(Exception, match="does not hold the weights"):
        metrics.fid(images, images, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="uint8 images"):
        metrics.fid(images.float(), images, tmp_path / "none.pth")


@pytest.mark.slow
def test_fid_is_that_of_torch_fidelity_on_the_same_network(tmp_path, monkeypatch):
    """With random weights, because nobody may ship the true ones; only their checksum is other."""
    kind = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    fidelity = pytest.importorskip("torch_fidelity.metric_fid")
    monkeypatch.setattr(kind.FeatureExtractorInceptionV3, "load_state_dict", lambda *a: None)
    monkeypatch.setattr(kind, "load_state_dict_from_url", lambda *a, **o: {})
    network = kind.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    monkeypatch.undo()
    weights = tmp_path / "weights.pth"
    torch.save(network.state_dict(), weights)  # noqa: TID251
    digits = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(inception, "WEIGHTS", f"weights-{digits}.pth")
    images = torch.randint(0, 256, (24, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator())
    inception._network.cache_clear()
    found = metrics.fid(images[:12], images[12:], weights)
    inception._network.cache_clear()
    seen = [network(part.expand(-1, 3, -1, -1).contiguous())[0] for part in images.split(12)]
    statistics = [fidelity.fid_features_to_statistics(each) for each in seen]
    (expected,) = fidelity.fid_statistics_to_metric(*statistics, verbose=False).values()
    # Twelve images of 2 048 features: the roots of a matrix of rank 11 agree to 1e-4 or so.
    assert found.distance == pytest.approx(expected, rel=1e-3, abs=1e-3)
