"""One process at a time writes into the folder of a run.

    with locked("runs/mine"):
        ...

The system releases the lock when the process that holds it ends, however it ends: a killed run blocks nobody.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # no link, no pipe
HELD = (errno.EACCES, errno.EAGAIN)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # some network disks have none


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Lock `folder` for this process, creating it if necessary. At the end, folders created here are removed if empty.

    The worker processes of a DataLoader do not hold it, so a killed run whose workers are still alive blocks nobody.

    Raises:
        ValueError: if it is a file, or if another process holds it, on this machine or, on a shared disk, on another.
            (Threads of one process are not kept apart.)
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Choose another folder with --out.")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        file = take(folder)
        try:
            yield
        finally:
            with suppress(OSError):
                (folder / NAME).unlink()  # while we still hold it: afterwards it may belong to the next owner
            file.close()
    finally:
        with suppress(OSError):  # stops at the first that is not empty
            for path in made:
                path.rmdir()


def take(folder: Path) -> TextIOWrapper:
    """The open lock file; closing it releases the lock."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            number = os.open(folder / NAME, FLAGS, 0o666)
        except FileNotFoundError:  # another process has just ended here and removed the folder
            continue
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise ValueError(f"{folder / NAME} is not a lock file of lungseg. Remove it, or choose another --out.")
        file = os.fdopen(number, "r+")
        try:
            # The lock belongs to the process, not to the open file: forked children do not inherit it.
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                owner = read_owner(file)
                file.close()
                if error.errno not in HELD:
                    raise
                raise ValueError(
                    f"{folder} is in use by {owner}, which writes there. Wait until it ends, or choose another --out."
                ) from None
        if is_still_there(file, folder / NAME):
            file.truncate(0)
            print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
            return file
        file.close()  # its last owner removed it between our opening and our locking


def read_owner(file: TextIOWrapper) -> str:
    """Who holds the lock, in words. Read from the open file: closing a second handle would release our own locks."""
    file.seek(0)
    return file.read(200).strip() or "another process"


def is_still_there(file: TextIOWrapper, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
