"""The folder of slices, our one interchange format: write it, check it, train on it.

    DIR/images/<id>.png     8-bit grey; HU window [-1000, 400] unless the manifest says otherwise
    DIR/masks/<id>.png      8-bit, 0 = background, 255 (or 1) = lesion, same size
    DIR/classes.txt         only with several lesion classes: masks then hold 1..K (lungseg.data.classes)
    DIR/manifest.csv        id, group, split, label, spacing_mm, ...  (group = patient or like slices)

Any PNG viewer shows it, any spreadsheet opens its table, and any other program can make one.
"""

import io
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from lungseg.data.classes import (
    HINT,
    check_labels,
    checked_classes,
    format_values,
    one_hot,
    read_classes,
    unused_classes,
    write_classes,
)
from lungseg.data.ct import hu_to_grey, resize_image, resize_target
from lungseg.data.manifest import (
    FRACTIONS,
    ImageRecord,
    check_id,
    check_record,
    find_member,
    members,
    parse_manifest,
    read_split,
    write_manifest,
)
from lungseg.data.phantoms.scene import phantom_crops, phantom_patient
from lungseg.data.plausible import LesionExtent, Tally, odd_grey, same_picture
from lungseg.data.splits import check_disjoint, split_by_group
from lungseg.files import regular_file

CACHE_BYTES = 2**30  # decoded slices are kept in memory when the data set needs no more (in each worker process)


MAX_PNG_BYTES = 2**28  # more than 16-bit slices of the most pixels that Pillow opens
ORIENTATION = 0x0112  # the tag of EXIF; 1 = as stored


# ---- reading and checking pictures -------------------------------------------------------------------------


def read_slice(
    folder: str | Path, record: ImageRecord, classes: Sequence[str] = ()
) -> tuple[NDArray, NDArray[np.uint8]]:
    """Image (H, W) uint8 (or uint16 if the record says 16 bits) and target (H, W) uint8 in {0, 1}.

    Args:
        classes: `read_classes(folder)`. If there are several, the target is a label map 0..K.

    Raises:
        ValueError: naming the file, what is wrong with it, and what to do.
    """
    image_path, target_path = (find_member(Path(folder, name), record.id) for name in ("images", "masks"))
    image = read_grey_png(image_path, record.bits)
    target = read_grey_png(target_path, 8)
    if image.shape != target.shape:
        sizes = [f"{a.shape[0]} x {a.shape[1]}" for a in (target, image)]
        raise ValueError(f"{target_path} is {sizes[0]} but its image is {sizes[1]} pixels. Export both at one size.")
    values = np.flatnonzero(np.bincount(target.ravel(), minlength=256)).tolist()
    if len(classes) > 1:
        try:
            check_labels(values, classes)
        except ValueError as error:
            raise ValueError(f"{target_path} {error}") from None
        return image, target
    if not (set(values) <= {0, 1} or set(values) <= {0, 255}):
        raise ValueError(
            f"{target_path} holds the values {format_values(values)}. A mask holds 0 and 255 (or 0 and 1) only: "
            f"binarise it, and resize masks without interpolation. {HINT}"
        )
    return image, (target > 0).astype(np.uint8)


def slice_size(folder: str | Path, record: ImageRecord) -> tuple[int, int]:
    """(H, W) in pixels, from the first bytes of the file of a sound slice."""
    with Image.open(find_member(Path(folder, "images"), record.id)) as picture:
        return picture.height, picture.width


KINDS = {  # what Pillow calls the modes of a PNG, and we
    "1": "1-bit", "L": "8-bit", "I": "16-bit", "I;16": "16-bit", "I;16B": "16-bit",
    "P": "palette", "PA": "palette", "LA": "grey with alpha", "RGB": "RGB", "RGBA": "RGB with alpha",
}  # fmt: skip


