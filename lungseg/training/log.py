"""The log of a run, log.jsonl: first the settings, then one line per epoch, last the test scores."""

import json
import math
import os
from pathlib import Path
from typing import Any

from lungseg.files import naming

EPOCH_LINE = {"epoch": int, "train_loss": float | int | None, "val": dict, "lr": float | int}  # of the log


class RunLog:
    """One JSON object per line. Its position is part of a checkpoint, so that no line appears twice.

    Args:
        path: for example run/log.jsonl.
        position: None starts a new file; otherwise everything after this byte is cut off, and writing continues there.
        enabled: False writes nothing (all processes but the main one).

    Raises:
        ValueError: if the part before `position` is not as it was written.
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
            self.lines()  # an error now, not after the last epoch

    def write(self, **line: Any) -> None:
        """Append one line, forced onto the disk before a checkpoint counts it. NaN and infinity become null."""
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
        """All lines.

        Raises:
            ValueError: naming the first line that was not written here, for example after a slip in an editor.
        """
        try:
            lines = self.path.read_text().splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"{self.path} is damaged: it is not text.") from None
        return [parsed_line(line, f"{self.path}, line {number}") for number, line in enumerate(lines, 1)]


def parsed_line(text: str, where: str) -> dict[str, Any]:
    """A JSON object, in which the numbers that the curves are drawn from have the right types."""
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if not isinstance(line, dict):
        raise ValueError(f"{where} is damaged: expected a JSON object, got {text[:40]!r}. Restore it.")
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
