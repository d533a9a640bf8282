"""What properties of losses are tried on."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

MODERATE = st.floats(-8, 8, allow_subnormal=False)
LOGITS = st.lists(st.tuples(MODERATE, MODERATE), min_size=1, max_size=6).map(
    lambda rows: torch.tensor(rows, dtype=torch.float64).unbind(-1)
)


def weights(n: int) -> st.SearchStrategy[torch.Tensor]:
    """Probabilities of n points, each above zero."""
    return st.lists(st.floats(0.05, 1), min_size=n, max_size=n).map(
        lambda w: torch.tensor(w, dtype=torch.float64) / sum(w)
    )