def read_grey_png(path: Path, bits: int) -> NDArray:
    """(H, W) uint8 or uint16; a ValueError unless the file is an undamaged grey PNG of that depth, shown as it is."""
    try:
        if regular_file(path).stat().st_size > MAX_PNG_BYTES:
            raise ValueError(f"{path} has more than {MAX_PNG_BYTES >> 20} MiB, too many for a slice. Export it again.")
        data = io.BytesIO(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing{instead_of(path)}, or remove its partner and its manifest row.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.open(data, formats=("PNG",)).verify()  # the checksum of every chunk, and the end marker
        picture = Image.open(data, formats=("PNG",))
        frames = getattr(picture, "n_frames", 1)
        picture.load()
        turned = picture.getexif().get(ORIENTATION, 1) != 1
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path} is not a PNG image. Export it again as PNG.") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"{path} claims more than {Image.MAX_IMAGE_PIXELS} pixels. Export one slice.") from None
    except MemoryError:
        raise ValueError(f"{path} needs more memory than there is. Make it smaller.") from None
    except Exception as error:  # Pillow reports damage as OSError, SyntaxError, struct.error, zlib.error, ...
        raise ValueError(f"{path} is damaged or cut short ({error}). Copy or export it again.") from None
    kind = KINDS.get(picture.mode, picture.mode)
    if frames > 1:
        raise ValueError(f"{path} is an animation of {frames} pictures. Export each as a PNG of its own.")
    if turned:
        raise ValueError(f"{path} asks viewers to turn or mirror it (EXIF orientation). Turn its pixels instead.")
    if kind != f"{bits}-bit":
        hint = ""
        if path.parent.name in ("images", "masks") and bits == 8:  # of a folder, not a lone picture
            hint = ", or the whole folder with prepare_data.py --images --masks"
            hint = " (or write bits = 16 in the manifest)" if (kind, path.parent.name) == ("16-bit", "images") else hint
        raise ValueError(f"{path} is a {kind} PNG, {bits}-bit grey is wanted. Convert it to {bits}-bit grey{hint}.")
    return np.asarray(picture).astype(np.uint8 if bits == 8 else np.uint16)  # (H, W)


def grey_bits(path: Path) -> int:
    """16 for a PNG of that depth, 8 for any other (`read_grey_png` says what is wrong with it); from its header."""
    try:
        with Image.open(regular_file(path), formats=("PNG",)) as picture:
            return 16 if KINDS.get(picture.mode) == "16-bit" else 8
    except Exception:  # Pillow reports damage in many ways
        return 8


