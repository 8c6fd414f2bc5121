"""A folder of results is written completely or not at all, and never over what somebody has there already.

And a file is opened only if it is one: opening a pipe waits for ever, and reading a device may have no end.
"""

import errno
import os
import shutil
import stat
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
    folder = Path(folder).absolute()
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process that had our number
    partial.mkdir(parents=True)
    try:
        yield partial
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # nothing is left there after the rename
