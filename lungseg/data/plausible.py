"""What can be read but is hardly meant: raw CT for HU, exchanged masks, black images.

Such data train without an error, and to a Dice that looks good: if everything but the lesion is called lesion, then
calling everything lesion is nearly right. So each function here looks at numbers and returns None, or one sentence with
the likely cause. In what is read for a training, oddities of single pictures are told as a warning, since a window may
well be filled by a tumour; if more than half of a folder is odd in the same way, the folder is refused.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

PADDING_HU = -1500  # below it is no matter, only what scanners write outside their circle, such as -2000 and -3024
DENSE_HU, THIN_HU = 500, -500  # bone is above, lung and air are below
MOST_DENSE = 0.3  # share of bone; the most in 742 real volumes, some beside the spine, was 0.13
LEAST_RANGE = 0.02  # share of the grey levels that an image should span: 5 of 256

EXCHANGED = (
    "lesion and background look exchanged, most of the mask is lesion up to its edge. 0 is background: turn the masks "
    "round. If lesions really fill whole pictures, cut wider ones."
)
FULL = (
    "lesions cover more than half of all pixels. 0 is background: turn the masks round if they are exchanged; if "
    "lesions really are that large, cut wider pictures."
)
NO_LESION = "no mask holds a lesion. Check the export of the masks: without lesions nothing can be learned."
SAME = "the image and its mask are the same picture. Export the images again."
COPY = "the image is a copy of an earlier one of the same split. Check the export; one copy is enough."


def odd_hu(hu: NDArray) -> str | None:
    """What is odd about a slice (H, W) or a volume (D, H, W) that should hold finite Hounsfield units.

    The sentences hold no numbers of this image, so that a `Tally` can count equal ones. A volume is read slice by
    slice: mapped, it may be larger than the memory.
    """
    low, high, matter, dense, thin = np.inf, -np.inf, np.inf, 0, 0
    for part in slices_of(hu):
        low, high = min(low, part.min().item()), max(high, part.max().item())
        matter = min(matter, part.min(where=part > PADDING_HU, initial=high).item())
        dense, thin = dense + np.count_nonzero(part > DENSE_HU), thin + np.count_nonzero(part < THIN_HU)
    if low == high:
        return "hu is the same everywhere, which is no CT. Export it again."
    if -20 <= low and high <= 20:
        return "hu lies between -20 and 20, so it was scaled or normalised. Give Hounsfield units: air is -1000."
    if low >= 0 and high <= 255:
        return (
            "hu holds no value below 0, but air is -1000 HU. 0 to 255 look like the grey levels of a picture: give "
            "Hounsfield units, or the picture as PNG."
        )
    if low >= 0 and high > 60000:
        return "hu holds no value below 0, and some above 60000: negative HU were stored as uint16. Use int16."
    if matter >= 0:
        return (
            "hu holds no value below 0, but air is -1000 HU. Apply the rescale slope and intercept of the scan first "
            "(the intercept is mostly -1024)."
        )
    if dense > MOST_DENSE * hu.size and dense > thin:
        return (
            f"hu is above {DENSE_HU} in more than {MOST_DENSE:.0%} of the voxels, as only bone is: its sign looks "
            f"exchanged. Air is -1000 HU."
        )
    return None


def slices_of(array: NDArray) -> Iterator[NDArray]:
    """(H, W) one by one, read only now if the array is mapped: of a slice itself, or of a volume (D, H, W)."""
    for slice_ in array if array.ndim == 3 else [array]:
        yield np.asarray(slice_)


def odd_grey(image: NDArray, bits: int = 8) -> str | None:
    """What is odd about the grey levels (H, W) of an image of so many bits."""
    low, high, most = int(image.min()), int(image.max()), 2**bits - 1
    if low == high:
        return "the image has one grey level everywhere. Export it again, with the HU window of the others."
    if high <= 1:
        return f"the image has grey levels 0 and 1 only: it is a mask, or was not scaled to 0..{most}. Export it again."
    if high - low < LEAST_RANGE * most:
        return f"the image has hardly any of the {most + 1} grey levels. Export it with its HU window as 0..{most}."
    if bits == 16 and high < 2**12:
        return "the image has no grey level above 4095, of 65535: stored values? Export its HU window as 0..65535."
    return None


class Lesion:
    """How much of a lesion map (H, W) or (D, H, W), lesion where it is not 0, is lesion: in all, and at its edge."""

    def __init__(self, target: NDArray):
        self.size, self.lesion, self.edge, self.on_edge = target.size, 0, 0, 0  # pixels
        for part in slices_of(target):
            self.lesion += np.count_nonzero(part)
            for line in (part[0], part[-1], part[:, 0], part[:, -1]):
                self.edge, self.on_edge = self.edge + line.size, self.on_edge + np.count_nonzero(line)

    @property
    def odd(self) -> str | None:
        """What is odd about it: it is most of the picture, and at the edge even more.

        Exchanged masks are, since a lesion rarely touches the edge of a picture. So is a tumour that fills its window.
        """
        prevalence = self.lesion / self.size
        return EXCHANGED if prevalence > 0.5 and self.on_edge / self.edge >= prevalence else None


def same_picture(image: NDArray, target: NDArray) -> str | None:
    """Whether an image (H, W) has two grey levels, the brighter one exactly where the target is 1."""
    two_levels = np.isin(image, (image.min(), image.max())).all()
    return SAME if target.any() and two_levels and np.array_equal(image > image.min(), target > 0) else None


class Tally:
    """Counts what is odd over the slices or volumes of a folder, to judge it as a whole.

    Args:
        folder: its name, for the sentences.
        kind: what it holds, "slices" or "volumes".
    """

    def __init__(self, folder: object, kind: str):
        self.folder, self.kind, self.count = folder, kind, 0
        self.ids: dict[str, list[str]] = defaultdict(list)  # sentence -> where it is true
        self._lesion = self._pixels = 0
        self._seen: dict[bytes, tuple[str, str]] = {}  # digest of an image -> its id and split
        self._leaks: list[str] = []

    def add(self, id_: str, sentences: list[str | None], lesion: Lesion | None) -> None:
        """One slice or volume: what the functions above said of it, and its lesion (None: not known)."""
        self.count += 1
        for sentence in filter(None, [*sentences, lesion and lesion.odd]):
            self.ids[sentence].append(id_)
        if lesion is not None:
            self._lesion += lesion.lesion
            self._pixels += lesion.size

    def add_image(self, id_: str, split: str, image: NDArray) -> None:
        """Remember an image or volume, to notice another one that is equal. Blank ones are equal and leak nothing."""
        digest, blank = hashlib.blake2b(f"{image.shape}".encode(), digest_size=16), True
        for part in slices_of(image):
            digest.update(np.ascontiguousarray(part, dtype=np.float32).data)  # of equal numbers, whatever their type
            blank = blank and part.min() == part.max()
        if blank:
            return
        first, first_split = self._seen.setdefault(digest.digest(), (id_, split))
        if first_split != split:
            self._leaks.append(f"{first} in {first_split} and {id_} in {split}")
        elif first != id_:
            self.ids[COPY].append(id_)

    def verdict(self) -> tuple[list[str], list[str]]:
        """(problems, warnings): what is true of more than half is a problem, and so are images in two splits."""
        problems, warned = [], []
        for sentence, ids in self.ids.items():
            text = f"{self.folder}, {len(ids)} of {self.count} {self.kind}, such as {ids[0]}: {sentence}"
            (problems if 2 * len(ids) > self.count else warned).append(text)
        if self._leaks:
            problems.append(
                f"{self.folder} has the same image as {self._leaks[0]} ({len(self._leaks)} such pairs), so the scores "
                f"would measure memory. Keep one of them, or give both to one split."
            )
        if 2 * self._lesion > self._pixels and not any(EXCHANGED in text for text in problems):
            warned.append(f"{self.folder}: {FULL}")
        if self._pixels and not self._lesion:
            warned.append(f"{self.folder}: {NO_LESION}")
        return problems, warned
