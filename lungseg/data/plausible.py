"""Data that can be read but are hardly what was intended: stored values in place of HU, swapped masks, black images.

Such data train without an error, and to a Dice that looks good: if everything but the lesion is marked as lesion, then
predicting lesion everywhere is nearly right. So each function here looks at the values of an image, and returns None or
one sentence with the likely cause. An oddity in single images is a warning, since a tumour may well fill a whole crop.
If more than half of the images in a folder are odd in the same way, the folder is refused.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

PADDING_HU = -1500  # nothing real is below; scanners write -2000 or -3024 outside their circle of reconstruction
DENSE_HU, THIN_HU = 500, -500  # bone is above, lung and air are below
MOST_DENSE = 0.3  # fraction of bone; the largest in 742 real volumes, some of them next to the spine, was 0.13
LEAST_RANGE = 0.02  # fraction of the grey levels that an image should span: 5 of 256

SWAPPED = (
    "lesion and background look swapped, most of the mask is lesion, up to its edge. 0 is background: invert the "
    "masks. If lesions really fill whole images, use larger crops."
)
FULL = (
    "lesions cover more than half of all pixels. 0 is background: invert the masks if they are swapped. If lesions "
    "really are that large, use larger crops."
)
NO_LESION = "no mask holds a lesion. Check the export of the masks: without lesions nothing can be learned."
SAME = "the image and its mask are the same picture. Export the images again."
COPY = "the image is a copy of an earlier one of the same split. Check the export; one copy is enough."


def odd_hu(hu: NDArray) -> str | None:
    """Say what is odd about a slice (H, W) or a volume (D, H, W) that should hold finite Hounsfield units.

    The sentences contain no numbers from the image, so that a `Tally` can count equal ones. A volume is read slice by
    slice, because a memory-mapped one may be larger than the memory.
    """
    low, high, tissue_low, dense, thin = np.inf, -np.inf, np.inf, 0, 0
    for part in iterate_slices(hu):
        low, high = min(low, part.min().item()), max(high, part.max().item())
        tissue_low = min(tissue_low, part.min(where=part > PADDING_HU, initial=high).item())
        dense, thin = dense + int(np.count_nonzero(part > DENSE_HU)), thin + int(np.count_nonzero(part < THIN_HU))
    if low == high:
        return "hu is the same everywhere, so it is not CT. Export it again."
    if -20 <= low and high <= 20:
        return "hu is between -20 and 20, so it was scaled or normalised. Give Hounsfield units: air is -1000."
    if low >= 0 and high <= 255:
        return (
            "hu has no value below 0, but air is -1000 HU. 0 to 255 look like the grey levels of a picture: give "
            "Hounsfield units, or the picture as PNG."
        )
    if low >= 0 and high > 60000:
        return "hu has no value below 0, and some above 60000: negative HU were stored as uint16. Use int16."
    if tissue_low >= 0:
        return (
            "hu has no value below 0, but air is -1000 HU. Apply the rescale slope and intercept of the scan first "
            "(the intercept is usually -1024)."
        )
    if dense > MOST_DENSE * hu.size and dense > thin:
        return (
            f"hu is above {DENSE_HU} in more than {MOST_DENSE:.0%} of the voxels, as only bone is: its sign looks "
            f"flipped. Air is -1000 HU."
        )
    return None


def iterate_slices(array: NDArray) -> Iterator[NDArray]:
    """Yield a slice (H, W), or those of a volume (D, H, W) one by one; a memory-mapped one is read only here."""
    for slice_ in array if array.ndim == 3 else [array]:
        yield np.asarray(slice_)


def odd_grey(image: NDArray, bits: int = 8) -> str | None:
    """Say what is odd about the grey levels of an image (H, W) with so many bits."""
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


class LesionExtent:
    """How much of a target (H, W) or (D, H, W) is lesion, everywhere and at the edge; lesion is where it is not 0."""

    def __init__(self, target: NDArray):
        self.pixels = target.size
        self.lesion_pixels = self.edge_pixels = self.lesion_edge_pixels = 0
        for part in iterate_slices(target):
            self.lesion_pixels += int(np.count_nonzero(part))
            for line in (part[0], part[-1], part[:, 0], part[:, -1]):
                self.edge_pixels += line.size
                self.lesion_edge_pixels += int(np.count_nonzero(line))

    @property
    def odd(self) -> str | None:
        """Say if lesion fills most of the image, and at least as much of its edge.

        A lesion rarely touches the edge of an image, so this is typical of swapped masks. But a tumour that fills its
        crop looks the same.
        """
        prevalence = self.lesion_pixels / self.pixels
        return SWAPPED if prevalence > 0.5 and self.lesion_edge_pixels / self.edge_pixels >= prevalence else None


def same_picture(image: NDArray, target: NDArray) -> str | None:
    """Say if an image (H, W) has only two grey levels, the brighter one exactly where the target is not 0."""
    two_levels = np.isin(image, (image.min(), image.max())).all()
    return SAME if target.any() and two_levels and np.array_equal(image > image.min(), target > 0) else None


class Tally:
    """Counts what is odd in the slices or volumes of a folder, to decide about the folder as a whole.

    Args:
        folder: its name, for the sentences.
        kind: its contents, "slices" or "volumes".
    """

    def __init__(self, folder: object, kind: str):
        self.folder, self.kind, self.count = folder, kind, 0
        self.ids: dict[str, list[str]] = defaultdict(list)  # sentence -> the images it is true of
        self._lesion_pixels = self._pixels = 0
        self._seen: dict[bytes, tuple[str, str]] = {}  # digest of an image -> its id and split
        self._leaks: list[str] = []

    def add(self, id_: str, sentences: list[str | None], lesion: LesionExtent | None) -> None:
        """Count one slice or volume: the results of the functions above, and its lesion (None if not known)."""
        self.count += 1
        for sentence in [*sentences, lesion.odd if lesion is not None else None]:
            if sentence is not None:
                self.ids[sentence].append(id_)
        if lesion is not None:
            self._lesion_pixels += lesion.lesion_pixels
            self._pixels += lesion.pixels

    def add_image(self, id_: str, split: str, image: NDArray) -> None:
        """Remember an image or volume, to notice a later copy of it. Blank ones are ignored: they leak nothing."""
        digest, blank = hashlib.blake2b(f"{image.shape}".encode(), digest_size=16), True
        for part in iterate_slices(image):
            digest.update(np.ascontiguousarray(part, dtype=np.float32).data)  # float32, so that the dtype is ignored
            blank = blank and part.min() == part.max()
        if blank:
            return
        first, first_split = self._seen.setdefault(digest.digest(), (id_, split))
        if first_split != split:
            self._leaks.append(f"{first} in {first_split} and {id_} in {split}")
        elif first != id_:
            self.ids[COPY].append(id_)

    def verdict(self) -> tuple[list[str], list[str]]:
        """(problems, warnings): an oddity of more than half of the images is a problem, as are copies in two splits."""
        problems: list[str] = []
        warned: list[str] = []
        for sentence, ids in self.ids.items():
            text = f"{self.folder}, {len(ids)} of {self.count} {self.kind}, such as {ids[0]}: {sentence}"
            (problems if 2 * len(ids) > self.count else warned).append(text)
        if self._leaks:
            problems.append(
                f"{self.folder} has the same image as {self._leaks[0]} ({len(self._leaks)} such pairs), so the scores "
                f"would measure memorisation. Keep one of them, or move both to one split."
            )
        if 2 * self._lesion_pixels > self._pixels and not any(SWAPPED in text for text in problems):
            warned.append(f"{self.folder}: {FULL}")
        if self._pixels and not self._lesion_pixels:
            warned.append(f"{self.folder}: {NO_LESION}")
        return problems, warned
