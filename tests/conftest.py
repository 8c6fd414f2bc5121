"""What every test shares: a fixed seed, and GPUs for the tests marked `gpu` alone, which are skipped without one."""

import copy
import gc
import os
import signal

# Before torch is imported, and for the scripts that tests start: on tensors this small, threads only wait for each
# other, and on a busy machine for ever.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# No deadline: a shared two-core machine pauses. Derandomised: CI and a reader see the same examples. 50 of them: a
# hundred found no more of the faults that were made on purpose.
settings.register_profile("lungseg", deadline=None, derandomize=True, database=None, max_examples=50)
settings.register_profile("thorough", deadline=None, database=None, max_examples=1000)  # HYPOTHESIS_PROFILE=thorough
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "lungseg"))


# Started in the background of a script (pytest ... &), this process ignores Ctrl-C, and so would those that tests
# start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
    np.random.seed(0)  # nothing of ours uses it; a test that does must not depend on test order


@pytest.fixture(autouse=True)
def _leave_the_process_as_it_was(monkeypatch):
    """A training changes its process for good; here it is one of many in the process of the tests."""
    monkeypatch.setattr("lungseg.training.run.keep_freed_memory", lambda: None)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


# ---- GPUs --------------------------------------------------------------------------------------------------------

# LUNGSEG_GPU_TESTS_DEVICE=cpu runs the tests marked gpu on a CPU, to check the tests themselves.
GPU_TESTS_DEVICE, HAS_GPU = os.environ.get("LUNGSEG_GPU_TESTS_DEVICE", "cuda"), torch.cuda.is_available()
ASKED = torch.cuda.is_available, torch.backends.mps.is_available, os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.fixture(scope="session", autouse=True)
def _no_gpu():
    """Scripts compute on a GPU where there is one, but most tests expect the digits of a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        if HAS_GPU:
            torch.cuda.init()  # before the GPUs are hidden: from the processes that tests start, not from this one
            torch.cuda.device_count()  # is remembered from now on
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.backends.mps, "is_available", lambda: False)
        yield


@pytest.fixture
def device(monkeypatch):
    """Where a test marked `gpu` computes: on the GPU, in full float32, with nothing hidden."""
    cuda, mps, visible = ASKED
    monkeypatch.setattr(torch.cuda, "is_available", cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", mps)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # of convolutions; matrix products have it off
    return torch.device(GPU_TESTS_DEVICE)


@pytest.fixture
def cuda(device):
    """The same for a test that makes no sense on a CPU."""
    if device.type != "cuda":
        pytest.skip("for a CUDA device only")
    return device


def pytest_collection_modifyitems(items):
    skipped = not HAS_GPU and GPU_TESTS_DEVICE != "cpu"
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.filterwarnings("default"))  # GPUs and their compilers warn of much; shown only
            if skipped:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


# ---- parity with published networks -----------------------------------------------------------------------------
#
# A published output was computed in float32 on some processor; another one adds in another order. So no float32 result
# of ours can be held to it more tightly than rounding allows, and how much that is must not be guessed. Both are
# compared with the same weights in float64, whose result is the same on every processor up to about 1e-13:
#
#   float64 ours - published     the rounding in the published file alone, on any processor of ours
#   float32 ours - float64 ours  the rounding of this processor alone
#
# Measured over all the fixtures, in units of eps = 2^-23 times the largest published value: the first is at most 56,
# the second at most 56 (float32 with AVX-512, AVX2 and neither). The norm of the whole first difference is at most 7.1
# eps of the norm of the output (43 where batch norm divides by the spread of few pixels). It may be bounded so closely
# because it does not depend on the processor, and it is what shows first: LayerNorm with an epsilon of 1e-6 for 1e-5
# makes it 14.

MOST_EPS, MOST_EPS_OF_NORM = 64, 8


@pytest.fixture(scope="session")
def assert_published():
    """check(exact, single, published): ours in float64, ours in float32, and the published float32 values."""

    def check(exact, single, published, *, name="the output", norm=MOST_EPS_OF_NORM):
        assert exact.dtype == torch.float64 and single.dtype == published.dtype == torch.float32
        assert exact.shape == single.shape == published.shape, name
        eps, largest, wide = torch.finfo(torch.float32).eps, published.abs().max().item(), published.double()
        off = (exact - wide).abs().max().item() / largest / eps
        assert off <= MOST_EPS, f"{name} in float64 is {off:.0f} eps of the largest value off the published one"
        off = ((exact - wide).norm() / wide.norm()).item() / eps
        assert off <= norm, f"{name} in float64 is {off:.1f} eps of its norm off the published one"
        off = (single - exact).abs().max().item() / largest / eps
        assert off <= 2 * MOST_EPS, f"{name} in float32 is {off:.0f} eps of the largest value off float64"

    return check


@pytest.fixture(scope="session")
def in_both_precisions():
    """(network, *inputs) -> its output in float64 and in float32. The network is left as it was."""

    def run(network, *inputs):
        with torch.no_grad():
            doubled = [x.double() if x.is_floating_point() else x for x in inputs]
            return copy.deepcopy(network).double()(*doubled), copy.deepcopy(network)(*inputs)

    return run


def pytest_collection_finish():
    """torch and the tests are some 600,000 objects, which every full garbage collection would look through."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
