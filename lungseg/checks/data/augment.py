"""Check of any augmentation of an image with its target: what must hold whatever the augmentation does."""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lungseg.checks.calling import call, guarded
from lungseg.checks.lessons import Lesson, Wrong

PAGE = "docs/data/augment.md"
Augment = Callable[[NDArray, NDArray, np.random.Generator], tuple[NDArray, NDArray]]

CHANCE = {
    "global generator": "random numbers are drawn from a global generator (np.random, random or torch): draw them "
    "from the argument `rng`, and from nothing else, so that a seed repeats the result.",
    "generator of its own": "a generator lives on between calls, or is made without a seed: draw from the argument "
    "`rng`.",
    "rng not used": "the argument `rng` decides nothing: every seed gives the same result.",
}
AUGMENT = Lesson(
    "augment",
    "augment(image (H, W) float32 in [0, 1], target (H, W) uint8, rng) -> (image, target), new arrays",
    "image and target undergo the same geometry, from one draw of `rng`; the target is sampled with the nearest "
    "neighbour, so that it holds labels only.",
    PAGE,
    {
        "only the image moves": "the image is moved and the target is left as it was: apply the same geometry to both.",
        "only the target moves": "the target is moved and the image is left as it was: apply the same geometry to "
        "both.",
        "flipped apart": "one of the two is flipped, or each along another axis: flip both along the same axis.",
        "rows and columns exchanged": "one of the two is transposed: rows and columns are exchanged.",
        "opposite rotations": "image and target are rotated in opposite directions.",
        "scaled apart": "one of the two is enlarged where the other is shrunk: sampling at c + (p - c) / factor "
        "enlarges both.",
        "shifted apart": "the target is a pixel or two off: one of the two is sampled half a pixel or more beside it.",
        "a draw for each": "image and target are moved by two different draws: draw once, then apply it to both.",
        "target interpolated": "the target is interpolated: sample labels with the nearest neighbour (order=0).",
        "target scaled": "the grey values of the target were changed, as those of the image: it holds labels.",
        "not clipped": "the image leaves [0, 1]: brightness, contrast and noise can do that, and splines of order "
        "3 at edges. Clip it.",
        "view": "the result is a view of the array that was given: whoever changes one changes the other. Return a "
        "copy.",
        **CHANCE,
    },
)


class Scene(NamedTuple):
    """An image with a disc, and the seed of the augmentation; lengths in pixels."""

    height: int
    width: int
    row: int
    col: int
    radius: int
    seed: int

    def __str__(self) -> str:
        return (f"a disc of radius {self.radius} at ({self.row}, {self.col}) in a {self.height} x {self.width} image, "
                f"default_rng({self.seed})")  # fmt: skip

    def target(self) -> NDArray[np.uint8]:
        rows, cols = np.indices((self.height, self.width))
        return ((rows - self.row) ** 2 + (cols - self.col) ** 2 <= self.radius**2).astype(np.uint8)


class Result(NamedTuple):
    """Where the disc was, where the image shows it now, and where the target does: bool maps."""

    before: NDArray[np.bool_]
    bright: NDArray[np.bool_]
    marked: NDArray[np.bool_]


def check_augmentation(augment: Augment, *, min_side: int = 24) -> None:
    """Fail unless `augment(image, target, rng)` returns a new pair in which the target still fits the image.

    The image is (H, W) float32 in [0, 1], the target (H, W) uint8 in {0, 1}. The augmentation may move, warp or crop
    the two in any way (for a crop, raise `min_side` to its side), and may change the grey values within [0, 1], as long
    as what was brighter stays brighter.
    """
    for i, (taller, wider) in enumerate([(0, 0), (0, 7), (9, 0), (16, 24), (23, 11)]):
        for share in (0.3, 0.0, 1.0):
            check_pair(augment, (min_side + taller, min_side + wider), share, seed=i)
    check_landmarks(augment, min_side)
    check_chance(augment, min_side)


# ---- one pair -------------------------------------------------------------------------------------------------


