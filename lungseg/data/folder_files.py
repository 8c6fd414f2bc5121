"""The files in a folder of slices or volumes: which belong to it, which file has an id, what is there instead."""

from collections import Counter
from pathlib import Path

HOMES = {"slices": "images", "volumes": "volumes"}  # what a folder may hold -> its subfolder
OTHER_PICTURES = (".jpg", ".jpeg", ".bmp", ".tif", ".tiff")  # what prepare_data.py reads besides PNG
LEFT_BY_SYSTEMS = ("__macosx", "thumbs.db", "desktop.ini")


def manifest_path(folder: Path) -> Path:
    """DIR/manifest.csv, or a file that differs from it only in capitals, which on some systems are the same name."""
    return next((p for p in sorted(folder.iterdir()) if p.name.lower() == "manifest.csv"), folder / "manifest.csv")


def held_kind(folder: Path) -> str:
    """What a folder holds: "volumes" if there is volumes/ and no images/, otherwise "slices"."""
    only_volumes = (folder / HOMES["volumes"]).is_dir() and not (folder / HOMES["slices"]).is_dir()
    return "volumes" if only_volumes else "slices"


def members(home: Path) -> list[Path]:
    """The PNGs of images/ or masks/; the .npz files and the folders of volumes/. Suffixes may be in capitals."""
    if home.name != HOMES["volumes"]:
        return pictures(home)
    return [p for p in visible(home) if p.suffix.lower() == ".npz" or p.is_dir()]


def pictures(folder: Path) -> list[Path]:
    """The PNGs in a folder."""
    return [p for p in visible(folder) if p.suffix.lower() == ".png"]


def visible(folder: Path) -> list[Path]:
    """The entries of a folder, without those that systems leave there, such as "._a.png" and __MACOSX of macOS."""
    return sorted(p for p in folder.iterdir() if p.name[0] != "." and p.name.lower() not in LEFT_BY_SYSTEMS)


def find_member(home: Path, id_: str) -> Path:
    """The file of an id in images/, masks/ or volumes/; its suffix is lower case unless the file has it in capitals."""
    suffix = ".npz" if home.name == HOMES["volumes"] else ".png"
    names = [id_ + s for s in (suffix, suffix.upper(), suffix.title())]
    return next((home / name for name in names if (home / name).exists()), home / names[0])


def other_files(folder: Path, suffix: str) -> str:
    """The end of a sentence on what is there instead of files with that suffix; "" if there is nothing."""
    counts = Counter("".join(p.suffixes[-2:] if p.suffix == ".gz" else [p.suffix]) for p in visible(folder))
    found = [(ending, n) for ending, n in counts.most_common(3) if ending]
    if not found:
        return ""
    return f"; only {suffix} is read, and there are {' and '.join(f'{n} {ending}' for ending, n in found)}"


def how_to_convert(folder: Path) -> str:
    """What to do about images of another format: for pictures, the command that makes a folder of them."""
    image, mask = (most_common_suffix(folder / name) for name in ("images", "masks"))
    if image.lower() not in OTHER_PICTURES:
        return "Convert them"
    patterns = f"--images 'images/*{image}' --masks 'masks/*{mask or '.png'}'"
    return f"Convert them: prepare_data.py {folder} {patterns} --out NEW_FOLDER"


def most_common_suffix(home: Path) -> str:
    """The suffix of most files in a folder; "" if there are none."""
    found = Counter(p.suffix for p in (visible(home) if home.is_dir() else []))
    return found.most_common(1)[0][0] if found else ""


def member_id(path: Path) -> str:
    """The id of a file or of the folder of a volume (a folder called 1.2.840 has no suffix)."""
    return path.name if path.is_dir() else path.stem
