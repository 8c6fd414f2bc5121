"""A run and its folder: the options every training script has, its randomness, and its log.

recipe.json  data.json  log.jsonl  last.pt (and last.prev.pt)  best.pt  curves.png  predictions.png
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

from lungseg.files import naming
from lungseg.flags import option
from lungseg.typed import short

MOST_WORKERS = 1024
EPOCH_LINE = {"epoch": int, "train_loss": float | int | None, "val": dict, "lr": float | int}  # of the log


@dataclass(frozen=True)
class RunOptions:
    """What belongs to a run, and not to its recipe."""

    data: Path | None = option(
        None, "folder of slices (examples/prepare_data.py) or of volumes (docs/data/volumes.md); none makes phantoms"
    )
    out: Path = option(Path("runs/train"), "folder of this run; a new or empty one, unless you resume")
    resume: bool = option(False, "go on with the run in --out; one that was stopped in its first epoch begins again")
    seed: int = option(0, "start of every random generator: same seed, same machine, same digits")
    device: Literal["auto", "cpu", "cuda", "mps"] = option(
        "auto", "where to compute; auto takes a GPU if there is one; mps is that of an Apple computer"
    )
    num_workers: int = option(0, "processes that read and augment slices; the result does not depend on it")
    compile: bool = option(False, "compile the network first: minutes at the start, faster steps on a GPU")

    def __post_init__(self) -> None:
        if not 0 <= self.num_workers <= MOST_WORKERS:
            raise ValueError(f"num_workers={short(self.num_workers)} must be from 0 to {MOST_WORKERS}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={short(self.seed)} must be from 0 to 2^63 - 1")


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

    Raises:
        ValueError: if what stands before `position` is not what was written.
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
            self.lines()  # better said now than after the last epoch

    def write(self, **line: Any) -> None:
        """Append one line, on the disk before the checkpoint that counts it. NaN and infinity become null."""
        if self.enabled:
            with naming(self.path), open(self.path, "a") as file:
                file.write(json.dumps({k: _plain(v) for k, v in line.items()}) + "\n")
                file.flush()
                os.fsync(file.fileno())

    @property
    def position(self) -> int:
        """Where the next line begins, in bytes."""
        return self.path.stat().st_size if self.enabled else 0

    def lines(self) -> list[dict[str, Any]]:
        """All of them.

        Raises:
            ValueError: naming the first line that is none of ours, as after a slip in an editor.
        """
        try:
            lines = self.path.read_text().splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"{self.path} is damaged: it is not text.") from None
        return [parsed_line(line, f"{self.path}, line {number}") for number, line in enumerate(lines, 1)]


def parsed_line(text: str, where: str) -> dict[str, Any]:
    """An object of JSON; what the curves are drawn from is of its type."""
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if not isinstance(line, dict):
        raise ValueError(f"{where} is damaged: expected an object of JSON, got {text[:40]!r}. Restore it.")
    for name, kinds in EPOCH_LINE.items():
        if name in line and not isinstance(line[name], kinds):
            raise ValueError(f"{where} is damaged: {name} is {line[name]!r}. Restore it.")
    return line


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
