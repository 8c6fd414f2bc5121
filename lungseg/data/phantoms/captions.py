"""Crops of phantoms with a sentence about each: what a radiologist might write, from what the phantom knows of itself.

    "a small ground-glass nodule", "a large solid nodule at the pleura", "normal lung with vessels"

Nobody has to describe anything: kind, size and place of a nodule are the numbers it was drawn with. The size is that of
the whole nodule; a crop cuts it within 0.3 of its diameter from the middle. The pairs are for contrastive learning
(lungseg.training.contrastive).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lungseg.data.phantoms.anatomy import Thorax, sample_points_in_lung
from lungseg.data.phantoms.nodules import KINDS, Nodule
from lungseg.data.phantoms.raster import Grid
from lungseg.data.phantoms.scene import Scene, make_grid, sample_scene

SMALL, LARGE = 8.0, 20.0  # diameters in mm: small is below, large at or above
BIG_VESSEL = 1.5  # mm, the radius from which a vessel is worth a word
SIZES = ("small", "medium-sized", "large")
TYPES = ("solid", "part-solid", "ground-glass", "spiculated")  # a pleural nodule is a solid one with a place
NORMAL = ("normal lung", "normal lung with vessels", "normal lung at the pleura", "normal lung at the mediastinum")
# Sentences for zero-shot classification, one list per class.
PROMPTS = {
    "lesion": tuple(f"a {size} {type_} nodule" for size in SIZES for type_ in TYPES),
    "normal": NORMAL,
}
# The tokens of `WordPiece(VOCABULARY)`: the words of all captions, some more, and letters to spell any other word.
VOCABULARY = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *"-,.abcdefghijklmnopqrstuvwxyz0123456789",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
    *"ct of image chest showing small medium sized large solid part ground glass spiculated".split(),
    *"nodule at the pleura mediastinum normal lung with vessels lesion and no in this is an photo".split(),
)


@dataclass(frozen=True, eq=False)
class CaptionedCrop:
    """A crop of a slice, its lesion map, and one sentence about it."""

    hu: NDArray[np.int16]  # (size, size)
    target: NDArray[np.uint8]  # (size, size), 1 on lesion
    caption: str
    lesion: bool  # whether the sentence, and the target, has a nodule


def captioned_crops(
    rng: np.random.Generator,
    *,
    num: int = 8,
    size: int = 48,
    spacing_mm: float = 0.7,
    diameter_mm: tuple[float, float] = (3.0, 30.0),
    kinds: Sequence[str] = KINDS,
    shift_mm: float = 3.0,
) -> list[CaptionedCrop]:
    """Draw one patient with one nodule and take `num` crops: with it and without it in turn.

    Of the crops without a nodule, every second shows the place of the crop before it, as if the nodule had never
    grown; so a crop with a nodule cannot be told by its surroundings. The others show any place of the lungs.

    Args:
        rng: the only source of randomness; the same state gives the same crops and sentences.
        num: crops; their numbers with and without a nodule differ by at most 1 (unless a nodule of less than two
            pixels falls between them: such a crop is one without).
        size, spacing_mm: the side of a crop in pixels, and that of a pixel in mm.
        diameter_mm, kinds: of the nodule, as for `sample_scene`.
        shift_mm: how far, along each axis, the middle of a crop may be from that of its nodule.

    Raises:
        ValueError: an argument is out of range; the message says which one and what to give instead.
    """
    if num < 1 or not shift_mm >= 0:
        raise ValueError(f"captioned_crops: expected num >= 1 and shift_mm >= 0, got {num} and {shift_mm}.")
    grid = make_grid((size, size), spacing_mm)
    scene = sample_scene(rng, diameter_mm=diameter_mm, kinds=kinds)
    healthy = replace(scene, nodules=())
    crops = []
    for i in range(num):
        with_nodule = i % 2 == 0
        if with_nodule:
            view, z = view_of_nodule(rng, scene.nodules[0], grid, shift_mm)
        elif i % 4 == 1:
            view, z = view_of_lung(rng, scene.thorax, grid)
        hu, target, _ = (scene if with_nodule else healthy).render(view, z, rng)
        sentence = describe(scene, view, z) if target.any() else describe(healthy, view, z)
        crops.append(CaptionedCrop(hu, target, sentence, bool(target.any())))
    return crops


def view_of_nodule(rng: np.random.Generator, nodule: Nodule, grid: Grid, shift_mm: float) -> tuple[Grid, float]:
    """A grid whose centre is up to `shift_mm` beside that of the nodule, and a height at which the nodule is cut."""
    x, y = (c + rng.uniform(-shift_mm, shift_mm) for c in nodule.centre[:2])
    return replace(grid, centre=(x, y)), nodule.centre[2] + rng.uniform(-0.3, 0.3) * nodule.diameter


def view_of_lung(rng: np.random.Generator, thorax: Thorax, grid: Grid) -> tuple[Grid, float]:
    """A grid around a random point of either lung, and its height."""
    x, y, z = sample_points_in_lung(thorax, rng, 1, int(rng.choice([-1, 1])), depth=3.0)[0].tolist()
    return replace(grid, centre=(x, y)), z


def describe(scene: Scene, view: Grid, z: float) -> str:
    """The sentence about a view at height z: of the nodule, or of normal lung if the scene has none."""
    if scene.nodules:
        return describe_nodule(scene.nodules[0], scene.thorax)
    if (scene.thorax.cavity_distance(view.x, view.y, z) > 0).any():  # mm outside the rib cage
        return "normal lung at the pleura"
    if (scene.thorax.mediastinum_distance(view.x, view.y, z) < 0).any():
        return "normal lung at the mediastinum"
    return "normal lung with vessels" if has_big_vessel(scene.thorax, view, z) else "normal lung"


def describe_nodule(nodule: Nodule, thorax: Thorax) -> str:
    """Size, type and place of a nodule: "a small ground-glass nodule", "a large solid nodule at the pleura"."""
    size = SIZES[(nodule.diameter >= SMALL) + (nodule.diameter >= LARGE)]
    type_ = "solid" if nodule.kind == "pleural" else nodule.kind
    depth = -float(thorax.cavity_distance(*(np.array(c) for c in nodule.centre)))  # mm from its centre to the wall
    return f"a {size} {type_} nodule" + " at the pleura" * (depth < nodule.diameter / 2)


def has_big_vessel(thorax: Thorax, view: Grid, z: float) -> bool:
    """Whether a vessel with a radius of at least BIG_VESSEL mm is cut in the view."""
    rods = thorax.vessels
    rise = rods.stop[:, 2] - rods.start[:, 2]
    share = (z - rods.start[:, 2]) / np.where(rise == 0, 1, rise)  # of the way along the rod at which it is cut
    x, y = (rods.start[:, axis] + share * (rods.stop[:, axis] - rods.start[:, axis]) for axis in (0, 1))
    half = view.shape[0] * view.spacing / 2
    inside = (np.abs(x - view.centre[0]) < half) & (np.abs(y - view.centre[1]) < half)
    return bool((inside & (share >= 0) & (share <= 1) & (rods.r0 >= BIG_VESSEL)).any())
