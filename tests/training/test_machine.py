"""The machine: generators that continue, number types that a device has, memory that is kept."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from lungseg.checkpoint import load_checkpoint, save_checkpoint
from lungseg.training.machine import (
    AUTOCAST,
    autocast_dtype,
    describe_machine,
    keep_freed_memory,
    precision_remark,
    rng_state,
    seed_everything,
    set_rng_state,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _leave_torch_as_it_was():
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def draws():
    return random.random(), np.random.rand(), torch.rand(3).tolist()


def test_the_same_seed_gives_the_same_draws():
    for seed in (0, 1, 2**40):
        seed_everything(seed, CPU)
        first = draws()
        seed_everything(seed, CPU)
        assert draws() == first
        seed_everything(seed + 1, CPU)
        assert draws() != first


def test_a_saved_state_continues_every_generator(tmp_path):
    seed_everything(5, CPU)
    random.gauss(0, 1), np.random.standard_normal(), torch.randn(3)  # each keeps half of a pair for later
    save_checkpoint(tmp_path / "rng.pt", {"rng": rng_state(CPU)})  # plain types only
    wanted = draws(), random.gauss(0, 1), np.random.standard_normal(), torch.randn(3).tolist()
    seed_everything(6, CPU)
    set_rng_state(load_checkpoint(tmp_path / "rng.pt")["rng"], CPU)
    assert (draws(), random.gauss(0, 1), np.random.standard_normal(), torch.randn(3).tolist()) == wanted


def test_the_log_says_where_it_was_made():
    assert describe_machine(CPU)["torch"] == torch.__version__
    assert "threads" in describe_machine(CPU)["device"]


def test_the_generator_of_an_apple_gpu_is_part_of_the_state_where_there_is_one(monkeypatch):
    given, mps = [], torch.device("mps")
    assert "mps" not in rng_state(CPU)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.arange(3))
    monkeypatch.setattr(torch.mps, "set_rng_state", given.append)
    state = rng_state(mps)
    set_rng_state(state, mps)
    assert torch.equal(given[0], torch.arange(3))
    set_rng_state(state, CPU)  # resumed elsewhere
    del state["mps"]  # of a run that began elsewhere
    set_rng_state(state, mps)
    assert len(given) == 1
    assert describe_machine(mps)["device"] == "Apple GPU"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has mallopt")
def test_freed_memory_is_kept_for_the_next_tensors():
    """In a process of its own: the setting cannot be undone."""
    code = """
import resource, torch
from lungseg.training.machine import describe_machine, keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16_000_000)  # 64 MB, 15,600 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults(), keep_freed_memory(), faults(), faults())
"""
    before, possible, _, after = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    if possible == "False":
        pytest.skip("this C library has no mallopt")
    assert int(after) < int(before) / 10


def test_elsewhere_the_allocator_is_left_alone(monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False


@pytest.mark.parametrize(
    ("amp", "on_cuda", "on_cpu", "on_mps"),
    [
        ("auto", torch.bfloat16, None, None),
        ("none", None, None, None),
        ("bf16", torch.bfloat16, torch.bfloat16, torch.bfloat16),
        ("fp16", torch.float16, None, None),
    ],
)
def test_the_number_type_depends_on_the_device(amp, on_cuda, on_cpu, on_mps):
    found = [autocast_dtype(amp, torch.device(device)) for device in ("cuda", "cpu", "mps")]
    assert found == [on_cuda, on_cpu, on_mps]


def test_a_process_keeps_the_generator_of_its_own_gpu(monkeypatch):
    """Of two GPUs the second, of which torch would say this; the run may be resumed where there is another number."""
    gpu, of_gpu = torch.device("cuda", 1), {0: "a", 1: "b"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: of_gpu[device.index])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: of_gpu.update({device.index: state}))
    state, of_cpu = rng_state(gpu), rng_state(CPU)
    of_gpu[1] = "later"
    set_rng_state(state, gpu)
    assert of_gpu == {0: "a", 1: "b"} and of_cpu["cuda"] == []
    set_rng_state(state | {"cuda": ["c", "d"]}, gpu)  # of an older version: all GPUs
    assert of_gpu == {0: "a", 1: "d"}
    set_rng_state(of_cpu, gpu)  # begun on a CPU
    set_rng_state(state, CPU)  # resumed on a CPU
    assert of_gpu == {0: "a", 1: "d"}


@pytest.mark.parametrize(
    ("device", "setting", "deterministic"),
    [("cpu", None, True), ("cuda", None, False), ("cuda", ":4096:8", True), ("cuda", "odd", False)],
)
def test_a_gpu_repeats_its_digits_if_the_environment_allows_it(monkeypatch, device, setting, deterministic):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if setting:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", setting)
    seed_everything(0, torch.device(device))
    assert torch.are_deterministic_algorithms_enabled() == deterministic


@pytest.mark.parametrize("has_bf16", [False, True])
def test_a_number_type_that_a_device_is_not_made_for_is_remarked_on(monkeypatch, has_bf16):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16 or including_emulation)
    remarks = {
        (amp, d): precision_remark(amp, torch.device(d)) for amp in ("auto", *AUTOCAST) for d in ("cpu", "cuda", "mps")
    }
    told = {key for key, remark in remarks.items() if remark}
    without = set() if has_bf16 else {("bf16", "cpu"), ("bf16", "cuda"), ("auto", "cuda")}
    assert told == {("fp16", "cpu"), ("fp16", "mps")} | without
