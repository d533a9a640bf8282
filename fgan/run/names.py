"""The names that options accept, for code that must not import torch.

Tests compare these tables with the library's own.
"""

from __future__ import annotations

TORCHVISION_SETS = ("fashion-mnist", "kmnist", "emnist", "cifar10", "svhn", "celeba")
POINT_SETS = ("ring", "grid")
DATA_SETS = ("mnist", "stacked-mnist", *TORCHVISION_SETS, *POINT_SETS)
F_DIVERGENCES = ("kl", "reverse_kl", "pearson", "hellinger", "jensen_shannon", "gan")
LOSSES = (
    "minimax", "non_saturating", "label_smoothed", "label_smoothed_two_sided", "hinge",
    "wasserstein", "least_squares", "relativistic", "relativistic_average",
    "relativistic_average_hinge", "relativistic_average_least_squares",
    *(f"f_{divergence}{form}" for divergence in F_DIVERGENCES for form in ("", "_non_saturating")),
)  # fmt: skip
OPTIMIZERS = ("adam", "adamw", "rmsprop", "lion", "sgd", "optimistic_adam", "optimistic_sgd")
WITHOUT_BETAS = ("rmsprop", "sgd", "optimistic_sgd")
_RATES, _ADAM = ("lr", "disc_lr"), ("b1", "b2", "eps")
HYPERPARAMETERS = {  # kept in tensors, so that members of a population may differ
    "adam": (*_RATES, *_ADAM),
    "adamw": (*_RATES, *_ADAM, "weight_decay"),
    "rmsprop": (*_RATES, "decay", "eps"),
    "lion": (*_RATES, "b1", "b2", "weight_decay"),
    "sgd": _RATES,
    "optimistic_adam": (*_RATES, *_ADAM),
    "optimistic_sgd": _RATES,
}
LR_SCHEDULES = ("constant", "linear", "cosine")
ORDERS = (
    "alternating", "simultaneous",
    "extragradient", "consensus", "symplectic", "competitive", "unrolled",
)  # fmt: skip
ACTIVATIONS = ("leaky_relu", "relu", "tanh")
OUTPUTS = ("tanh", "sigmoid", "linear")
BATCH_NORMS = ("none", "all", "after_first")
DISC_BATCHES = ("auto", "apart", "together")
STAT_PASSES = ("every", "own")
SAMPLE_STATS = ("running", "batch")
UNLABELLED_SETS = ("celeba", *POINT_SETS)
CONDITION_HEADS = ("projection", "concat", "acgan")
# Parts of DiffAugment as its authors' code joins them, and kinds of ADA by the names of theirs.
AUGMENTS = (
    "none",
    "diffaug", "diffaug_color", "diffaug_translation", "diffaug_cutout",
    "diffaug_color_translation", "diffaug_color_cutout", "diffaug_translation_cutout",
    "ada", "ada_blit", "ada_geom", "ada_color", "ada_bg",
)  # fmt: skip
AUGMENTS_ALSO = {"diffaug_color_translation_cutout": "diffaug", "ada_bgc": "ada"}
RESIZES = ("crop", "stretch")
STREAMS = ("auto", "always", "never")
ON_NONFINITE = ("halt", "skip", "rollback")
DTYPES = ("auto", "float32", "tf32", "bfloat16", "float64")
