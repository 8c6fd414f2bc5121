"""FROC: how many lesions are found, against how many false positives a reader must reject in each scan.

    matches = [match_candidates(find_candidates(probs > 0.1, probs, spacing), target, id=id, group=patient), ...]
    rows = froc_rows(matches)

Free-response ROC (Bunch et al. 1977; Chakraborty 1989): candidates have scores, and any threshold on the score is an
operating point. The rates of false positives, and the mean over them, are those of the LUNA16 challenge (Setio et al.
2017, Medical Image Analysis 42:1-13).

A candidate hits a lesion if one of its voxels is on it, as in `lungseg.evaluation.lesions`. (LUNA16 has no outlines: it
asks whether the candidate's centre is within the radius of the nodule.) Several candidates on one lesion count once,
with the highest score; none of them is a false positive. A candidate that touches no lesion but what some reader
outlined counts as neither: it is what LUNA16 calls an irrelevant finding (there, what fewer than three of four readers
marked as a nodule of at least 3 mm).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy import special

from lungseg.candidates import Candidate
from lungseg.charts import line_chart
from lungseg.data.volumes import VolumeDataset
from lungseg.evaluation.lesions import connected_components
from lungseg.evaluation.tables import Column, Value, markdown_table

RATES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)  # false positives per scan
FEWEST_SCANS = 10  # for an interval by bootstrap
COLUMNS = (
    Column("FP per scan, at most", "fp_per_scan"),
    Column("sensitivity (95 %)", "sensitivity", with_interval=True),
    Column("lesions found", "found"),
    Column("score above", "score", decimals=4),
)


@dataclass(frozen=True)
class ScanMatches:
    """What the candidates of one scan hit."""

    id: str
    group: str  # patient
    lesion_scores: tuple[float, ...]  # the highest score on each lesion; -inf if no candidate hits it
    fp_scores: tuple[float, ...]  # of the candidates that hit nothing
    ignored: int = 0  # number of candidates on what is no lesion, and no mistake either


def match_candidates(
    candidates: Sequence[Candidate], target: ArrayLike, *, id: str, group: str, ignore: NDArray | None = None
) -> ScanMatches:
    """Compare candidates with the lesions of a target, its connected components.

    Args:
        target: (D, H, W), lesion where it is not 0.
        ignore: (D, H, W), not 0 where a candidate that hits no lesion is not a false positive either, such as what
            fewer readers outlined than a lesion needs.
    """
    lesions, num = connected_components(np.asarray(target) != 0)
    scores, false_positives, num_ignored = [-math.inf] * num, [], 0
    for candidate in candidates:
        hit = np.unique(lesions[candidate.box][candidate.region])
        for number in hit[hit > 0].tolist():
            scores[number - 1] = max(scores[number - 1], candidate.score)
        if hit.any():
            continue
        if ignore is not None and np.any(ignore[candidate.box][candidate.region]):
            num_ignored += 1
        else:
            false_positives.append(candidate.score)
    return ScanMatches(id, group, tuple(scores), tuple(false_positives), num_ignored)


def match_all(data: VolumeDataset, found: Mapping[str, Sequence[Candidate]]) -> list[ScanMatches]:
    """`match_candidates` for each volume of a data set, whose lesions may be of several classes.

    Where a volume has `votes`, what any reader outlined is ignored unless it is lesion.

    Args:
        found: id -> the candidates of the volume.
    """
    matches = []
    for index, record in enumerate(data.records):
        target = data[index][1].amax(dim=0).numpy()  # (D, H, W), of any class
        about = {"id": record.id, "group": record.group}
        matches.append(match_candidates(found[record.id], target, ignore=data.votes(index), **about))
    return matches


# ---- the curve --------------------------------------------------------------------------------------------------


class Froc:
    """The FROC curve of some scans, also with each scan counted several times or not at all.

    Args:
        matches: of each scan.
    """

    def __init__(self, matches: Sequence[ScanMatches]):
        lesions = [(score, i) for i, m in enumerate(matches) for score in m.lesion_scores]
        positives = sorted(((score, i) for i, m in enumerate(matches) for score in m.fp_scores), reverse=True)
        self.lesion_scores, self._lesion_scan = as_columns(lesions)
        self.fp_scores, self._fp_scan = as_columns(positives)  # the highest first
        self.scans = len(matches)

    def score_above(self, rates: Sequence[float], weights: NDArray | None = None) -> NDArray[np.float64]:
        """(rates,): the lowest limit with at most so many false positives per scan among the scores above it.

        No interpolation: between two candidates there is no operating point.

        Args:
            weights: (scans,) how often each scan counts; None is once.
        """
        weights = np.ones(self.scans) if weights is None else weights
        allowed = np.asarray(rates) * weights.sum() + 1e-9  # 1e-9: rounding must not cost one
        total = np.cumsum(weights[self._fp_scan])  # false positives down to each score
        first = np.searchsorted(total, allowed, side="right")  # the first that is too many, (rates,)
        return np.append(self.fp_scores, -math.inf)[first]

    def sensitivity(self, rates: Sequence[float] = RATES, weights: NDArray | None = None) -> NDArray[np.float64]:
        """(rates,): the share of lesions with a score above `score_above`; NaN if there is no lesion."""
        weights = np.ones(self.scans) if weights is None else weights
        counts = weights[self._lesion_scan]  # (lesions,)
        found = self.lesion_scores > self.score_above(rates, weights)[:, None]  # (rates, lesions)
        with np.errstate(invalid="ignore"):
            return (found @ counts) / counts.sum()


def as_columns(pairs: Sequence[tuple[float, int]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(score, scan) pairs as two arrays."""
    return np.array([score for score, _ in pairs], float), np.array([scan for _, scan in pairs], np.int64)


