"""One process at a time writes into the folder of a run.

    with locked("runs/mine"):
        ...

The system lets go of the lock when the process that holds it ends, however it ends: a killed run blocks nobody.
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
except ImportError:  # Windows: there two runs in one folder are not noticed
    fcntl = None

NAME = ".lock"
FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # no link, no pipe
HELD = (errno.EACCES, errno.EAGAIN)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # some network disks have none


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold `folder`, made if need be, for this process. At the end, folders made here that are empty are removed.

    The worker processes of a DataLoader do not hold it too, so a killed run whose workers still live blocks nobody.

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
                (folder / NAME).unlink()  # while it is still ours: afterwards it might be that of the next owner
            file.close()
    finally:
        with suppress(OSError):  # the first that is not empty
            for path in made:
                path.rmdir()


def take(folder: Path) -> TextIOWrapper:
    """The open lock file; closing it lets go."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            number = os.open(folder / NAME, FLAGS, 0o666)
        except FileNotFoundError:  # another process has just ended here and removed the folder
            continue
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise ValueError(f"{folder / NAME} is no file of ours. Remove it, or choose another --out.")
        file = os.fdopen(number, "r+")
        try:
            # A lock of the process, not of the open file: children made by fork do not inherit it.
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                owner = owner_of(file)
                file.close()
                if error.errno not in HELD:
                    raise
                raise ValueError(
                    f"{folder} is in use by {owner}: that run writes there. Wait for its end, or choose another --out."
                ) from None
        if is_still_there(file, folder / NAME):
            file.truncate(0)
            print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
            return file
        file.close()  # its last owner has removed it between our opening and our locking


def owner_of(file: TextIOWrapper) -> str:
    """Who holds it, in words. Read from the file that is open: closing another one of it would let go of our locks."""
    file.seek(0)
    return file.read(200).strip() or "another process"


def is_still_there(file: TextIOWrapper, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