def check_pair(augment: Augment, shape: tuple[int, int], lesion_share: float, seed: int) -> None:
    """The new pair has the right shape, type and values, and depends on the seed alone."""
    image = np.random.default_rng(seed).random(shape, dtype=np.float32)
    target = (image < lesion_share).astype(np.uint8)
    chance = global_chance()
    new_image, new_target = pair_of(call(AUGMENT, augment, image, target, np.random.default_rng(seed)))
    about = f"a {shape[0]} x {shape[1]} image, default_rng({seed}): "
    if global_chance() != chance:
        raise Wrong(AUGMENT, f"{about}a global random generator was used.", slip="global generator")
    if new_image.ndim != 2 or new_image.shape != new_target.shape:
        raise Wrong(AUGMENT, f"{about}the new image is {new_image.shape}, its target {new_target.shape}; both must be "
                    f"one (H, W).")  # fmt: skip
    check_labels(new_target, lesion_share, about)
    for name, new, old in (("image", new_image, image), ("target", new_target, target)):
        if new.dtype != old.dtype:
            raise Wrong(AUGMENT, f"{about}the {name} was {old.dtype} and became {new.dtype}.")
    if not np.isfinite(new_image).all():
        raise Wrong(AUGMENT, f"{about}the new image holds NaN or infinity.")
    if new_image.min() < -1e-3 or new_image.max() > 1 + 1e-3:
        raise Wrong(AUGMENT, f"{about}the image was in [0, 1] and is now from {new_image.min():.3g} to "
                    f"{new_image.max():.3g}.", slip="not clipped")  # fmt: skip
    mine = image.copy(), target.copy()
    again = pair_of(guarded(AUGMENT, augment, *mine, np.random.default_rng(seed)))
    for name, result, given in zip(("image", "target"), again, mine, strict=True):
        if np.shares_memory(result, given):
            raise Wrong(AUGMENT, f"{about}the new {name} shares memory with the old one.", slip="view")
    if not (np.array_equal(new_image, again[0]) and np.array_equal(new_target, again[1])):
        raise Wrong(
            AUGMENT, f"{about}two calls with the same seed gave two different pairs.", slip="generator of its own"
        )


def pair_of(result: Any) -> tuple[NDArray, NDArray]:
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Wrong(AUGMENT, f"the result is a {type(result).__name__}, expected the pair (image, target).")
    return np.asarray(result[0]), np.asarray(result[1])


def check_labels(target: NDArray, lesion_share: float, about: str) -> None:
    """Only 0 and 1, and no lesion where there was none."""
    values = np.unique(target).tolist()
    if not set(values) <= {0, 1}:
        between = len(values) > 2 and target.dtype.kind in "iu" or any(0 < v < 1 for v in values)
        slip = "target scaled" if len(values) <= 2 else "target interpolated" if between else ""
        raise Wrong(AUGMENT, f"{about}the new target holds {', '.join(f'{v:.3g}' for v in values[:5])}; only 0 and 1 "
                    f"are labels.", slip=slip)  # fmt: skip
    if lesion_share == 0 and values != [0]:
        raise Wrong(AUGMENT, f"{about}there was no lesion, but the new target shows one.")


def check_chance(augment: Augment, min_side: int) -> None:
    """Different seeds give different images."""
    side = min_side + 24  # room for a crop to move
    image = np.random.default_rng(0).random((side, side), dtype=np.float32)
    target = (image > 0.5).astype(np.uint8)
    results = (pair_of(call(AUGMENT, augment, image, target, np.random.default_rng(seed))) for seed in range(16))
    if len({new.tobytes() for new, _ in results}) == 1:
        raise Wrong(AUGMENT, "sixteen seeds gave the same image sixteen times.", slip="rng not used")


def global_chance() -> tuple:
    """The states of the global generators of NumPy, Python and torch."""
    numpys = np.random.get_state(legacy=False)
    keys, position = numpys["state"]["key"].tobytes(), numpys["state"]["pos"]
    of_torch = torch.get_rng_state().numpy().tobytes()
    return keys, position, numpys["has_gauss"], numpys["gauss"], random.getstate(), of_torch


# ---- the same geometry ----------------------------------------------------------------------------------------


def check_landmarks(augment: Augment, min_side: int) -> None:
    """Image and target undergo the same geometry: a bright disc stays where its target is."""
    wrong = []
    for scene in scenes(min_side):
        before = scene.target()
        image, target = pair_of(
            call(AUGMENT, augment, before.astype(np.float32), before, np.random.default_rng(scene.seed))
        )
        result = Result(before > 0, where_bright(image, target), target > 0)
        # Bilinear image and nearest target may differ along the outline, and the image fades at a border.
        if (result.bright != result.marked).sum() > 8 + outline_length(target) / 5:
            wrong.append((scene, result))
    if not wrong:
        return
    scene, result = wrong[0]
    counts = [int(m.sum()) for m in (result.bright, result.marked, result.bright != result.marked)]
    raise Wrong(AUGMENT, f"{scene}: the image shows the disc on {counts[0]} pixels, the target on {counts[1]}, and "
                f"they disagree on {counts[2]}; image and target must undergo the same geometry.",
                numbers="\n".join(f"{name} {centre_of(m)}" for name, m in zip(
                    ("centre (row, column) before   ", "centre in the new image       ",
                     "centre in the new target      "),
                    result, strict=True)),
                slip=geometry_slip([r for _, r in wrong]),
                picture=("outlines", result.marked, result.bright))  # fmt: skip


