"""Candidates for people: a table, and a sheet of pictures with the highest score first."""

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lungseg.candidates import Candidate
from lungseg.data.scans import Scan
from lungseg.draw import MISSED, contact_sheet, outline, overlay
from lungseg.files import or_warn, path_below
from lungseg.predictor import Predictor

COLUMNS = (
    "id", "input", "candidate", "slice", "first_slice", "last_slice", "row", "column",
    "z_mm", "y_mm", "x_mm", "diameter_mm", "volume_mm3", "voxels", "score",
)  # fmt: skip
CROP, SIDE = 64, 256  # pixels along each side: of a slice around a candidate, or more if it is larger; of its picture
ACROSS, MOST = 5, 40  # pictures in a row, and on a sheet
FONT = 22


class CandidateFiles:
    """Writes candidates.csv, and candidates/ID.png for each volume with a candidate, below a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._rows: list[list] | None = None  # None until there is a volume

    def add(
        self, id_: str, path: Path, scan: Scan, predictor: Predictor, labels: NDArray, candidates: Sequence[Candidate]
    ) -> None:
        """Add the candidates of a volume and draw them.

        Args:
            id_, path: the name of the volume, and the input it comes from.
            labels: (D, H, W), not 0 where lesion is predicted.
        """
        self._rows = (self._rows or []) + candidate_rows(id_, path, candidates)
        if candidates:
            with or_warn("candidates/ is not complete"):
                sheet = candidate_sheet(candidates, lambda z: predictor.grey(scan.hu[z]), labels, scan.target)
                sheet.save(path_below(self.folder, f"candidates/{id_}.png"))

    def write_table(self) -> list[str]:
        """Write candidates.csv, and return a line to print; [] and no file if there was no volume."""
        if self._rows is None:
            return []
        path = self.folder / "candidates.csv"
        with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *self._rows])
        return [f"Candidates in the volumes: {len(self._rows)}, see candidates.csv and candidates/."]


def candidate_rows(id_: str, path: Path, candidates: Sequence[Candidate]) -> list[list]:
    """Rows of candidates.csv, in the order of COLUMNS; what is unknown is empty.

    Args:
        id_, path: of the volume, and of the input it comes from.
    """
    rows = []
    for c in candidates:
        place = [c.middle, *c.slices, *(f"{n:.1f}" for n in c.centre[1:])]
        size = [*c.position_mm, c.diameter_mm, c.volume_mm3]
        known = ["" if math.isnan(mm) else f"{mm:.1f}" for mm in size]
        rows.append([id_, path, c.id, *place, *known, c.voxels, f"{c.score:.4f}"])
    return rows


def candidate_sheet(
    candidates: Sequence[Candidate],
    grey: Callable[[int], NDArray[np.float32]],
    labels: NDArray,
    target: NDArray | None = None,
) -> Image.Image:
    """The first MOST candidates: a crop of the slice with the most of each, with the outlines of what is in it.

    Args:
        grey: number of a slice -> (H, W) in [0, 1].
        labels: (D, H, W), not 0 where lesion is predicted: a candidate is drawn in orange, others near it in blue.
        target: (D, H, W), not 0 where there is a lesion; drawn in green.
    """
    shown = list(candidates[:MOST])
    pictures = [candidate_picture(c, grey(c.middle), labels, target) for c in shown]
    captions = [caption(c) for c in shown]
    rows = range(0, len(shown), ACROSS)
    return contact_sheet(
        [pictures[i : i + ACROSS] for i in rows], captions=[captions[i : i + ACROSS] for i in rows], font_size=FONT
    )


def candidate_picture(
    candidate: Candidate, grey: NDArray[np.float32], labels: NDArray, target: NDArray | None
) -> NDArray[np.uint8]:
    """(SIDE, SIDE, 3): a square of its slice with the candidate in it, whose outline is orange, of others blue."""
    sides = [s.stop - s.start for s in candidate.box[1:]]
    length = min(max(CROP, *(round(1.5 * n) for n in sides)), *grey.shape)
    middles = [(s.start + s.stop) // 2 for s in candidate.box[1:]]
    # A crop that would leave the slice is moved back into it.
    starts = [max(0, min(m - length // 2, n - length)) for m, n in zip(middles, grey.shape, strict=True)]
    pixels = np.arange(SIDE) * length // SIDE  # (SIDE,) of the crop, the nearest one
    crop = np.ix_(starts[0] + pixels, starts[1] + pixels)
    z = candidate.middle
    own = np.zeros(grey.shape, bool)
    own[candidate.box[1:]] = candidate.region[z - candidate.box[0].start]
    drawn = None if target is None else (np.asarray(target[z]) > 0)[crop]
    picture = overlay(grey[crop], drawn, own[crop])
    picture[outline((~own & (labels[z] > 0))[crop], outside=False)] = MISSED
    return picture


def caption(candidate: Candidate) -> str:
    """Number, score, slice, and diameter if it is known."""
    known = not math.isnan(candidate.diameter_mm)
    size = f"{candidate.diameter_mm:.0f} mm" if known else f"{candidate.voxels} voxels"
    return f"{candidate.id}: score {candidate.score:.3f}\nslice {candidate.middle}, {size}"
