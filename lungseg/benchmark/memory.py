"""The peak memory of a call.

On a CUDA GPU it is what torch's allocator had given out at most (`torch.cuda.max_memory_allocated`). On Linux it is the
resident memory of this process at its peak, which the kernel keeps (VmHWM, "high water mark"), including what oneDNN
and other libraries use. Both are counted from the moment at which a `PeakMemory` was made: make it before the network,
and the parameters are included.
"""

import ctypes
import gc
import platform
from collections.abc import Callable
from pathlib import Path

import torch

PROC = Path("/proc/self")
RESET_PEAK = "5"  # proc(5), clear_refs


class PeakMemory:
    """Measures peaks above the memory that is in use now.

    Args:
        device: the one whose memory counts.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.base = self._settle()

    def of(self, work: Callable[[], object]) -> int | None:
        """Call `work` once: the peak in bytes, or None where the system cannot tell it."""
        if self._settle() is None or self.base is None:
            work()
            return None
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device) - self.base
        return max(0, resident("VmHWM") - self.base)

    def _settle(self) -> int | None:
        """Give freed memory back and forget the last peak: the bytes in use, or None if that is not possible."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device)
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)  # otherwise freed memory that is kept would count
        try:
            (PROC / "clear_refs").write_text(RESET_PEAK)
            return resident("VmRSS")
        except OSError:  # not Linux, or a container that forbids it
            return None


def resident(entry: str) -> int:
    """VmRSS, the resident memory of this process, or VmHWM, its peak; in bytes."""
    for line in (PROC / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == entry:
            return int(value.split()[0]) * 1024  # "123456 kB"
    raise OSError(f"{PROC}/status has no {entry}")
