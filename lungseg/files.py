"""A folder of results is written completely or not at all, over nobody's files, and nothing lands beside it.

And a file is opened only if it is one: opening a pipe waits for ever, and reading a device may have no end.
"""

import errno
import os
import shutil
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def regular_file(path: str | Path) -> Path:
    """The path of a file, or of a link to one, that can be opened without harm; every reader asks before it opens.

    Raises:
        OSError: it is missing, or a pipe, a device or a socket. (A folder passes: opening one is an error at once.)
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe, a device or a socket, not a regular file", str(path))
    return Path(path)


def check_free(folder: str | Path) -> None:
    """Raise a ValueError, in the words of a script with --out, unless `folder` is new or empty."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty. Choose another folder with --out.")


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A hidden folder beside `folder` that takes its name at the end: whoever sees it sees all of it.

        with whole_folder("predictions") as out:
            (out / "slices.csv").write_text(...)

    An error or Ctrl-C inside the `with` removes the hidden folder, and goes on. Folders above are made as needed.

    Args:
        folder: a new or an empty folder.

    Raises:
        OSError: at the end, if `folder` holds something by then. What was written is removed.
    """
    folder = Path(folder).resolve()  # of a link to an empty folder, that folder: a link cannot be renamed over
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process that had our number
    partial.mkdir(parents=True)
    try:
        yield partial
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # nothing is left there after the rename


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A hidden file beside `path` that takes its name at the end; an error or Ctrl-C inside the `with` removes it.

    Raises:
        OSError: naming `path`, also where the system does not say which file it is about, as on a full disk.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with naming(path):
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # nothing is left there after the rename


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let an OSError inside the `with` name `path` if it names no file, as on a full disk: exits.py shows the name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def or_warn(what: str) -> Iterator[None]:
    """Go on with a warning if a picture fails inside the `with`: the scores beside it are worth more than hours.

    Args:
        what: begins the sentence, such as "worst_median_best.png was not drawn".
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(f"{what} ({reason}). Everything else is there.", stacklevel=1)  # said once, however often


def path_below(folder: str | Path, name: str) -> Path:
    """The place of a new file in `folder`; folders on the way are made. All files named by others get their place here.

    Args:
        name: relative, with "/" between folders: masks/scan/000.png. Its parts may come from a manifest, a table or the
            name of somebody's file.

    Raises:
        ValueError: if it would not lie below `folder`: an empty or absolute name, "." or ".." in it, a link out of it.
    """
    path = Path(folder, name)
    parts = name.split("/")
    if {"", ".", ".."} & set(parts) or "\0" in name or not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(f"{name!r} would not lie below {folder}. Rename the input, or its row.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
