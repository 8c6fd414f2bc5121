"""What every test shares: a fixed seed, and the `gpu` marker skipped where there is no GPU."""

import os

# Before torch is imported, and for the scripts that tests start: on tensors this small, threads only wait for each
# other, and on a busy machine for ever.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# No deadline: a shared two-core machine pauses. Derandomised: CI and a reader see the same examples.
settings.register_profile("lungseg", deadline=None, derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "lungseg"))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
    np.random.seed(0)  # nothing of ours uses it; a test that does must not depend on test order


@pytest.fixture(autouse=True)
def _leave_the_process_as_it_was(monkeypatch):
    """A training changes its process for good; here it is one of many in the process of the tests."""
    monkeypatch.setattr("lungseg.script.keep_freed_memory", lambda: None)
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
