"""The machine a run is on: its random generators, number types, memory, and what the log says about it."""

import ctypes
import os
import platform
import random
from typing import Any

import numpy as np
import torch

AUTOCAST = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
REPEATABLE = (":4096:8", ":16:8")  # values of CUBLAS_WORKSPACE_CONFIG with which cuBLAS repeats its digits


# ---- randomness -------------------------------------------------------------------------------------------------


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed every global generator, and make a CPU use algorithms that give the same digits every time.

    On a CUDA GPU these are slower, and some operations have none: two runs there agree closely, not to the last digit,
    unless the environment says CUBLAS_WORKSPACE_CONFIG=:4096:8, which torch requires for them. Nothing of ours draws
    from the global generators of Python and numpy, but a user's augmentation may.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # of the CPU and of all GPUs, also Apple's: weights, dropout, stochastic depth
    asked = device.type == "cuda" and os.environ.get("CUBLAS_WORKSPACE_CONFIG") in REPEATABLE
    torch.use_deterministic_algorithms(device.type == "cpu" or asked)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow, for finding bugs


def rng_state(device: torch.device) -> dict[str, Any]:
    """The state of every global generator of the CPU and of `device`, as plain types and tensors."""
    numpy = np.random.get_state(legacy=False)
    numpy["state"]["key"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    state = {
        "python": random.getstate(),
        "numpy": numpy,
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }
    return state | ({"mps": torch.mps.get_rng_state()} if device.type == "mps" else {})


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Undo whatever was drawn since `rng_state()`."""
    random.setstate(state["python"])
    key = state["numpy"]["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**state["numpy"], "state": {**state["numpy"]["state"], "key": key}})
    torch.set_rng_state(state["torch"])
    gpus = state["cuda"]
    if gpus and device.type == "cuda":
        own = (device.index or 0) if len(gpus) == torch.cuda.device_count() else 0  # older versions kept those of all
        torch.cuda.set_rng_state(gpus[own], device)
    if "mps" in state and device.type == "mps":
        torch.mps.set_rng_state(state["mps"])


# ---- number types and memory ------------------------------------------------------------------------------------


def autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """The number type of the forward pass; None is float32. float16 is for CUDA GPUs only: elsewhere it is float32."""
    if amp == "auto":
        amp = "bf16" if device.type == "cuda" else "none"
    if amp == "fp16" and device.type != "cuda":
        amp = "none"
    return AUTOCAST[amp]


def precision_remark(amp: str, device: torch.device) -> str:
    """A remark if the device does not support the requested number type well; usually empty."""
    if amp == "fp16" and device.type != "cuda":
        return "--amp fp16 is for CUDA GPUs: this run computes in float32."
    if amp == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "This processor has no bfloat16 arithmetic: --amp bf16 will be slower than --amp none."
    if (
        amp in ("auto", "bf16")
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        return "This GPU has no bfloat16 arithmetic, as those before Ampere: --amp fp16 will be faster."
    return ""


def keep_freed_memory() -> bool:
    """On Linux with glibc, keep the memory of freed tensors for the next ones; return whether that was possible.

    By default glibc returns each large block to the kernel when it is freed and requests it again a moment later. The
    kernel must clear it every time, with one page fault per 4 KiB, at every step. Call this once, before training on
    the CPU.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    no_separate_blocks, never_give_back = mallopt(m_mmap_max, 0), mallopt(m_trim_threshold, 2**31 - 1)
    return bool(no_separate_blocks and never_give_back)


def describe_machine(device: torch.device) -> dict[str, str]:
    """Device and versions, for the log."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = "Apple GPU" if device.type == "mps" else f"CPU, {torch.get_num_threads()} threads"
    return {"device": name, "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
