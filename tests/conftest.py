"""Fixtures for all tests."""

import os

import pytest
import torch
from hypothesis import settings
from jaxtyping import config

# The same examples in every run.
settings.register_profile("reproducible", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("reproducible")
# The nets here are too small for threads to help.
torch.set_num_threads(1)
# Nothing is shown on a screen.
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def unchecked():
    """Production's view: shape annotations aren't checked, so that our own errors are seen."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