def scenes(min_side: int) -> list[Scene]:
    """Discs wholly inside images of several shapes, away from the centre, three seeds each."""
    found = []
    for i, (taller, wider) in enumerate([(0, 0), (0, 12), (15, 3), (24, 24), (8, 20)]):
        h, w = min_side + taller, min_side + wider
        for radius in (5, min(h, w) // 4):
            places = [(h // 2, w // 2), (radius, w // 2), (h - 1 - radius, radius)]
            for j, (row, col) in enumerate(places):
                found += [Scene(h, w, row, col, radius, seed) for seed in (10 * i + j, 100 + 10 * i + j)]
    return found


def where_bright(image: NDArray, target: NDArray) -> NDArray[np.bool_]:
    low, high = float(image.min()), float(image.max())
    if high - low > 0.3:
        return image > (low + high) / 2
    # A single grey value: the image is all background or all lesion, and so must the target be.
    return np.full(image.shape, target.mean() > 0.5)


def outline_length(target: NDArray) -> int:
    """The number of pairs of neighbouring pixels of which exactly one is lesion."""
    return int((target[1:] != target[:-1]).sum() + (target[:, 1:] != target[:, :-1]).sum())


def geometry_slip(results: Sequence[Result]) -> str:
    """The slip that explains every result in which image and target disagree; at worst, a draw for each."""

    def near(a: NDArray, b: NDArray) -> bool:
        return a.shape == b.shape and (a != b).sum() <= 8 + outline_length(b.astype(np.uint8)) / 5

    def shifted(a: NDArray, b: NDArray) -> bool:
        moves = [(r, c) for r in range(-3, 4) for c in range(-3, 4)]
        return any(near(np.roll(a, move, (0, 1)), b) for move in moves)

    def angles(r: Result, *differences: Callable[[float, float, float], float]) -> bool:
        """Whether one of these differences of the three angles about the centre of the image is 0."""
        if not (r.bright.any() and r.marked.any()):
            return True  # moved out of the image: no angle
        off = [(d(*map(angle_of, r)) + np.pi) % (2 * np.pi) - np.pi for d in differences]
        return min(map(abs, off)) < 0.2

    def opposite(r: Result) -> bool:  # after flips of both, which negate the angle
        return angles(r, lambda a, b, t: b + t - 2 * a, lambda a, b, t: b + t + 2 * a)

    def flipped(r: Result) -> bool:  # and rotated both
        to_rows = [lambda a, b, t, sign=sign: b - t + sign * 2 * a for sign in (-1, 1)]
        return angles(r, *to_rows, *(lambda a, b, t, d=d: d(a, b, t) + np.pi for d in to_rows))

    tests: dict[str, Callable[[Result], bool]] = {
        "only the image moves": lambda r: near(r.marked, r.before),
        "only the target moves": lambda r: near(r.bright, r.before),
        "shifted apart": lambda r: shifted(r.bright, r.marked),
        "flipped apart": lambda r: any(
            near(f(r.bright), r.marked) for f in (np.flipud, np.fliplr, lambda m: m[::-1, ::-1])
        ),
        "rows and columns exchanged": lambda r: near(r.bright.T, r.marked),
    }
    far = [r for r in results if off_centre(r.before)] or results  # a disc in the middle hardly shows a rotation
    for slip, explains in tests.items():
        if all(map(explains, results)):
            return slip
    whole = [r for r in results if not (at_border(r.bright) or at_border(r.marked))]  # no part of a disc is cut off
    if whole and all(map(scaled_apart, whole)):
        return "scaled apart"
    if all(map(opposite, far)):
        return "opposite rotations"
    return "flipped apart" if all(map(flipped, far)) else "a draw for each"


def at_border(lesion: NDArray) -> bool:
    return bool(lesion[[0, -1]].any() or lesion[:, [0, -1]].any())


def scaled_apart(result: Result) -> bool:
    """Whether the disc grew in one of the two and shrank in the other, clearly."""
    before, bright, marked = (max(1, int(m.sum())) for m in result)
    return min(bright, marked) < 0.95 * before and max(bright, marked) > 1.05 * before


def centre_of(lesion: NDArray) -> str:
    pixels = np.argwhere(lesion)
    return "({:.1f}, {:.1f})".format(*pixels.mean(0)) if len(pixels) else "none: it is gone"


def offset_of(lesion: NDArray) -> NDArray:
    """(2,) from the centre of the image to that of the lesion, in pixels."""
    middle = (np.array(lesion.shape) - 1) / 2
    return np.argwhere(lesion).mean(0) - middle if lesion.any() else np.zeros(2)


def off_centre(lesion: NDArray) -> bool:
    return bool(np.hypot(*offset_of(lesion)) > 4)


def angle_of(lesion: NDArray) -> float:
    return float(np.arctan2(*offset_of(lesion)))
