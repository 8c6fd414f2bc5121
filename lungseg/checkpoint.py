"""Checkpoints that survive a crash, and that run no code when they are read.

A checkpoint is a dict of plain types and tensors. Its file is what `torch.save` writes, a zip archive, with
the SHA-256 of everything before it as the archive's comment: plain `torch.load` and `unzip -z` read it too.
"""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from lungseg.files import regular_file, whole_file

TAG = b"sha256:"
COMMENT_LENGTH = len(TAG) + 64  # the digest in hexadecimal
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch.save began before they were archives


def save_checkpoint(path: str | Path, state: dict[str, Any], *, keep_previous: bool = False) -> None:
    """Write `state` so that at any moment, power cut included, `path` holds all of it or what it held before.

    The bytes go to a temporary file in the same folder and are forced onto the disk before the rename, which
    is atomic; then the folder itself is forced, so that the rename is not lost.

    Args:
        path: for example run/last.pt.
        state: dicts, lists, tuples, numbers, strings, None and tensors; nothing else could be read back.
        keep_previous: first rename the file that stands there to `previous_path(path)` (run/last.prev.pt).
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
    torch.save(state, buffer)
    archive = buffer.getvalue()
    # A zip archive ends with the length of its comment (two bytes, little-endian; here 0) and the comment.
    body = archive[:-2] + COMMENT_LENGTH.to_bytes(2, "little")
    return body + TAG + hashlib.sha256(body).hexdigest().encode()


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, all tensors on the CPU.

    Raises:
        ValueError: in one sentence, if the file is missing, cut short, changed, or not one of ours. A file
            whose checksum is wrong is not unpickled at all; a right one is, with `weights_only=True`.
    """
    path = Path(path)
    try:
        data = regular_file(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}). Give a checkpoint such as run/best.pt.") from None
    body, comment = data[:-COMMENT_LENGTH], data[-COMMENT_LENGTH:]
    if is_foreign(data):
        raise ValueError(
            f"{path} was not written by lungseg, but by torch.save. To start a training from its weights, give it to "
            f"--weights; here, give a file that one of the training scripts wrote."
        )
    if not data.startswith(b"PK"):
        raise ValueError(f"{path} is no checkpoint of lungseg. Give a file that one of its training scripts wrote.")
    if comment != TAG + hashlib.sha256(body).hexdigest().encode():
        raise ValueError(f"{path} is damaged: its checksum is wrong or missing. Use another checkpoint of that run.")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a checksum can be forged; what weights_only refuses is still not executed
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} holds more than tensors and plain values, so it is not read ({reason}).") from None


def is_foreign(data: bytes) -> bool:
    """Are these bytes a whole file of `torch.save` that never had a checksum? (One of ours, cut or changed, is not.)"""
    end = data[-22:]  # the last record of a zip archive without a comment: its signature, and the comment's length
    return data.startswith(LEGACY) or (data.startswith(b"PK") and end.startswith(b"PK\5\6") and end.endswith(b"\0\0"))


def is_sealed(path: str | Path) -> bool:
    """Does a file end like those of `save_checkpoint`? `load_checkpoint` knows whether it is whole.

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

    A damaged file is reported on standard output and renamed to run/last.damaged.pt, so that the good one
    before it is not pushed out by it at the next save.

    Raises:
        ValueError: if files stand there and none of them is good.
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
            print(f"{error} It is now called {damaged.name}; the checkpoint before it is tried.")
    if any(path.parent.glob(f"{path.stem}*.damaged{path.suffix}")):
        raise ValueError(f"{path.parent} holds no checkpoint that can be read. Start the run again in a new folder.")
    return None
