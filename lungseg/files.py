"""Writing and opening files safely.

A file or folder of results is written completely or not at all, and never over existing files. Only regular files are
opened: opening a pipe waits forever, and reading a device may never end.
"""

import errno
import os
import re
import shutil
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path


def regular_file(path: str | Path) -> Path:
    """The path of a file that is safe to open, or of a link to one; every reader calls this before it opens a file.

    Raises:
        OSError: if it is missing, or a pipe, a device or a socket. (A folder passes: opening it fails anyway.)
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe, a device or a socket, not a regular file", str(path))
    return Path(path)


def is_free(folder: str | Path) -> bool:
    """Whether a folder is new or empty, so that results can be written there (`whole_folder`)."""
    folder = Path(folder)
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def check_free(folder: str | Path) -> None:
    """Raise a ValueError that mentions --out unless `folder` is new or empty."""
    if not is_free(folder):
        raise ValueError(f"{folder} is not empty. Choose another folder with --out.")


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A hidden folder next to `folder` that gets its name at the end, when it is complete.

        with whole_folder("predictions") as out:
            (out / "slices.csv").write_text(...)

    An error or Ctrl-C inside the `with` removes the hidden folder and propagates. Parent folders are created as needed.

    Args:
        folder: a new or an empty folder.

    Raises:
        OSError: at the end, if `folder` is no longer empty. What was written is removed.
    """
    folder = Path(folder).resolve()  # of a link, the folder it leads to: renaming cannot replace a link
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process with our process id
    partial.mkdir(parents=True)
    try:
        yield partial
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # after the rename there is nothing to remove


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A hidden file next to `path` that gets its name at the end; an error or Ctrl-C inside the `with` removes it.

    Raises:
        OSError: naming `path`, also where the system does not name a file, as on a full disk.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with naming(path):
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # after the rename there is nothing to remove


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Add `path` to an OSError inside the `with` that names no file, as on a full disk: exits.py prints the name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def or_warn(what: str) -> Iterator[None]:
    """Turn an error inside the `with` into a warning: a failed picture must not cost the scores of a long run.

    Args:
        what: begins the sentence, such as "worst_median_best.png was not drawn".
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(f"{what} ({reason}). Everything else is there.", stacklevel=1)  # said once, however often


def path_below(folder: str | Path, name: str) -> Path:
    """The path of a new file in `folder`, with its parent folders created. Use it for all names that come from outside.

    Args:
        name: relative, with "/" between folders: masks/scan/000.png. Its parts may come from a manifest, a table or a
            file name.

    Raises:
        ValueError: if it would not be inside `folder`: an empty or absolute name, "." or "..", a link out of it.
    """
    path = Path(folder, name)
    parts = name.split("/")
    if {"", ".", ".."} & set(parts) or "\0" in name or not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(f"{name!r} would not be inside {folder}. Rename the input, or its row.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def free_id(wanted: str, used: set[str]) -> str:
    """`wanted`, or wanted_2, wanted_3, ... if another input already has that name; always a plain file name.

    The folder of a volume called scan.png may have the name of a slice's file; and to some disks A and a are the same.
    """
    wanted = re.sub(r"[/\\\x00-\x1f]", "_", wanted)
    wanted = wanted if wanted.strip(".") else f"scan{wanted}"
    names = chain([wanted], (f"{wanted}_{n}" for n in count(2)))
    id_ = next(name for name in names if used.isdisjoint({name.casefold(), f"{name}.png".casefold()}))
    used |= {id_.casefold(), f"{id_}.png".casefold()}
    return id_
