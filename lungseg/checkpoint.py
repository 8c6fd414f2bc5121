"""Checkpoints: what they hold, and files of them that survive a crash and run no code when they are read.

A checkpoint is a dict of plain types and tensors; `Checkpoint` names its entries. Its file is what `torch.save` writes,
a zip archive, with the SHA-256 of everything before it as the archive's comment: plain `torch.load` and `unzip -z`
read it too.
"""

import copy
import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lungseg.files import regular_file, whole_file
from lungseg.typed import RESTORE, expect

TAG = b"sha256:"
COMMENT_LENGTH = len(TAG) + 64  # the digest in hexadecimal
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch.save began before they were archives
PARTS = {  # what a training run is resumed from, and the types
    "model": dict, "optimizer": dict, "stopping": dict, "recipe": dict, "run": dict, "network": dict, "input": dict,
    "log_position": int, "rng": list, "data": str | None,
}  # fmt: skip
STOPPING = {"best": float | int | None, "best_epoch": int | None, "epochs": int, "stop": bool}
LATER = ("classes", "neighbours", "whole_size", "slice_mm")  # entries of the input that older files lack
OPTIONAL = ("schedule", "plateau", "scaler", "ema", "decision")  # what a training may have


# ---- what a checkpoint holds ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetworkSpec:
    """How to build a network again: the name of its class, such as "SwinUNet", and its keyword arguments."""

    name: str
    arguments: dict[str, Any]

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> "NetworkSpec":
        """From the "network" of a checkpoint; a KeyError if an entry is missing."""
        return cls(entries["name"], entries["arguments"])

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": self.arguments}


