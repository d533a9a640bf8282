"""Checks that the inputs of a step were made for its game.

They look only at shapes and dtypes, so that a compiled step is checked once, while it is traced.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fgan import pytree
from fgan.game.game import Game
from fgan.model import shapes
from fgan.terms import noise_shapes, of_player
from fgan.types import Batch, DiscDraws, Draws, GenDraws, Noise, TrainState, Tree, Weights


def as_batch(real: Batch | Tensor) -> Batch:
    """Return a `Batch`; reals alone become one without a condition."""
    return real if isinstance(real, Batch) else Batch(real)


def check_inputs(game: Game, state: TrainState, batch: Batch, draws: Draws) -> None:
    """Refuse inputs that a step cannot take, or would take for something else.

    Raises:
        TypeError: for anything but a state, a tensor and draws, or a leaf that is no tensor.
        ValueError: for reals of another shape or of integers, reals or draws of another dtype than
            the state's, draws of another game, or a state without the average that the game keeps.
    """
    if not isinstance(state, TrainState):
        raise TypeError(f"state is made by fgan.init_state, and not a {type(state).__name__}")
    real = batch.real
    if not isinstance(real, Tensor):
        pair = "; with a condition a batch is fgan.Batch(real, condition)"
        hint = pair if isinstance(real, tuple | list) else ""
        raise TypeError(f"real is a tensor, not a {type(real).__name__}{hint}")
    if not isinstance(draws, Draws):
        raise TypeError(f"draws is made by fgan.make_draws, and not a {type(draws).__name__}")
    pytree.check_tensors(state, "state")
    pytree.check_tensors(draws, "draws")
    fit = not isinstance(draws.disc, DiscDraws) and isinstance(draws.gen, GenDraws)
    if not (fit and all(isinstance(each, DiscDraws) for each in draws.disc)):
        raise TypeError("draws has a tuple of DiscDraws and GenDraws, as of fgan.make_draws")
    steps, size = game.num_disc_steps, draws.gen.z.shape[0]
    if len(draws.disc) != steps:
        raise _other_draws(f"for {steps} discriminator steps, not {len(draws.disc)}")
    expected = (*([] if steps == 1 else [steps]), size, *game.disc.shape.main)
    if tuple(real.shape) != expected:
        raise ValueError(
            f"real data has shape {tuple(real.shape)}; the game, with draws for {size} examples, "
            f"takes {expected}"
        )
    if not real.is_floating_point():
        raise ValueError(f"real data is {real.dtype}; a step takes floats, as fakes are")
    _check_dtypes(state, real, draws.gen.z)
    _check_condition(game, batch, expected[: 1 if steps == 1 else 2])
    for extra in draws.disc:
        _check_disc_draws(game, extra, size)
    _check_instance_noise(game, draws.gen.instance_noise)
    _check_noise(draws.gen.gen_noise, game.gen.noise_shapes, size, "the generator")
    if not (game.share_fakes or game.same_z) and not isinstance(draws.disc[-1].z, Tensor):
        raise _other_draws("with latents for the discriminator step")
    rows = 2 * size if game.gen_judges_real else size
    needed = noise_shapes(of_player(game.terms, "gen"), game.disc.shape.main)
    _check_noise(draws.gen.term_noise, needed, size, "the generator's terms")
    judge = "the discriminator in the generator step"
    _check_noise(draws.gen.disc_noise, game.judge_noise_shapes, rows, judge)
    if game.is_averaged and not isinstance(state.ema, Weights):
        raise ValueError(
            "the game keeps a moving average and the state has none: begin with "
            "fgan.init_state, or with fgan.ema.init of the generator's weights"
        )
    if isinstance(state.ema, Weights) and not game.is_averaged:
        raise ValueError(
            "the state has a moving average that the game does not keep, and samples would be made "
            "with it as it is: give Game(ema_decay=...), or state._replace(ema=())"
        )
    remembering, remembered = set(game.remembering), set(state.carry)
    if remembering != remembered:
        name = min(remembering ^ remembered)
        place = "game" if name in remembering else "state"
        raise ValueError(
            f"the term {name!r} with a memory is in the {place} only: begin with fgan.init_state "
            "of this game"
        )


def _check_dtypes(state: TrainState, real: Tensor, z: Tensor) -> None:
    found = {leaf.dtype for leaf in pytree.leaves(state.gen.params) if leaf.is_floating_point()}
    if len(found) != 1:
        return
    (own,) = found
    if z.is_floating_point() and z.dtype != own:
        raise ValueError(
            f"draws are {z.dtype} and the state is {own}: give dtype={own} to fgan.make_draws"
        )
    if torch.promote_types(real.dtype, own) != own:
        raise ValueError(f"real data is {real.dtype} and the state is {own}: real.to({own})")


def _check_condition(game: Game, batch: Batch, lead: tuple[int, ...]) -> None:
    """Refuse a batch whose condition the networks do not take, or that lacks one they do take."""
    pytree.check_tensors(batch.condition, "the batch's condition")
    if not pytree.leaves(batch.condition):
        if game.disc.shape.has_condition:
            raise ValueError(
                f"the batch has no condition, and the discriminator takes {game.condition_shape}: "
                "give Batch(real, condition)"
            )
    elif game.has_condition:
        name, dtype = "the batch's condition", batch.real.dtype
        shapes.check_fits(batch.condition, game.condition_shape, lead, dtype, name)
    elif not hasattr(game.disc.shape.output, "logits"):  # terms may hold its heads against it
        raise ValueError("the batch has a condition, and the game's networks take none")
    elif not game.uses_conditions:
        raise ValueError(
            "the batch has a condition, which the game's networks do not take, and no term with a "
            "weight above 0 looks at it: give a term like fgan.terms.make_acgan()"
        )


def fake_condition(game: Game, drawn: Tree, real: Tree, like: Tensor) -> Tree:
    """The condition of the fakes; ``()`` where no network takes one.

    Args:
        drawn: the condition in the draws of the pass that makes the fakes.
        real: the reals' condition.
        like: their latents [B, *latent].
    Raises:
        ValueError: for a condition that the networks do not take.
    """
    if not game.has_condition:
        return ()
    chosen = game.condition.choose(drawn, real)
    name = "the fakes' condition"
    shapes.check_fits(chosen, game.condition_shape, like.shape[:1], like.dtype, name)
    return chosen


def _check_disc_draws(game: Game, draws: DiscDraws, size: int) -> None:
    _check_instance_noise(game, draws.instance_noise)
    needed = noise_shapes(of_player(game.terms, "disc"), game.disc.shape.main)
    _check_noise(draws.term_noise, needed, size, "the discriminator's terms")
    _check_noise(draws.disc_noise, game.judge_noise_shapes, 2 * size, "the discriminator")
    if isinstance(draws.gen_noise, dict):
        _check_noise(draws.gen_noise, game.gen.noise_shapes, size, "the generator")


def _check_noise(noise: Noise, shapes: dict[str, tuple[int, ...]], rows: int, whose: str) -> None:
    for name, shape in shapes.items():
        if name not in noise or tuple(noise[name].shape) != (rows, *shape):
            raise _other_draws(f"with noise {name!r} of {whose}, of shape {(rows, *shape)}")


def _check_instance_noise(game: Game, noise: object) -> None:
    if game.is_noised != isinstance(noise, Tensor):
        raise _other_draws(f"{'with' if game.is_noised else 'without'} instance noise")


def _other_draws(what: str) -> ValueError:
    return ValueError(f"the game takes draws {what}: make them with fgan.make_draws for this game")
