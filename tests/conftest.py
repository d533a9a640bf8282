"""Settings of the whole suite: one thread, repeatable properties, one compile cache."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

if "FGAN_TESTS_CACHE" not in os.environ:
    os.environ["FGAN_TESTS_CACHE"] = tempfile.mkdtemp(prefix="fgan-tests-")
    atexit.register(shutil.rmtree, os.environ["FGAN_TESTS_CACHE"], ignore_errors=True)
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.environ["FGAN_TESTS_CACHE"] + "/inductor")
os.environ.setdefault("FGAN_CACHE", os.environ["FGAN_TESTS_CACHE"] + "/fgan")

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "fgan",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("fgan")


@pytest.fixture
def fresh_dynamo():
    """Dynamo without anything compiled by other tests, and its counters at zero."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
