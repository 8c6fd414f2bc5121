"""Draw docs/img/results*.png from a finished comparison on real nodules, and from networks on whole real slices.

    python docs/pictures/results.py COMPARISON                      results.png, results_sizes.png
    python docs/pictures/results.py slices DATA RUN [RUN ...]       results_slices.png

COMPARISON is the --out of examples/compare.py --no-images; DATA a folder of whole slices, each RUN one training. None
of the pictures shows CT: the pictures of a data set belong to the data set.
"""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from lungseg.charts import bar_chart
from lungseg.data.slices import SliceDataset
from lungseg.draw import contact_sheet, error_map, heatmap
from lungseg.evaluation.lesions import SIZES_MM
from lungseg.predictor import load_predictor

IMG = Path(__file__).resolve().parents[1] / "img"


def main(*words: str) -> int:
    if words[0] == "slices":
        draw_slices(Path(words[1]), [Path(run) for run in words[2:]])
    else:
        draw_comparison(Path(words[0]))
    return 0


def draw_comparison(folder: Path) -> None:
    """The comparison's own sheet, and its Dice by lesion size as bars."""
    shutil.copy(folder / "worst_median_best.png", IMG / "results.png")
    with open(folder / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    draw_sizes(rows).save(IMG / "results_sizes.png", optimize=True)


def draw_sizes(rows: list[dict[str, str]]) -> Image.Image:
    """Mean Dice of each network by lesion size, with its interval, from the rows of a comparison.csv."""
    groups = {}
    for row in rows:
        if row["stratum"] in SIZES_MM:
            group = groups.setdefault(f"{row['stratum']}\n{row['patients']} patients", {})
            group[row["network"]] = (float(row["dice"]), float(row["dice_low"]), float(row["dice_high"]))
    title = "mean test Dice by diameter of the lesion, with 95 % intervals"
    return bar_chart(groups, title=title, x_label="mean Dice", size=(800, 500), scale=2)


def draw_slices(data: Path, runs: list[Path], *, shown: int = 3) -> None:
    """The slices with most false positives of the first network, and what the others make of them."""
    slices = SliceDataset(data, "test")
    probs = {run: np.stack([predict(slices[i][0][0].numpy()) for i in range(len(slices))]) for run, predict in
             ((run, load_predictor(run / "best.pt").probs) for run in runs)}  # fmt: skip
    targets = np.stack([slices[i][1][0].numpy() for i in range(len(slices))])  # (n, H, W)
    wrong = ((probs[runs[0]] > 0.5) & (targets == 0)).sum(axis=(1, 2))
    chosen = sorted(np.linspace(0, len(slices) - 1, shown).round().astype(int), key=lambda i: -wrong[i])
    rows = []
    for i in chosen:
        row = [small(error_map(targets[i], p[i] > 0.5)) for p in probs.values()]
        rows.append([*row, *(small(heatmap(p[i])) for p in probs.values())])
    names = [run.name.replace("_", " ") for run in runs]
    columns = [*(f"{name}\nerrors" for name in names), *(f"{name}\nprobability" for name in names)]
    sheet = contact_sheet(rows, row_labels=[slices.records[i].id for i in chosen], column_labels=columns)
    sheet.save(IMG / "results_slices.png", optimize=True)


def small(rgb: np.ndarray) -> np.ndarray:
    """Half the size, of each four pixels the brightest: a spot of one pixel must not vanish."""
    H, W, _ = rgb.shape
    return rgb[: H // 2 * 2, : W // 2 * 2].reshape(H // 2, 2, W // 2, 2, 3).max(axis=(1, 3))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
