"""A game between two networks, and the step that plays it.

The files, in the order in which to read them:

- `fgan.game.game`: `Game`, the networks, rules, loss and order of play; `init_state`.
- `fgan.game.conditions`: where the conditions of fakes come from.
- `fgan.game.player`: one player's first state and one step of its optimizer.
- `fgan.game.draws`: `make_draws`, all the randomness of one step.
- `fgan.game.judging`: the passes of the discriminator.
- `fgan.game.objectives`: the loss that each player minimises, as a function of parameters.
- `fgan.game.orders`: methods that correct the gradients of simultaneous play.
- `fgan.game.microbatches`: gradients as means over parts of a batch.
- `fgan.game.step`: `make_step`, Algorithm 1 of Goodfellow et al. 2014 as one pure function.
- `fgan.game.steps`: functions from steps to steps: `make_steps`, `scheduled`, `scan`.
- `fgan.game.players`: the step of any number of players, from a dictionary of objectives.
- `fgan.game.population`: many games of one form at once.
- `fgan.game.ranks`: the step over many processes; `fgan.game.collectives`, the sum over them.
- `fgan.game.per_example`: gradients of single examples.
- `fgan.game.spectrum`: the Jacobian of the players' field, and its eigenvalues.
- `fgan.game.inputs`: refuses inputs that were made for another game.
"""

from fgan.game.draws import make_draws
from fgan.game.game import Due, Game, init_state
from fgan.game.player import descend, init_player
from fgan.game.step import Step, make_step
from fgan.game.steps import make_steps, scan, scheduled

__all__ = [
    "Due", "Game", "Step",
    "descend", "init_player", "init_state", "make_draws", "make_step", "make_steps", "scan",
    "scheduled",
]  # fmt: skip
