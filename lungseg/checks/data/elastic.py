"""Check of any elastic displacement field by what it must measure: strength, smoothness, independence, chance."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lungseg.checks.calling import call
from lungseg.checks.data.augment import CHANCE, PAGE, global_chance
from lungseg.checks.judging import as_tensor
from lungseg.checks.lessons import Lesson, Wrong

ELASTIC = Lesson(
    "elastic_displacement",
    "elastic_displacement(shape (H, W), alpha=, sigma=, rng=) -> (2, H, W) in pixels",
    "white noise for each axis, smoothed by a Gaussian of standard deviation sigma, then scaled so that the root mean "
    "square of each axis is alpha pixels: neighbours move alike, so the image does not tear or fold.",
    PAGE,
    {
        "noise not centred on 0": "the noise is not centred on 0 (rng.random is from 0 to 1): nearly everything moves "
        "one way. Take rng.standard_normal, or rng.uniform(-1, 1).",
        "not smoothed": "the noise is not smoothed: neighbouring pixels move independently.",
        "sigma as variance": "sigma is taken as the variance of the Gaussian; it is its standard deviation, in pixels.",
        "one field for both axes": "rows and columns move by the same amounts: draw a field for each axis, and smooth "
        "over (H, W) only, not over the first axis of (2, H, W).",
        "alpha as maximum": "alpha is the largest displacement; it should be the root mean square.",
        "not normalised": "the noise is multiplied by alpha, before or after smoothing, but smoothing makes it weak: "
        "divide by the root mean square of the smoothed noise.",
        "normalised together": "one root mean square is used for both axes: each axis has its own.",
        "length is alpha": "the length of the displacement has root mean square alpha; each axis should.",
        "mean of magnitudes": "the mean of |displacement| is alpha; it should be the root mean square.",
        "standard deviation": "the standard deviation is alpha, which leaves out the mean of the field; it should be "
        "the root mean square, so that a field that happens to move everything one way is not stronger.",
        "fractions of the image": "the displacement is in units of half the image (as grid_sample wants it), not in "
        "pixels.",
        "axes last": "the two axes come last, (H, W, 2); expected first, (2, H, W).",
        "height and width exchanged": "the field is (2, W, H): height and width are exchanged.",
        "folds": "somewhere a pixel moves beyond its neighbour, so the image folds over itself.",
        **CHANCE,
    },
)


class Field(NamedTuple):
    """What is asked for; lengths in pixels."""

    height: int
    width: int
    alpha: float
    sigma: float
    seed: int

    def __str__(self) -> str:
        return (f"shape=({self.height}, {self.width}), alpha={self.alpha:g}, sigma={self.sigma:g}, "
                f"rng=default_rng({self.seed})")  # fmt: skip


FIELDS = [
    Field(48, 52, 0.25, 2, 0), Field(48, 64, 0.25, 4, 1), Field(80, 56, 0.5, 4, 2), Field(64, 64, 0.1875, 3, 3),
    Field(56, 80, 0.125, 2, 4), Field(72, 72, 0.375, 3, 5), Field(96, 80, 0.75, 6, 6), Field(80, 96, 0.5, 6, 7),
]  # fmt: skip


class Measures(NamedTuple):
    """What a field measures, of what was asked for."""

    case: Field
    field: NDArray  # (2, H, W)
    rms: NDArray  # (2,) / alpha
    roughness: float  # steps between neighbours, divided by the expected ones
    correlation: float  # of the two axes
    jacobian: float  # least determinant


def check_elastic_displacement(elastic_displacement: Callable[..., NDArray]) -> None:
    """Fail unless `elastic_displacement(shape, alpha=, sigma=, rng=)` is a smooth field of the given strength.

    The field is (2, H, W) in pixels. Its root mean square is `alpha` along each axis, it is as smooth as white noise
    after a Gaussian of `sigma`, its two axes are independent, it never folds, and all its randomness comes from `rng`.
    The check tries only weak fields, which have no reason to fold: alpha <= sigma / 8, on images of at least 12 sigma.
    """
    fields = [field_of(elastic_displacement, case) for case in FIELDS]
    check_chance(elastic_displacement, fields[0])
    measures = [measure(case, field) for case, field in zip(FIELDS, fields, strict=True)]
    for m in measures:
        if not np.allclose(m.rms, 1, rtol=0.05):
            raise Wrong(ELASTIC, f"{m.case}: the root mean square of the displacement is "
                        f"{m.case.alpha * m.rms[0]:.4f} along rows and {m.case.alpha * m.rms[1]:.4f} along columns, "
                        f"not alpha.",
                        slip=strength_slip(measures))  # fmt: skip
    for m in measures:
        if not 1 / 1.5 <= m.roughness <= 1.5:
            raise unsmooth(m, measures)
        if abs(m.correlation) > 0.95:
            raise Wrong(ELASTIC, f"{m.case}: rows and columns move alike (correlation {m.correlation:.2f}).",
                        slip="one field for both axes")  # fmt: skip
        if m.jacobian <= 0:
            raise Wrong(ELASTIC, f"{m.case}: the field folds: its Jacobian falls to {m.jacobian:.3f}.", slip="folds")
    if not 1 / 1.25 <= mean_roughness(measures) <= 1.25:  # one field varies by chance, their mean hardly does
        raise unsmooth(measures[0], measures)


def field_of(elastic_displacement: Callable, case: Field, seed: int | None = None) -> NDArray:
    """(2, H, W) finite, from no other source of chance than rng; or Wrong."""
    chance, rng = global_chance(), np.random.default_rng(case.seed if seed is None else seed)
    shape = (case.height, case.width)
    field = call(ELASTIC, elastic_displacement, shape, alpha=case.alpha, sigma=case.sigma, rng=rng)
    field = as_tensor(ELASTIC, field).numpy()
    if global_chance() != chance:
        raise Wrong(ELASTIC, f"{case}: a global random generator was used.", slip="global generator")
    if field.shape != (2, *shape):
        last = "axes last" if field.shape == (*shape, 2) else ""
        slip = "height and width exchanged" if field.shape == (2, *shape[::-1]) else last
        raise Wrong(ELASTIC, f"{case}: the field is {field.shape}, expected {(2, *shape)}.", slip=slip)
    if not np.isfinite(field).all():
        raise Wrong(ELASTIC, f"{case}: the field holds NaN or infinity.")
    return field.astype(float)


def check_chance(elastic_displacement: Callable, first: NDArray) -> None:
    """The same seed gives the same field, the next one another."""
    case = FIELDS[0]
    if not np.array_equal(field_of(elastic_displacement, case), first):
        raise Wrong(ELASTIC, f"{case}: a second call gave another field.", slip="generator of its own")
    if np.array_equal(field_of(elastic_displacement, case, seed=case.seed + 1), first):
        raise Wrong(ELASTIC, f"{case}: the next seed gave the same field.", slip="rng not used")


def measure(case: Field, field: NDArray) -> Measures:
    """Strength, smoothness, correlation and folding of one field (2, H, W)."""
    down, along = np.diff(field, axis=1), np.diff(field, axis=2)  # (2, H-1, W), (2, H, W-1)
    roughness = np.sqrt(((down**2).mean() + (along**2).mean()) / 2)
    rms = np.sqrt((field**2).mean((1, 2)))
    # The slope of noise with the correlation exp(-d^2 / 4 sigma^2), which is that of white noise after the Gaussian.
    expected = np.sqrt((rms**2).mean()) / case.sigma / np.sqrt(2)
    (rr, cr), (rc, cc) = down[:, :, :-1], along[:, :-1]  # change of row and column, per step down and along
    jacobian = (1 + rr) * (1 + cc) - cr * rc
    with np.errstate(all="ignore"):
        correlation = np.corrcoef(field.reshape(2, -1))[0, 1]
    ratio = float(roughness / expected) if expected else 0.0
    return Measures(case, field, rms / case.alpha, ratio, float(correlation), float(jacobian.min()))


def mean_roughness(measures: Sequence[Measures]) -> float:
    return float(np.exp(np.mean([np.log(max(m.roughness, 1e-9)) for m in measures])))


def unsmooth(m: Measures, measures: Sequence[Measures]) -> Wrong:
    """Too rough or too smooth, and how that may have come about."""
    step = m.case.alpha / m.case.sigma / np.sqrt(2)
    ratio = np.array([k.roughness for k in measures])
    sigma = np.array([k.case.sigma for k in measures])
    slip = "sigma as variance" if np.allclose(ratio, np.sqrt(sigma), rtol=0.25) else ""
    slip = "not smoothed" if np.allclose(ratio, 2 * sigma, rtol=0.1) else slip  # white noise: steps of sqrt(2) alpha
    if all(np.abs(k.field.mean((1, 2))).min() > 0.8 * k.case.alpha for k in measures):
        slip = "noise not centred on 0"
    alike = all(abs(k.correlation) > 0.95 for k in measures)
    return Wrong(ELASTIC, f"{m.case}: neighbours differ by {step * m.roughness:.4f} pixels (root mean square), "
                 f"expected about {step:.4f} = alpha / (sigma sqrt 2): the smoothing is not a Gaussian of sigma "
                 f"pixels.",
                 numbers=f"over {len(measures)} fields, steps are {mean_roughness(measures):.2f} times the expected "
                     f"ones",
                 slip=slip or ("one field for both axes" if alike else ""))  # fmt: skip


def strength_slip(measures: Sequence[Measures]) -> str:
    """What else than the root mean square of each axis is alpha in all fields."""

    def always(quantity: Callable[[Measures], float | NDArray], tolerance: float = 0.02) -> bool:
        return all(np.allclose(quantity(m), m.case.alpha, rtol=tolerance) for m in measures)

    def noise_of_one(m: Measures) -> bool:
        """Whether rms is that of noise of some width after smoothing, 1 / (2 sqrt(pi) sigma), in all fields alike."""
        return bool(np.all((0.1 < m.rms * m.case.sigma) & (m.rms * m.case.sigma < 0.4)))

    if always(lambda m: np.abs(m.field).max()) or always(lambda m: np.abs(m.field).max((1, 2))):
        return "alpha as maximum"
    if always(lambda m: np.sqrt((m.field**2).mean())):
        return "normalised together"
    if always(lambda m: np.sqrt((m.field**2).sum(0).mean())):
        return "length is alpha"
    if always(lambda m: np.abs(m.field).mean((1, 2))):
        return "mean of magnitudes"
    if always(lambda m: m.field.std((1, 2))):
        return "standard deviation"
    sizes = [np.array([m.case.height, m.case.width]) / 2 for m in measures]
    if all(np.allclose(m.rms * size, 1, rtol=0.05) for m, size in zip(measures, sizes, strict=True)):
        return "fractions of the image"
    if all(map(noise_of_one, measures)):
        return "not normalised"
    return ""