def bootstrap_froc(
    matches: Sequence[ScanMatches], *, rates: Sequence[float] = RATES, draws: int = 2000, seed: int = 0
) -> NDArray[np.float64]:
    """(draws, rates): the sensitivities of as many patients as there are, drawn at random with replacement."""
    rng, froc = np.random.default_rng(seed), Froc(matches)
    _, patient = np.unique([m.group for m in matches], return_inverse=True)  # (scans,)
    num = patient.max() + 1
    drawn = [np.bincount(rng.integers(0, num, num), minlength=num)[patient].astype(float) for _ in range(draws)]
    return np.stack([froc.sensitivity(rates, weights) for weights in drawn])


# ---- table, text and picture --------------------------------------------------------------------------------------


def froc_rows(matches: Sequence[ScanMatches], *, draws: int = 2000, seed: int = 0) -> list[dict[str, Value]]:
    """A row for each of RATES, and "mean", the competition metric of LUNA16.

    Returns:
        "fp_per_scan"; "sensitivity" with "_low" and "_high" (NaN with fewer than FEWEST_SCANS patients); "found", the
        number of lesions; "score", above which candidates count.
    """
    froc = Froc(matches)
    values, limits = froc.sensitivity(), froc.score_above(RATES)
    bounds = np.full((2, len(RATES) + 1), math.nan)
    if len({m.group for m in matches}) >= FEWEST_SCANS and len(froc.lesion_scores):
        drawn = bootstrap_froc(matches, draws=draws, seed=seed)  # (draws, rates)
        drawn = np.column_stack([drawn, drawn.mean(axis=1)])
        bounds = np.nanpercentile(drawn, [2.5, 97.5], axis=0)  # (2, rates + 1)
    named = [f"{rate:g}" for rate in RATES]
    found = [int((froc.lesion_scores > limit).sum()) for limit in limits]
    rows: list[dict[str, Value]] = [
        {"fp_per_scan": name, "sensitivity": value, "found": n, "score": max(limit, 0.0)}
        for name, value, n, limit in zip(named, values.tolist(), found, limits.tolist(), strict=True)
    ]
    rows.append({"fp_per_scan": "mean", "sensitivity": float(values.mean()), "found": "", "score": math.nan})
    for row, (low, high) in zip(rows, bounds.T.tolist(), strict=True):
        row |= {"sensitivity_low": low, "sensitivity_high": high}
    return rows


def froc_text(matches: Sequence[ScanMatches], rows: Sequence[dict[str, Value]]) -> list[str]:
    """Paragraphs for a report: the table, and what the numbers of scans and lesions can show."""
    scans, lesions = len(matches), sum(len(m.lesion_scores) for m in matches)
    positives = sum(len(m.fp_scores) for m in matches)
    hit = sum(score > -math.inf for m in matches for score in m.lesion_scores)
    table = markdown_table(rows, COLUMNS[1:], names=("fp_per_scan",)).replace("fp_per_scan", COLUMNS[0].header, 1)
    text = (
        f"FROC: the share of lesions found, by the number of false positives (FP) per scan that is allowed. Scans: "
        f"{scans}, lesions: {lesions}. A candidate hits a lesion if one of its voxels is on it. All candidates "
        f"together: {hit} of {lesions} lesions found, {positives / scans:.2f} FP per scan; a lower --threshold makes "
        f"more candidates."
    )
    if ignored := sum(m.ignored for m in matches):
        text += (
            f" Candidates that count as neither, because some readers outlined what they touch, but too few for a "
            f"lesion: {ignored} (irrelevant findings, as in LUNA16)."
        )
    return [text, table, *few_remark(scans, len({m.group for m in matches}), lesions, hit)]


def few_remark(scans: int, patients: int, lesions: int, hit: int) -> list[str]:
    """What a small number of scans cannot show; [] if there are enough for an interval."""
    if patients >= FEWEST_SCANS or not lesions:
        return []
    low, high = exact_interval(hit, lesions)
    return [
        f"What these numbers can and cannot show: {hit} of {lesions} lesions found agree with any true share from "
        f"{low:.0%} to {high:.0%} (95 %, if lesions are independent). Fewer than {1 / scans:.2g} FP per scan means "
        f"none at all here, and nothing shows how much patients differ: an interval by bootstrap needs at least "
        f"{FEWEST_SCANS} of them."
    ]


def exact_interval(found: int, of: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of Clopper and Pearson (1934) for a share, here in per cent of a few lesions."""
    tail = (1 - level) / 2
    low = float(special.betaincinv(found, of - found + 1, tail)) if found else 0.0
    high = float(special.betaincinv(found + 1, of - found, 1 - tail)) if found < of else 1.0
    return low, high


def draw_froc(curves: dict[str, Sequence[ScanMatches]], *, scale: int = 2) -> Image.Image:
    """The curves, from 1/8 to 8 false positives per scan, as steps: name -> scans."""
    series = {}
    for name, matches in curves.items():
        rates = np.geomspace(RATES[0], RATES[-1], 400)
        series[name] = list(zip(rates.tolist(), Froc(matches).sensitivity(rates.tolist()).tolist(), strict=True))
    return line_chart(
        series,
        title="FROC",
        x_label="false positives per scan",
        y_label="sensitivity per lesion",
        y_range=(0, 1),
        log="x",
        scale=scale,
    )