@dataclass(frozen=True)
class InputSpec:
    """What the images of a training were: grey values, size and scale (explained in `lungseg.scale`), lesion classes.

    Attributes:
        size: sides of what the network was trained on, in training pixels: (H, W) or (D, H, W).
        scale: training pixels per pixel of the files, along each side.
        hu_window: (low, high), the HU that are black and white.
        spacing_mm: of a pixel of the files, one number or one per side; None is unknown.
        source_scale: training pixels per pixel of the sources; None is unknown, as in older checkpoints.
        stretched: slices of several sizes were all resized to `size`, so there is no one scale.
        classes: names of the lesion classes; () if there is one, lesion.
        neighbours: slices below and above each slice that are channels of its image; 0 in older checkpoints.
        whole_size: sides of most whole slices, in training pixels, if `size` is that of crops of them; else None.
        slice_mm: between slices of the volumes, which were all resampled to it; None: they were left as they were.
    """

    size: tuple[int, ...]
    scale: tuple[float, ...]
    hu_window: tuple[float, float]
    spacing_mm: float | tuple[float | None, ...] | None
    source_scale: tuple[float, ...] | None = None
    stretched: bool = False
    classes: tuple[str, ...] = ()
    neighbours: int = 0
    whole_size: tuple[int, ...] | None = None
    slice_mm: float | None = None

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> "InputSpec":
        """From the "input" of a checkpoint.

        Raises:
            KeyError, TypeError, ValueError: if an entry is missing or has no such form.
        """
        spacing, sources, whole = entries["spacing_mm"], entries.get("source_scale"), entries.get("whole_size")
        low, high = entries["hu_window"]
        return cls(
            size=tuple(entries["size"]),
            scale=tuple(entries["scale"]),
            hu_window=(low, high),
            spacing_mm=tuple(spacing) if isinstance(spacing, list | tuple) else spacing,
            source_scale=None if sources is None else tuple(sources),
            stretched=bool(entries.get("stretched", False)),
            classes=tuple(entries.get("classes", ())),
            neighbours=int(entries.get("neighbours", 0)),
            whole_size=None if whole is None else tuple(whole),
            slice_mm=entries.get("slice_mm"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, lists in place of tuples; without the entries of `LATER` that are empty, as in older files."""
        entries = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}
        return {name: v for name, v in entries.items() if v or name not in LATER}


@dataclass(frozen=True)
class Checkpoint:
    """Everything a training run is resumed from, and a network is rebuilt from.

    Attributes:
        model, optimizer, stopping, schedule, plateau, scaler, ema: their state_dict; None for what the training lacks.
        network, input: what to build, and for which images.
        recipe: the fields of the recipe.
        run: all that must not change when the run is resumed: the recipe, the seed, the data, ...
        data: folder of the data; None for phantoms.
        log_position: length of log.jsonl in bytes.
        rng: states of the random generators, one per process.
        decision: of best.pt, once the training has ended: `lungseg.decision.Decision.to_dict`.
        version: of lungseg.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    stopping: dict[str, Any]
    network: NetworkSpec
    input: InputSpec
    recipe: dict[str, Any]
    run: dict[str, Any]
    data: str | None
    log_position: int
    rng: list[dict[str, Any]]
    schedule: dict[str, Any] | None = None
    plateau: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    ema: dict[str, Any] | None = None
    decision: dict[str, Any] | None = None
    version: str = ""

    @classmethod
    def from_dict(cls, entries: Any, path: Path) -> "Checkpoint":
        """From what `load_checkpoint` read.

        Raises:
            ValueError: naming the file and the entry that is missing or of another type.
        """
        expect(entries, PARTS, str(path))
        expect(entries["stopping"], STOPPING, f"{path}: stopping")
        expect(entries["network"], {"name": str, "arguments": dict}, f"{path}: network")
        for name, value in (("log_position", entries["log_position"]), ("epochs", entries["stopping"]["epochs"])):
            if value < 0:
                raise ValueError(f"{path} is damaged: {name} is {value}. {RESTORE}")
        try:
            input_ = InputSpec.from_dict(entries["input"])
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: its input cannot be read ({error!r}). {RESTORE}") from None
        parts = {name: entries[name] for name in PARTS} | {name: entries.get(name) for name in OPTIONAL}
        parts |= {"network": NetworkSpec.from_dict(entries["network"]), "input": input_}
        return cls(**parts, version=str(entries.get("lungseg", "")))

    def to_dict(self) -> dict[str, Any]:
        """Plain types and tensors, for `save_checkpoint`."""
        entries = vars(self) | {"network": self.network.to_dict(), "input": self.input.to_dict()}
        entries["lungseg"] = entries.pop("version")
        return {name: value for name, value in entries.items() if value is not None or name not in OPTIONAL}


def refuse_folds(saved: Mapping[str, Any], path: str | Path) -> None:
    """Raise a ValueError if a network was trained in a cross-validation: on patients that the manifest calls "val".

    Args:
        saved: what `load_checkpoint` read from `path`.
    """
    recipe = saved.get("recipe", {})
    if recipe.get("folds"):
        raise ValueError(
            f"{path} was trained with --folds {recipe['folds']} --fold {recipe['fold']}, so it has learned from "
            f"patients of the split val. Use --split test; its validation scores are in log.jsonl beside it."
        )


# ---- files ------------------------------------------------------------------------------------------------------


def save_checkpoint(path: str | Path, state: dict[str, Any], *, keep_previous: bool = False) -> None:
    """Write `state` so that at any moment, even after a power cut, `path` holds all of it or what it held before.

    The bytes go to a temporary file in the same folder and are forced onto the disk before the rename, which is atomic;
    then the folder itself is forced onto the disk, so that the rename is not lost.

    Args:
        path: for example run/last.pt.
        state: dicts, lists, tuples, numbers, strings, None and tensors; nothing else can be read back.
        keep_previous: first rename the existing file to `previous_path(path)` (run/last.prev.pt).
    """
    path = Path(path)
    with whole_file(path) as partial:
        with open(partial, "wb") as file:
            file.write(sealed(state))
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and path.exists():
            os.replace(path, previous_path(path))
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sealed(state: dict[str, Any]) -> bytes:
    """The bytes of `torch.save`, with their checksum as the zip comment."""
    buffer = io.BytesIO()
    torch.save(on_cpu(state), buffer)
    archive = buffer.getvalue()
    # A zip archive ends with the length of its comment (two bytes, little-endian; here 0) and the comment.
    body = archive[:-2] + COMMENT_LENGTH.to_bytes(2, "little")
    return body + TAG + hashlib.sha256(body).hexdigest().encode()


def on_cpu(value: Any) -> Any:
    """The same with its tensors on the CPU: plain `torch.load` cannot read those of a GPU on a machine without one."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        copied = copy.copy(value)  # keeps its class, and the versions that `state_dict` attaches to it
        copied.update((name, on_cpu(entry)) for name, entry in value.items())
        return copied
    return type(value)(map(on_cpu, value)) if type(value) in (list, tuple) else value


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, all tensors on the CPU.

    Raises:
        ValueError: in one sentence, if the file is missing, cut short, changed, or not one of ours. A file with a wrong
            checksum is not unpickled at all; one with the right checksum is, with `weights_only=True`.
    """
    path = Path(path)
    try:
        data = regular_file(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}). Give a checkpoint such as run/best.pt.") from None
    body, comment = data[:-COMMENT_LENGTH], data[-COMMENT_LENGTH:]
    if is_foreign(data):
        raise ValueError(
            f"{path} was not written by lungseg, but by torch.save. To start training from its weights, give it to "
            f"--weights; here, give a file that one of the training scripts wrote."
        )
    if not data.startswith(b"PK"):
        raise ValueError(f"{path} is not a checkpoint of lungseg. Give a file that one of its training scripts wrote.")
    if comment != TAG + hashlib.sha256(body).hexdigest().encode():
        raise ValueError(f"{path} is damaged: its checksum is wrong or missing. Use another checkpoint of that run.")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a checksum can be forged; what weights_only refuses is still not executed
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} holds more than tensors and plain values, so it is not read ({reason}).") from None


