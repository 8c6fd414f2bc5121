"""Draw docs/img/results*.png: the table of docs/results.md as bars, and trained networks on real crops and slices.

    python docs/pictures/results.py sizes                            results_sizes.png
    python docs/pictures/results.py crops DATA RUN [RUN ...]         results.png
    python docs/pictures/results.py slices DATA RUN [RUN ...]        results_slices.png

DATA is a folder of crops or of whole slices, each RUN one training. No picture shows CT: the pictures of a data set
belong to the data set.
"""

import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from lungseg.charts import bar_chart
from lungseg.data.slices import SliceDataset
from lungseg.draw import contact_sheet, error_map, heatmap
from lungseg.evaluation.lesions import SIZES_MM, equal_diameter, size_class
from lungseg.predictor import load_predictor

DOCS = Path(__file__).resolve().parents[1]
IMG = DOCS / "img"
CELL = re.compile(r"\*{0,2}([0-9.]+)\*{0,2} \(([0-9.]+) to ([0-9.]+)\)")  # 0.795 (0.769 to 0.819)


def main(what: str, *words: str) -> int:
    if what == "sizes":
        draw_sizes((DOCS / "results.md").read_text()).save(IMG / "results_sizes.png", optimize=True)
    elif what == "crops":
        draw_crops(Path(words[0]), [Path(run) for run in words[1:]])
    else:
        draw_slices(Path(words[0]), [Path(run) for run in words[1:]])
    return 0


def draw_sizes(page: str) -> Image.Image:
    """The page's table of Dice by size as bars, so that table and picture cannot differ."""
    rows = [line.strip("| \n").split(" | ") for line in page.splitlines() if line.count(" to ") == len(SIZES_MM)]
    head = next(line for line in page.splitlines() if line.startswith("| network | < 5 mm")).strip("| ").split(" | ")
    groups = {
        name: {network: tuple(map(float, CELL.match(cells[i]).groups())) for network, *cells in rows}
        for i, name in enumerate(head[1:])
    }
    title = "mean test Dice by diameter of the lesion, with 95 % intervals"
    return bar_chart(groups, title=title, x_label="mean Dice", size=(800, 600), scale=2)


def draw_crops(data: Path, runs: list[Path]) -> None:
    """Two test crops of each size, the first network's lower quartile and median, and the errors of each network."""
    test = SliceDataset(data, "test")
    networks = [load_predictor(run / "best.pt", batch_size=64) for run in runs]
    targets = np.stack([test[i][1][0].numpy() for i in range(len(test))]).astype(bool)  # (n, H, W)
    preds = [np.stack([p.probs(test[i][0][0].numpy()) > 0.5 for i in range(len(test))]) for p in networks]
    dice = [2 * (p & targets).sum((1, 2)) / (p.sum((1, 2)) + targets.sum((1, 2))) for p in preds]  # (n,) each
    mm = [equal_diameter(int(t.sum()), r.spacing_mm, ndim=2) for t, r in zip(targets, test.records, strict=True)]
    pictures, captions = [], []
    for size in SIZES_MM:
        of_size = sorted((i for i in range(len(test)) if size_class(mm[i], "mm") == size), key=lambda i: dice[0][i])
        for i in (of_size[len(of_size) // 4], of_size[len(of_size) // 2]):
            pictures.append([heatmap(targets[i]), *(error_map(targets[i], p[i]) for p in preds)])
            captions.append([f"{mm[i]:.0f} mm", *(f"Dice {d[i]:.2f}" for d in dice)])
    sheet = contact_sheet(
        list(zip(*pictures, strict=True)), row_labels=["target", *(run.name.replace("_", " ") for run in runs)],
        captions=list(zip(*captions, strict=True)), scale=3, font_size=26,
    )  # fmt: skip
    sheet.save(IMG / "results.png", optimize=True)


def draw_slices(data: Path, runs: list[Path], *, shown: int = 3) -> None:
    """The first, middle and last slice, most false positives of the first network first."""
    slices = SliceDataset(data, "test")
    networks = [load_predictor(run / "best.pt", batch_size=64) for run in runs]
    targets = np.stack([slices[i][1][0].numpy() for i in range(len(slices))])  # (n, H, W)
    chosen = np.linspace(0, len(slices) - 1, shown).round().astype(int).tolist()
    probs = {i: [p.probs(slices[i][0][0].numpy()) for p in networks] for i in chosen}
    chosen.sort(key=lambda i: -((probs[i][0] > 0.5) & (targets[i] == 0)).sum())
    rows = [
        [*(small(error_map(targets[i], p > 0.5)) for p in probs[i]), *(small(heatmap(p)) for p in probs[i])]
        for i in chosen
    ]
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
