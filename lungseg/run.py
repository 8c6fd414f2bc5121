"""A run and its folder: the options every training script has, its log, and going on where it was stopped.

recipe.json  log.jsonl  last.pt (and last.prev.pt)  best.pt  curves.png  predictions.png
"""

import json
import math
import os
import platform
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lungseg.checkpoint import load_latest
from lungseg.distributed import Processes
from lungseg.recipe import option


@dataclass(frozen=True)
class RunOptions:
    """What belongs to a run, and not to its recipe."""

    data: Path | None = option(
        None, "folder of slices (examples/prepare_data.py) or of volumes (docs/data/volumes.md); none makes phantoms"
    )
    out: Path = option(Path("runs/train"), "folder of this run; a new or empty one, unless you resume")
    resume: bool = option(False, "go on with the run in --out, or begin it if it has not finished an epoch yet")
    seed: int = option(0, "start of every random generator: same seed, same machine, same digits")
    device: Literal["auto", "cpu", "cuda", "mps"] = option(
        "auto", "where to compute; auto takes a GPU if there is one; mps is that of an Apple computer"
    )
    num_workers: int = option(0, "processes that read and augment slices; the result does not depend on it")
    compile: bool = option(False, "compile the network first: minutes at the start, faster steps on a GPU")

    def __post_init__(self) -> None:
        if self.num_workers < 0 or not 0 <= self.seed < 2**63:
            raise ValueError(f"num_workers={self.num_workers} and seed={self.seed} must not be negative or huge")


# ---- beginning and going on -------------------------------------------------------------------------------------


def open_run(options: RunOptions, processes: Processes) -> dict[str, Any] | None:
    """Check that --out may be used; return the checkpoint to go on from, or None for a new run.

    Raises:
        ValueError: if the folder holds anything and we do not resume, or if none of its checkpoints is good.
    """
    out = options.out
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file. Choose another folder with --out.")
    if not options.resume:
        used = out.exists() and any(out.iterdir())
        if any(processes.gather(used)):
            raise ValueError(f"{out} is not empty. Add --resume to go on with that run, or choose another --out.")
        return None
    with processes.main_first():  # it reports and sets aside what is damaged
        return load_latest(out / "last.pt")


def check_same_run(saved: dict[str, Any], given: dict[str, Any], out: Path) -> None:
    """Refuse flags that contradict the run in `out`: it would end as neither the one nor the other.

    Args:
        saved: name -> value as the run was started (recipe fields, seed, number of processes, ...).
        given: name -> value as wanted now; what is not in `saved` is not compared.
    """
    for name, value in given.items():
        if name in saved and saved[name] != value:
            raise ValueError(
                f"The run in {out} was started with {name} {saved[name]}, and now {value} is wanted. "
                f"Resume it as it was started, or start a new run in another --out."
            )


# ---- randomness -------------------------------------------------------------------------------------------------


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed every global generator, and let a CPU choose algorithms that give the same digits each time.

    (Some fast GPU kernels have no such form; two runs there agree closely, not to the last digit.)
    Nothing of ours draws from Python's or numpy's global generator; somebody's augmentation may.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # of the CPU and of all GPUs, Apple's too: weights, drop-out, stochastic depth
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # slow, and only useful to find bugs


def rng_state() -> dict[str, Any]:
    """The state of every global generator, as plain types and tensors."""
    numpy = np.random.get_state(legacy=False)
    numpy["state"]["key"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    state = {
        "python": random.getstate(),
        "numpy": numpy,
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    return state | ({"mps": torch.mps.get_rng_state()} if torch.backends.mps.is_available() else {})


def set_rng_state(state: dict[str, Any]) -> None:
    """Undo whatever was drawn since `rng_state()`."""
    random.setstate(state["python"])
    key = state["numpy"]["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**state["numpy"], "state": {**state["numpy"]["state"], "key": key}})
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


# ---- files ------------------------------------------------------------------------------------------------------


class RunLog:
    """One JSON object to a line. Its position is part of a checkpoint, so that no line appears twice.

    Args:
        path: for example run/log.jsonl.
        position: None starts a new file; else everything after this byte is cut off, and writing goes on there.
        enabled: False writes nothing (all processes but the main one).
    """

    def __init__(self, path: str | Path, *, position: int | None = None, enabled: bool = True):
        self.path, self.enabled = Path(path), enabled
        if not enabled:
            return
        if position is None:
            self.path.write_bytes(b"")
        elif not self.path.exists() or self.path.stat().st_size < position:
            raise ValueError(f"{path} is shorter than its checkpoint says. Start the run again in a new folder.")
        else:
            os.truncate(self.path, position)

    def write(self, **line: Any) -> None:
        """Append one line, on the disk before the checkpoint that counts it. NaN and infinity become null."""
        if self.enabled:
            with open(self.path, "a") as file:
                file.write(json.dumps({k: _plain(v) for k, v in line.items()}) + "\n")
                file.flush()
                os.fsync(file.fileno())

    @property
    def position(self) -> int:
        """Where the next line begins, in bytes."""
        return self.path.stat().st_size if self.enabled else 0

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON knows neither NaN nor infinity
    return str(value) if isinstance(value, Path) else value


def machine(device: torch.device) -> dict[str, str]:
    """What a log should say about where it was made."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = "Apple GPU" if device.type == "mps" else f"CPU, {torch.get_num_threads()} threads"
    return {"device": name, "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