def is_foreign(data: bytes) -> bool:
    """Whether these bytes are a whole file of `torch.save` without our checksum (not one of ours, cut or changed)."""
    end = data[-22:]  # the last record of a zip archive without a comment: its signature, and the comment's length
    return data.startswith(LEGACY) or (data.startswith(b"PK") and end.startswith(b"PK\5\6") and end.endswith(b"\0\0"))


def is_sealed(path: str | Path) -> bool:
    """Whether a file ends like those of `save_checkpoint`; only `load_checkpoint` checks whether it is complete.

    Raises:
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - COMMENT_LENGTH))
        return file.read(COMMENT_LENGTH).startswith(TAG)


def previous_path(path: str | Path) -> Path:
    """run/last.pt -> run/last.prev.pt"""
    path = Path(path)
    return path.with_name(f"{path.stem}.prev{path.suffix}")


def load_latest(path: str | Path) -> dict[str, Any] | None:
    """The checkpoint at `path`, or the one before it, or None if there is neither.

    A damaged file is reported on standard output and renamed to run/last.damaged.pt, so that the next save does not
    replace the good checkpoint before it.

    Raises:
        ValueError: if there are files and none of them can be read.
    """
    path = Path(path)
    for candidate in (path, previous_path(path)):
        if not candidate.exists():
            continue
        try:
            return load_checkpoint(candidate)
        except ValueError as error:
            damaged = path.with_name(f"{candidate.stem}.damaged{path.suffix}")
            os.replace(candidate, damaged)
            print(f"{error} It is now called {damaged.name}; trying the checkpoint before it.")
    if any(path.parent.glob(f"{path.stem}*.damaged{path.suffix}")):
        raise ValueError(f"{path.parent} holds no checkpoint that can be read. Start the run again in a new folder.")
    return None
