"""A member whose update overflows though its gradient did not is refused, and said to be."""

from __future__ import annotations

from fgan.run import config as configs
from fgan.run import loop


def test_an_update_that_overflows_counts_as_refused(tmp_path):
    """The generator's update overflows: the first step of rmsprop is ten times the rate."""
    config = configs.resolve(base={
        "data": "ring", "gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8, "steps": 2,
        "log_every": 1, "optimizer": "rmsprop", "disc_lr": 1e-3, "sweep": ["lr=0.001,9e37"],
    })  # fmt: skip
    run = loop.run(config, run_dir=tmp_path / "run").run
    refused = {(row["step"], row["member"]): row["refused"] for row in run.read_metrics()}
    assert refused == {(1, 0): 0, (2, 0): 0, (1, 1): 1, (2, 1): 1}
