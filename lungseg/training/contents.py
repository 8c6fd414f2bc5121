"""What was in the data when a run began, so that it is not resumed with other data. Kept in the folder of the run:

    data.json    {"images/a.png": [bytes, time of the last change in nanoseconds, SHA-256], ...}

Sizes and times are compared first, and only files in which they differ are read: a copied folder has other times and
the same contents, an edited mask has another digest.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from lungseg.data.classes import classes_file
from lungseg.data.folder_files import manifest_path, members
from lungseg.files import regular_file, whole_file

FILE = "data.json"
Contents = dict[str, list]  # name of a file, with "/" between folders -> its size, time and digest


def list_contents(
    folder: str | Path,
    known: Mapping[str, list] | None = None,
    *,
    readers: bool = False,
    negatives: Sequence[str] = (),
) -> Contents:
    """The files that a run reads from a folder of slices or of volumes, with their sizes, times and digests.

    Args:
        known: the result of an earlier call (`read_contents`): files of the same size and time are not read again.
        readers: whether the run reads the outlines of each reader too, for soft targets.
        negatives: further folders that it reads; their files are called "negatives 1/images/a.png".
    """
    known, found = known or {}, {}
    homes = {"": Path(folder)} | {f"negatives {n}/": Path(home) for n, home in enumerate(negatives, start=1)}
    files = [(prefix + path.relative_to(home).as_posix(), path) for prefix, home in homes.items()
             for path in data_files(home, readers=readers and not prefix)]  # fmt: skip
    for name, path in tqdm(files, desc="digests", unit="file", leave=False, disable=None):
        stat = os.stat(path)
        before = known.get(name, ())
        if list(before[:2]) != [stat.st_size, stat.st_mtime_ns]:
            before = [stat.st_size, stat.st_mtime_ns, file_digest(path)]
        found[name] = list(before)
    return found


def data_files(folder: Path, *, readers: bool = False) -> list[Path]:
    """manifest.csv, classes.txt if there is one, and the files in images/, masks/ or volumes/ (and readers/)."""
    files = [file for file in (manifest_path(folder), classes_file(folder)) if file]
    for home in ("images", "masks", "volumes", *(["readers"] if readers else [])):
        for member in members(folder / home) if (folder / home).is_dir() else ():
            files += sorted(member.glob("*.npy")) if member.is_dir() else [member]
    return files


def file_digest(path: Path) -> str:
    with open(regular_file(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(contents: Contents) -> str:
    """One short digest of all names and contents, which a checkpoint keeps; times are not part of it."""
    text = "\n".join(f"{name} {contents[name][2]}" for name in sorted(contents))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def differences(before: Contents, now: Contents) -> str:
    """Which files were changed, added or removed, for a sentence: "masks/a.png (changed), and 11 more"."""
    changes = [
        f"{name} ({'added' if name not in before else 'removed' if name not in now else 'changed'})"
        for name in sorted(before.keys() | now.keys())
        if before.get(name, [None] * 3)[2] != now.get(name, [None] * 3)[2]
    ]
    more = f", and {len(changes) - 1} more" if len(changes) > 1 else ""
    return f"{changes[0]}{more}" if changes else ""


# ---- the file ---------------------------------------------------------------------------------------------------


def write_contents(out: str | Path, contents: Contents) -> None:
    """Write data.json into the folder of a run, whole or not at all."""
    with whole_file(Path(out, FILE)) as partial:
        partial.write_text(json.dumps(contents, indent=0) + "\n")


def read_contents(out: str | Path) -> Contents:
    """What `write_contents` wrote. Entries that are missing or damaged are left out: those files are read again."""
    try:
        contents = json.loads(regular_file(Path(out, FILE)).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(contents, dict):
        return {}
    return {name: entry for name, entry in contents.items() if is_entry(entry)}


def is_entry(entry: object) -> bool:
    return isinstance(entry, list) and list(map(type, entry)) == [int, int, str]
