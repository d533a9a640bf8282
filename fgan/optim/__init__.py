"""Optimizers as pairs of pure functions, made of parts.

``adam`` is just ``chain(scale_by_adam(...), scale_by_learning_rate(...))``; a new optimizer is
another chain, or an optimizer made of others: `partition` and `freeze`, `every_k`, `lookahead`.
Hyperparameters are 0-d tensors in the optimizer's state:
changing them recompiles nothing, and ``vmap`` gives each member of a population its own. An
optimizer takes them as numbers or as 0-d tensors, over which ``torch.func.grad`` differentiates;
the value of a tensor is not checked.
"""

from fgan.optim.base import (
    Optimizer,
    apply_updates,
    chain,
    hyperparameters,
    hypers,
    map_hypers,
    with_hyperparameters,
)
from fgan.optim.named import (
    ALL,
    adam,
    adamw,
    lion,
    optimistic_adam,
    optimistic_sgd,
    rmsprop,
    sgd,
)
from fgan.optim.parts import (
    add_decayed_weights,
    clip_by_global_norm,
    extrapolate,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_lion,
    scale_by_momentum,
    scale_by_rms,
)
from fgan.optim.wrappers import averaged, every_k, freeze, lookahead, masked, partition

__all__ = [
    "ALL",
    "Optimizer",
    "adam",
    "adamw",
    "add_decayed_weights",
    "apply_updates",
    "averaged",
    "chain",
    "clip_by_global_norm",
    "every_k",
    "extrapolate",
    "freeze",
    "hyperparameters",
    "hypers",
    "lion",
    "lookahead",
    "map_hypers",
    "masked",
    "optimistic_adam",
    "optimistic_sgd",
    "partition",
    "rmsprop",
    "scale_by_adam",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_momentum",
    "scale_by_rms",
    "sgd",
    "with_hyperparameters",
]
