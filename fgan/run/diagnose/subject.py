"""The run that is looked at: its newest checkpoint, its data, its log, and samples of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgan import data, rng, terms
from fgan.data import mnist, toy
from fgan.data.labels import Labelled
from fgan.disk import checkpoint
from fgan.disk.checkpoint import PENDING, Checkpoint
from fgan.disk.rundir import RunDir
from fgan.errors import DataError
from fgan.game import Game, init_state, make_draws
from fgan.run import archs, assemble, log, sample
from fgan.run.known import Known, known_of
from fgan.types import Batch, Draws, TrainState, Tree, Weights

NUM = 2500  # samples, and examples that they are compared with
_PASS = 500  # examples in one pass of a network
_BATCH = 128  # examples of the batch on which gradients and eigenvalues are taken


class Subject:
    """A run's newest checkpoint and what belongs to it; each part is made when first asked for.

    Args:
        run: a run directory or a checkpoint file.
        member: the number of a population's member; None for a run of one GAN.
        held_out: a path to examples, or the name of a data set, that the run has not seen; "" for
            those that are known of the data.
        device, notify: as in `fgan.run.sample.sample`.
    Raises:
        FganError: as `fgan.run.sample.open_run`.
    """

    def __init__(
        self,
        run: Path,
        member: int | None = None,
        *,
        held_out: str = "",
        device: str = "auto",
        notify: Callable[[str], None] | None = None,
    ) -> None:
        saved, self.file = sample.open_run(run, member, notify)
        self.saved: Checkpoint = saved
        self._run, self._member, self._notify = run, member, notify
        self._named = held_out
        self._device_name = device
        self.device = assemble.find_device(device)
        self.config, self._shape, self._classes = sample.facts(saved.about, self.file)
        self.known = Known(self.config, saved.about, run, notify)
        self.step = int(saved.about["step"])

    @cached_property
    def game(self) -> Game:
        """The game of the run."""
        return assemble.make_game(self.config, self._shape, self._classes.counts)

    @cached_property
    def state(self) -> TrainState:
        """The state in the checkpoint."""
        dtype = assemble.state_dtype(self.config)
        like = init_state(self.game, rng.key(0), device=self.device, dtype=dtype)
        return checkpoint.restore(self.saved, like, self.file)

    @cached_property
    def first_state(self) -> TrainState:
        """The state that a run with this seed begins with, whatever it was begun from."""
        dtype = assemble.state_dtype(self.config)
        return init_state(self.game, self.state.key, device=self.device, dtype=dtype)

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of the log up to the checkpoint, those of the member alone."""
        rows = RunDir(self.file.absolute().parent.parent).read_metrics()
        own = [row for row in rows if row.get("member") == self._member]
        return [row for row in own if row["step"] <= self.step]

    @property
    def refused_since(self) -> int:
        """The steps since the last line that were not finite."""
        sums = self.saved.tensors.get(PENDING)
        # A run that ends between two lines writes one early, and saves its sums all the same.
        told = bool(self.lines) and self.lines[-1]["step"] == self.step
        return 0 if sums is None or told else log.refused(sums)

    @cached_property
    def num(self) -> int:
        """The number of examples in each half: at most 2 500."""
        return min(NUM, len(self.known.examples) // 2)

    @property
    def examples(self) -> Tensor:
        """The first half of the known training examples, as they are stored."""
        return self.known.examples[: self.num]

    @property
    def others(self) -> Tensor:
        """The second half, as many: what good samples would look like beside the first."""
        return self.known.examples[self.num : 2 * self.num]

    @cached_property
    def _drawn(self) -> Labelled:
        num = min(NUM, len(self.known.examples))
        return sample.draw_labelled(self.saved, self.file, num, 0, self._device_name)

    @property
    def samples(self) -> Tensor:
        """Samples of the averaged generator in the form of the stored examples."""
        return self._drawn.examples

    @property
    def labels(self) -> Tensor | None:
        """The labels that the samples were asked for; None for a run without a condition."""
        return self._drawn.labels if isinstance(self._drawn.labels, Tensor) else None

    @property
    def are_digits(self) -> bool:
        """Whether the data are digits as the shipped classifier knows them."""
        return self.known.has("digits") and self.samples.shape[1] == 1

    @property
    def output(self) -> str:
        """The generator's last activation."""
        named = "output" in archs.ALL[self.config.arch].options
        return self.config.output if named else "tanh"

    @cached_property
    def held_out(self) -> Tensor | None:
        """Examples that were not trained on, as they are stored; None where there are none."""
        config = self.config
        if self._named:
            named = known_of(self._named, config, (0, 0), self._notify, option="--held-out")
            held = named.examples[: 2 * NUM]
            if held.shape[1:] != self.known.examples.shape[1:]:
                raise DataError(
                    f"--held-out {self._named} has examples {list(held.shape[1:])}, the run "
                    f"{list(self.known.examples.shape[1:])}.",
                    "Give examples of the same form.",
                )
            return held
        if config.data in ("mnist", "stacked-mnist"):
            return self.known.test
        if config.data in ("ring", "grid"):
            make = {"ring": toy.ring_points, "grid": toy.grid_points}[config.data]
            return make(2 * NUM, seed=1).examples
        return None

    def as_trained(self, stored: Tensor) -> Tensor:
        """Stored examples as the networks see them."""
        low, dtype = assemble.image_low(self.config), assemble.state_dtype(self.config)
        return data.normalise(stored.to(self.device), low, dtype)

    @cached_property
    def real_logits(self) -> Tensor:
        """The discriminator's logits of `examples`, float64 [N]."""
        return self._logits(self.as_trained(self.examples), self.example_labels)

    @cached_property
    def held_logits(self) -> Tensor | None:
        """Those of as many held-out examples; None without those, or without their labels."""
        if self.held_out is None:
            return None
        labels = None
        if self.game.disc.shape.has_condition:
            if self._named or self.config.data != "mnist":
                return None
            labels = mnist.load_mnist_labels("test", self.config.data_root or None).long()
        return self._logits(self.as_trained(self.held_out[: self.num]), labels)

    @cached_property
    def fake_logits(self) -> Tensor:
        """Those of the plain generator's samples, which it plays against.

        Batch statistics of the generator are those of the batch, as in training.
        """
        gen, weights = self.game.gen, Weights(self.state.gen.params, self.state.gen.buffers)
        labels, fakes = self.example_labels, []
        for first in range(0, self.num, _PASS):
            size = min(_PASS, self.num - first)
            key = rng.fold_in(rng.key(1, self.device), first // _PASS, rng.Stream.SAMPLES)
            z_key = rng.fold_in(key, 0, rng.SampleStream.LATENTS)
            z = rng.normal(z_key, (size, *gen.shape.main), assemble.state_dtype(self.config))
            condition: Tree = ()
            if gen.shape.has_condition and labels is not None:
                condition = labels[first : first + size].to(self.device)
            fakes.append(assemble.sample(gen, weights, z, key, "batch", condition))
        return self._logits(torch.cat(fakes), labels)

    def _logits(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The discriminator's logits in evaluation, for examples as it sees them."""
        disc, state, found = self.game.disc, self.state.disc, []
        for first in range(0, len(x), _PASS):
            rows = slice(first, first + _PASS)
            condition: Tree = ()
            if disc.shape.has_condition and labels is not None:
                condition = labels[rows].to(self.device)
            joined = disc.shape.joined(x[rows], condition)
            out, _ = disc.apply(state.params, state.buffers, joined, train=False)
            found.append(terms.logits_of(out).double().cpu())
        return torch.cat(found)

    @property
    def example_labels(self) -> Tensor | None:
        """The labels of `examples`; None where the data have none."""
        return self.known.labels[: self.num] if self.known.has("labels") else None

    @cached_property
    def batch(self) -> tuple[Game, Batch, Draws]:
        """A fixed batch of training examples, its draws, and the game with one step of D."""
        game = replace(self.game, num_disc_steps=1)
        size = min(_BATCH, self.config.batch_size, self.num)
        condition: Tree = ()
        if game.has_condition:
            assert self.example_labels is not None
            condition = self.example_labels[:size].to(self.device)
        real = self.as_trained(self.examples[:size])
        dtype = assemble.state_dtype(self.config)
        key = rng.key(0, self.device)
        draws = make_draws(game, key, self.step, size, dtype=dtype)
        return game, Batch(real, condition), draws