def instead_of(path: Path) -> str:
    """What to do about a file that is missing, after "it is missing": perhaps it is there under another name."""
    others = [path.stem + end for end in (".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".JPG", ".npy")]
    if path.parent.name == "masks":
        words = ("mask", "Mask", "label", "seg", "segmentation", "gt", "lesion")
        others += [f"{path.stem}{sep}{word}.png" for word in words for sep in "_-"]
        others += [f"{word}{sep}{path.stem}.png" for word in words for sep in "_-"]
    found = next((name for name in others if (path.parent / name).exists()), None)
    if found is None:
        return ". Add it"
    return f", but there is {found}. " + ("Rename it" if found.endswith(".png") else "Convert it to grey PNG")


def check_folder(folder: str | Path) -> list[str]:
    """One sentence for each thing that is wrong with a folder, and what to do; [] is a sound folder.

    What is odd (`lungseg.data.plausible`) in more than half of it is wrong too; in less, it is a warning.
    """
    folder = Path(folder)
    records, problems = parse_manifest(folder, "slices")
    try:
        classes, seen = read_classes(folder), set()
    except ValueError as error:  # no mask can be judged
        return [*problems, str(error)]
    tally = Tally(folder, "slices")
    for record in tqdm(records, desc="check", unit="slice", disable=None):  # None: quiet when not on a terminal
        try:
            image, target = read_slice(folder, record, classes)
        except ValueError as error:
            problems.append(str(error))
            continue
        tally.add(record.id, [odd_grey(image, record.bits) or same_picture(image, target)], LesionExtent(target))
        tally.add_image(record.id, record.split, image)
        seen.update(np.unique(target).tolist())
    if not problems:  # else a mask that cannot be read may hold it
        problems += [f"{folder}: {sentence}" for sentence in unused_classes(seen, classes)]
    problems += told(tally)
    if records or not problems:
        for home in filter(Path.is_dir, (folder / "images", folder / "masks")):
            known = {find_member(home, record.id) for record in records}
            problems += [
                f"{path} has no row in the manifest. Add one, or remove the file."
                for path in members(home)
                if path not in known
            ]
    return problems


def told(tally: Tally) -> list[str]:
    """The problems of a tally; its warnings are given here."""
    problems, warned = tally.verdict()
    for sentence in warned:
        warnings.warn(sentence, stacklevel=1)  # always this line, so that Python says each once
    return problems


# ---- writing -----------------------------------------------------------------------------------------------


class FolderWriter:
    """Write a folder of slices completely or not at all: `with FolderWriter(folder) as out: out.add(...)`.

    Everything goes to a hidden sibling, which takes the final name in one rename at the end. An error or
    Ctrl-C inside the `with` removes it: nobody ever trains on half a data set.

    Args:
        classes: names of the lesion classes, if the targets are label maps 0..K of several.
    """

    subfolders = ("images", "masks")

    def __init__(self, folder: str | Path, classes: Sequence[str] = ()):
        self.classes = checked_classes(classes) if classes else ()
        self.folder = Path(folder).absolute()
        self.path = self.folder.with_name(f".{self.folder.name}.partial-{os.getpid()}")  # where the files are for now
        self.records: list[ImageRecord] = []
        self._ids: dict[str, str] = {}  # those written, as `check_id` keeps them

    def __enter__(self) -> "FolderWriter":
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise ValueError(f"{self.folder} exists already. Remove it, or choose another folder.")
        shutil.rmtree(self.path, ignore_errors=True)  # left by a killed process that had our number
        for name in self.subfolders:
            (self.path / name).mkdir(parents=True)
        return self

    def add(self, record: ImageRecord, image: NDArray, target: NDArray) -> None:
        """Write one pair: image (H, W) uint8 or uint16 as record.bits says, target (H, W) in {0, 1} or {0..K}."""
        self._check(record)
        wanted, labels = np.uint8 if record.bits == 8 else np.uint16, range(max(1, len(self.classes)) + 1)
        if image.dtype != wanted or image.shape != target.shape or not np.isin(target, labels).all():
            raise ValueError(
                f"{record.id}: the image must be {np.dtype(wanted)}, the target of its shape in "
                f"{{{', '.join(map(str, labels))}}}, "
                f"got {image.dtype} {image.shape} and {target.dtype} {target.shape}."
            )
        Image.fromarray(image).save(self.path / "images" / f"{record.id}.png")
        mask = target.astype(np.uint8) * (1 if len(self.classes) > 1 else 255)
        Image.fromarray(mask).save(self.path / "masks" / f"{record.id}.png")
        self.records.append(record)

    def _check(self, record: ImageRecord) -> None:
        """Refuse, before anything is written, what a reader would refuse: an id such as "../x" leaves the folder."""
        check_record(record)
        before = len(self._ids)
        check_id(record.id, self._ids)
        if any("\ud800" <= c <= "\udfff" for c in record.id):  # what Python makes of bytes that are no text
            raise ValueError(f"id {record.id!r} is no text in UTF-8, so no manifest can hold it. Rename the file.")
        if len(self._ids) == before:
            raise ValueError(f"id {record.id!r} appears twice. Give every slice its own id.")

    def __exit__(self, error_type: type | None, *_: object) -> None:
        try:
            if error_type is None:
                check_disjoint(*([getattr(r, n) for r in self.records] for n in ("id", "group", "split")))
                write_manifest(self.path / "manifest.csv", self.records)
                write_classes(self.path, self.classes)
                os.rename(self.path, self.folder)
        finally:
            shutil.rmtree(self.path, ignore_errors=True)  # nothing is left there after the rename


def write_phantom_folder(
    folder: str | Path,
    *,
    view: str = "chest",
    num_patients: int = 40,
    slices_per_patient: int = 6,
    size: int = 256,
    seed: int = 0,
    fractions: dict[str, float] = FRACTIONS,
    **phantom_options: object,
) -> None:
    """Write phantom patients (lungseg.data.phantoms.scene) as a folder, split by patient.

    Patient p is drawn from the generator of (seed, p), so a larger folder begins with the patients of a
    smaller one.

    Args:
        view: "chest" for whole slices (`phantom_patient`), "nodule" for windows round a nodule (`phantom_crops`).
        num_patients: at least one per split.
        size: side of the slices in pixels.
        fractions: share of the slices in each split.
        phantom_options: passed on to the function of the view, e.g. diameter_mm=(3.0, 30.0).
    """
    if view not in ("chest", "nodule"):
        raise ValueError(f'write_phantom_folder: view must be "chest" or "nodule", got {view!r}.')
    patients = [f"phantom{p:04d}" for p in range(num_patients)]
    split_of = dict(zip(patients, split_by_group(patients, fractions, seed=seed), strict=True))
    with FolderWriter(folder) as out:
        for p, patient in enumerate(tqdm(patients, desc="phantoms", unit="patient", disable=None)):
            rng = np.random.default_rng([seed, p])
            if view == "chest":
                stack = phantom_patient(rng, num_slices=slices_per_patient, size=size, **phantom_options)
            else:
                stack = phantom_crops(rng, num=slices_per_patient, size=size, **phantom_options)
            for s in stack:
                label = "+".join(sorted(set(s.kinds))) or "none"
                id_, spacing = f"{patient}_{s.slice_index:02d}", round(s.spacing_mm, 4)
                record = ImageRecord(id_, patient, split_of[patient], label, spacing)
                out.add(record, hu_to_grey(s.hu), s.target)


# ---- training on it ----------------------------------------------------------------------------------------


class SliceDataset(Dataset):
    """The slices of one split, as (image, target, id).

    image is float32 (1, H, W) in [0, 1] (grey / largest grey level), target is float32 (1, H, W) in {0, 1}, or
    (K, H, W) of a folder with K > 1 lesion classes, whose names are `classes`.

    Args:
        folder: a folder of slices.
        split: "train", "val" or "test"; None takes all.
        size: resize each slice to size x size pixels on reading (one that is not square is stretched, and its
            spacing_mm no longer holds); None keeps the size of the files.
        augment: called as augment(image (H, W) float32, target (H, W) uint8, rng) -> the same pair, changed. The
            target is in {0, 1}, or a label map 0..K.
        seed: with the epoch and the index it decides each augmentation, so that neither the number of workers
            nor the order of reading changes what a sample looks like.

    Raises:
        ValueError: for a bad manifest or an empty split here, and for a bad file when it is read.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str | None = None,
        *,
        size: int | None = None,
        augment: Callable | None = None,
        seed: int = 0,
    ):
        self.folder, self.size, self.augment, self.seed = Path(folder), size, augment, seed
        self.records, self.classes = read_split(folder, split, "slices"), read_classes(folder)
        # In shared memory, so that set_epoch also reaches worker processes that live through all epochs.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._cache: dict[int, tuple[NDArray, NDArray]] = {}

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins: a slice is augmented differently in each."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        index = range(len(self))[index]  # -1 is the last slice; beyond the end is an IndexError
        record = self.records[index]
        grey, target = self._read(index)
        image = grey.astype(np.float32) / (2**record.bits - 1)
        if self.augment is not None:
            rng = np.random.default_rng([self.seed, int(self._epoch), index])
            image, target = self.augment(image, target.copy(), rng)  # a copy: ours is kept for the next epoch
        image = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
        target = torch.from_numpy(one_hot(np.asarray(target), len(self.classes)))
        return image[None], target, record.id  # (1, H, W), (K, H, W)

    def _read(self, index: int) -> tuple[NDArray, NDArray[np.uint8]]:
        """The decoded pair at the wanted size; kept where the whole data set fits the memory allowed."""
        if index in self._cache:
            return self._cache[index]
        grey, target = read_slice(self.folder, self.records[index], self.classes)
        if self.size is not None and grey.shape != (self.size, self.size):
            grey = resize_image(grey, (self.size, self.size))
            target = resize_target(target, (self.size, self.size))
        if (grey.nbytes + target.nbytes) * len(self) <= CACHE_BYTES:
            self._cache[index] = grey, target
        return grey, target
