"""The latent whose sample is nearest to an image, found by gradient descent.

The distance is that of pixels alone: d(z) = sqrt(mean((G(z) - x)^2)), over all pixels and channels
of images from 0 (black) to 1 (white). Several searches, which begin with latents drawn at random,
go on together as a population: each step is one of Adam under ``torch.func.vmap``. A choice of the
latent (``--z-choice``) has no gradient, so that each search keeps its own; they take turns.

References:
    Zhu et al. 2016, arXiv:1609.03552, section 3.1 and equation 4 (projection by optimisation);
    theirs also compares the features of a classifier.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fgan import optim, pytree, rng, schedules
from fgan.data.labels import Labels
from fgan.disk import files
from fgan.errors import ConfigError, DataError
from fgan.run import assemble, images, latents, output, sample
from fgan.run.sample import Maker
from fgan.types import OptState, Params

Notify = Callable[[str], None]
Error = Callable[[Tensor, Labels], Tensor]
"""(z [*latent], label [] or ()) -> the squared distance, []."""

_RATE = 0.1  # the first of Adam; it falls to 0 along a cosine
_STARTS = 8
_TOGETHER = 64  # searches of one population


class Found(NamedTuple):
    """The nearest sample.

    Attributes:
        z: its latent, [*latent].
        image, target: uint8 [C, H, W], the sample and the image looked for.
        distance: d(z), from 0 to 1.
        label: its class; None for a run without a condition.
        choice: which of the last numbers of z is the greatest, and how many there are to choose
            from; None for a run without --z-choice.
        by_class: the distance of the nearest sample of each class that was tried, by its name, the
            smallest first.
    """

    z: Tensor
    image: Tensor
    target: Tensor
    distance: float
    label: int | None
    choice: tuple[int, int] | None
    by_class: dict[str, float]


def project(
    run: Path,
    picture: Path,
    *,
    num_steps: int = 400,
    num_starts: int | None = None,
    seed: int = 0,
    member: int | None = None,
    label: str | None = None,
    device: str = "auto",
    out: Path | None = None,
    notify: Notify | None = None,
    progress: Callable[[str, float, float], None] | None = None,
) -> Found:
    """Find the sample of a run that is nearest to an image.

    Args:
        picture: a file with an image. One with other channels is changed as images of the run's
            data are, and so is one of another size, which ``notify`` is told.
        num_steps: steps of gradient descent, at least 1.
        num_starts: searches, in each class; the best one counts. None takes 8, or as many as there
            are choices, but at most 64.
        seed: that of the latents that they begin with.
        label: for a conditional run the classes that are tried; None tries all.
        run, member, device, notify: as in `fgan.run.sample.sample`.
        out: the path to write: ``X.png`` shows the image, and the sample at its right. ``X.npz`` is
            written too, with ``z``, ``distance``, ``image`` and ``target`` (uint8 [H, W, C]) and,
            for a conditional run, ``label``.
        progress: called with the work at hand, how much of it is done, and how much there is.
    Raises:
        ConfigError, DataError, DiskError, RunError, DeviceError: for errors that the user can mend.
    """
    _check(num_steps, num_starts, seed, out)
    saved, file = sample.open_run(run, member, notify)
    config = sample.facts(saved.about, file)[0]
    place = assemble.find_device(device)
    maker = sample.open_maker(saved, file, place)
    sample.check_alone(maker, file)
    if not maker.is_images:
        raise ConfigError(f"{file} is of a run on points, which no image is near.", "Use another.")
    target = read(picture, maker.gen.shape.output, config.resize, notify)
    known = maker.classes.names
    tried = list(sample.chosen(maker.classes, file, label) or range(len(known)))
    if num_starts is None:
        num_starts = max(_STARTS, min(maker.choice, _TOGETHER))
    key = rng.fold_in(rng.key(seed, place), 0, rng.Stream.PROJECTION)
    z = rng.normal(key, (num_starts, *maker.gen.shape.main), maker.dtype)
    z = latents.spread(z, maker.choice)
    labels: Labels = ()
    if known:  # each class has the same starts
        z = z.repeat(len(tried), *[1] * (z.ndim - 1))
        labels = torch.tensor(tried, device=place).repeat_interleave(num_starts)

    def tell(done: int) -> None:
        if progress is not None:
            progress("searching", done, len(z) * num_steps)

    searched = maker
    if config.dtype == "bfloat16":  # under vmap, batch norm needs its inputs in one dtype
        searched = sample.open_maker(saved, file, place, "float32")
    error = make_error(searched, target.to(place))
    z, apart = search(error, z, labels, num_steps, tell)
    best = int(apart.nan_to_num(torch.inf).argmin())
    own = labels[best : best + 1] if isinstance(labels, Tensor) else ()
    nearest = apart.reshape(-1, num_starts).amin(1).tolist()
    by_class = {known[i]: d for i, d in zip(tried, nearest, strict=True)} if known else {}
    found = Found(
        z[best].cpu(),
        maker.each(z[best : best + 1], own)[0],
        target,
        float(apart[best]),
        int(own[0]) if isinstance(own, Tensor) else None,
        (int(latents.choices(z[best : best + 1], maker.choice)), maker.choice)
        if maker.choice
        else None,
        dict(sorted(by_class.items(), key=lambda item: item[1])),
    )
    if out is not None:
        _write(found, out)
    return found


def read(
    picture: Path, shape: tuple[int, int, int], resize: str, notify: Notify | None = None
) -> Tensor:
    """An image file in the form of a run's images, uint8 [C, H, W].

    Args:
        shape: (C, H, W).
        resize: "crop" or "stretch", for a file of another size.
        notify: called with a sentence for such a file.
    Raises:
        DataError: for a file that is no usable image.
    """
    from fgan.data.decode import BadImage, Spec, decode, inspect, quiet  # these import Pillow

    channels, height, width = shape
    try:
        with quiet():
            header = inspect(str(picture))
            pixels = decode(str(picture), Spec(channels, (height, width), resize))
    except BadImage as error:
        raise DataError(f"{picture} {error}.", "Give a file with an image.") from error
    if (header.height, header.width) != (height, width) and notify is not None:
        how = "scaled after cutting out its middle" if resize == "crop" else "stretched"
        notify(
            f"{picture} has {header.width} x {header.height} pixels, and is {how} to {width} x "
            f"{height}, as the data of the run are."
        )
    return torch.from_numpy(pixels.copy())


def make_error(maker: Maker, target: Tensor) -> Error:
    """The function that is minimised, the mean of (G(z) - x)^2 over pixels.

    Args:
        target: x, uint8 [C, H, W].
    """
    gen, weights, low = maker.gen, maker.weights, maker.low
    x = target.to(maker.dtype) / 255

    def error(z: Tensor, label: Labels) -> Tensor:
        condition = label[None] if isinstance(label, Tensor) else ()
        inputs = gen.shape.joined(z[None], condition)
        (made,), _ = gen.apply(weights.params, weights.buffers, inputs, train=False)
        squares: Tensor = ((made - low) / (1 - low) - x).square()
        return squares.mean()

    return error


def search(
    error: Error,
    z: Tensor,
    labels: Labels,
    num_steps: int,
    tell: Callable[[int], None] = lambda done: None,
) -> tuple[Tensor, Tensor]:
    """Descend from several latents at once, with Adam, whose rate falls along a cosine.

    Args:
        z: [M, *latent]; labels: [M], or ().
        tell: called with the number of steps done by all searches.
    Returns:
        (z, distances), [M, *latent] and [M], the roots of the errors there.
    """
    rule = optim.adam(_RATE)
    rate = schedules.cosine(_RATE, 0.0, num_steps)

    def descend(params: Params, opt_state: OptState, label: Labels) -> tuple[Params, OptState]:
        grads = {"z": torch.func.grad(error)(params["z"], label)}
        updates, opt_state = rule.update(grads, opt_state, params)
        return optim.apply_updates(params, updates), opt_state

    of_label = 0 if isinstance(labels, Tensor) else None
    step = torch.func.vmap(descend, in_dims=(0, 0, of_label))
    ended, apart = [], []
    for first in range(0, len(z), _TOGETHER):
        here = slice(first, first + _TOGETHER)
        own = labels[here] if isinstance(labels, Tensor) else ()
        params = {"z": z[here]}
        opt_state = pytree.stack([rule.init({"z": each}) for each in z[here]])
        for t in range(num_steps):
            opt_state = optim.with_hyperparameters(opt_state, learning_rate=rate(t))
            params, opt_state = step(params, opt_state, own)
            tell(first * num_steps + (t + 1) * len(params["z"]))
        ended.append(params["z"])
        apart.append(torch.func.vmap(error, in_dims=(0, of_label))(params["z"], own).sqrt())
    return torch.cat(ended), torch.cat(apart)


def _check(num_steps: int, num_starts: int | None, seed: int, out: Path | None) -> None:
    for flag, value in (("--steps", num_steps), ("--starts", num_starts)):
        if value is not None and value < 1:
            raise ConfigError(f"{flag} must be at least 1, not {value}.", "Use a larger number.")
    sample.check_numbers(1, seed)
    if out is None:
        return
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out} does not end in .png.", "Give it the name of a picture.")
    for path in (out, out.with_suffix(".npz")):
        output.check_new(path)


def _write(found: Found, out: Path) -> None:
    arrays: dict[str, Any] = {
        "z": found.z.numpy(),
        "distance": np.float64(found.distance),
        "image": found.image.permute(1, 2, 0).numpy(),
        "target": found.target.permute(1, 2, 0).numpy(),
    }
    if found.label is not None:
        arrays["label"] = np.int64(found.label)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    files.write_bytes(out.with_suffix(".npz"), stream.getvalue())
    both = images.grid(torch.stack([found.target, found.image]), 2)
    images.save_png(images.enlarged(both, found.image.shape[-2]), out)
