"""Training runs as commands: a script that trains several networks starts each, continues it, and reads its log.

Each run is a process of its own, so that it can be repeated by hand, and so that its random numbers and its memory are
not those of the run before.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lungseg.data.splits import Fold
from lungseg.files import whole_file
from lungseg.training.log import RunLog


class NetworkRuns:
    """All training runs of one network: one for each seed, or with cross-validation for each seed and fold.

    Args:
        name: for messages and folders: "U-Net".
        script: that trains the network.
        flags: of the script, all that the runs have in common.
        out: the folder of their folders.
        seeds, folds: folds is None without cross-validation.

    Attributes:
        epochs: of each run; set it before `train`.
    """

    epochs: int

    def __init__(
        self, name: str, script: Path, flags: Sequence[str], out: Path, *, seeds: Sequence[int], folds: int | None
    ):
        self.name, self.script, self.flags, self.out, self.seeds = name, script, list(flags), out, seeds
        self.folds: list[Fold | None] = [None] if folds is None else [Fold(k, folds) for k in range(folds)]

    @property
    def runs(self) -> list[tuple[Path, int, Fold | None]]:
        """Folder, seed and fold of each run, seed by seed."""
        return [(self.folder(seed, fold), seed, fold) for seed in self.seeds for fold in self.folds]

    def folder(self, seed: int, fold: Fold | None) -> Path:
        """out/swin_unet_conv_seed0 of "Swin-UNet (conv)", or with a fold out/swin_unet_conv_fold0_seed0."""
        of_fold = f"fold{fold.number}_" if fold else ""
        return self.out / f"{folder_name(self.name)}_{of_fold}seed{seed}"

    def train(self, seed: int) -> None:
        """All runs of one seed, unless they are trained."""
        for fold in self.folds:
            self.train_once(self.folder(seed, fold), seed, fold, self.epochs)

    def seconds_per_epoch(self) -> float:
        """Measured in a run of one epoch, validation included."""
        folder = self.out / f"{folder_name(self.name)}_trial"
        self.train_once(folder, self.seeds[0], self.folds[0], epochs=1)
        return float(read_log(folder)[1]["seconds"])

    def minutes(self) -> float:
        """Of one run, validation included; the mean over the runs."""
        seconds = [line.get("seconds", 0.0) for folder, _, _ in self.runs for line in read_log(folder)]
        return sum(seconds) / len(self.runs) / 60

    def train_once(self, folder: Path, seed: int, fold: Fold | None, epochs: int) -> None:
        """Start a run, or continue it from where it was stopped; nothing if it is finished.

        Raises:
            ValueError: if the script ended with an error, which it has printed.
            KeyboardInterrupt: if it was interrupted.
        """
        if "best epoch" in read_log(folder)[-1]:
            return
        of_fold = ["--folds", str(fold.of), "--fold", str(fold.number)] if fold else []
        command = [sys.executable, str(self.script), "--out", str(folder), *self.flags, *of_fold]
        command += ["--epochs", str(epochs), "--seed", str(seed)]
        if (folder / "recipe.json").exists():  # it was stopped after it had begun to train
            command.append("--resume")
        print(f"\n$ {shlex.join(command)}", flush=True)
        code = run(command)
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise ValueError(f"the training of {self.name} with seed {seed} ended with the error above.")


def run(command: Sequence[str]) -> int:
    """The exit code of a command, whose output is shown."""
    return subprocess.run(command).returncode


def folder_name(name: str) -> str:
    """swin_unet_conv of "Swin-UNet (conv)"."""
    return re.sub(r"\W+", "_", name.lower()).strip("_")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log of a run, or one empty line: first the settings, then one per epoch, last the test."""
    file = folder / "log.jsonl"
    return (RunLog(file, enabled=False).lines() if file.exists() else []) or [{}]


def keep_settings(file: Path, settings: Mapping[str, Any], *, what: str) -> None:
    """Write the settings into the folder of several runs; if it holds some, they must be the same.

    A setting that is None counts as one that is missing: an older version may not have known it.

    Args:
        what: the runs are, together: "comparison".

    Raises:
        ValueError: if the folder holds runs with other settings, or files of something else.
    """
    settings = json.loads(json.dumps({name: v for name, v in settings.items() if v is not None}, default=str))
    if file.exists():
        if read_settings(file) != settings:
            raise ValueError(f"{file.parent} holds a {what} with other settings or data. Choose another --out.")
    elif any(path.name[0] != "." for path in file.parent.iterdir()):
        raise ValueError(f"{file.parent} is not empty, and holds no {what}. Choose another --out.")
    with whole_file(file) as partial:
        partial.write_text(json.dumps(settings, indent=1) + "\n")


def read_settings(file: Path) -> dict[str, Any] | None:
    """Those that are set; None if the file is damaged."""
    try:
        return {name: value for name, value in json.loads(file.read_text()).items() if value is not None}
    except (ValueError, AttributeError):
        return None
