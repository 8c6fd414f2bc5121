"""What every test shares: a fixed seed, and the `gpu` marker skipped where there is no GPU."""

import os

import numpy as np
import pytest
import torch
from hypothesis import settings

# No deadline: a shared two-core machine pauses. Derandomised: CI and a reader see the same examples.
settings.register_profile("lungseg", deadline=None, derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "lungseg"))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
    np.random.seed(0)  # nothing of ours uses it; a test that does must not depend on test order


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
