"""Draw docs/img/results.png and print the table of docs/results.md, from a finished run on real nodules.

    python docs/pictures/results.py RUN DATA

The sheet shows targets, probabilities and errors, not the CT: the pictures of a data set belong to the data set.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from lungseg.checkpoint import load_checkpoint
from lungseg.data.folder import SliceDataset
from lungseg.draw import prediction_sheet
from lungseg.metrics import confusion_counts, per_image, summarise
from lungseg.nn import SwinUNet

IMG = Path(__file__).resolve().parents[1] / "img"
SIZES_MM = [(0, 5), (5, 10), (10, 20), (20, 99)]


@torch.no_grad()
def main(run: str, data: str) -> int:
    saved = load_checkpoint(Path(run) / "best.pt")
    network = SwinUNet(**saved["network"]["arguments"]).eval()
    network.load_state_dict(saved["model"])
    slices = SliceDataset(data, "test", size=saved["recipe"]["img_size"])
    targets = [slices[i][1] for i in range(len(slices))]
    logits = [network(slices[i][0][None])[0] for i in range(len(slices))]  # each (1, H, W)
    counts = confusion_counts(torch.stack(logits), torch.stack(targets))  # (n, 4)
    dice = per_image(counts)["dice"].numpy()

    spacing = np.array([r.spacing_mm for r in slices.records])
    diameter = 2 * spacing * np.sqrt(np.array([t.sum().item() for t in targets]) / np.pi)  # of a disc of equal area
    groups = np.array([r.group for r in slices.records])
    rng = np.random.default_rng(0)
    print("| diameter | windows | patients | mean Dice | 95 % interval |\n|---|---|---|---|---|")
    for low, high in [*SIZES_MM, (0, 99)]:
        chosen = (diameter >= low) & (diameter < high)
        name = "all" if (low, high) == (0, 99) else f"{low} to {high} mm" if high < 99 else f"{low} mm and more"
        low_dice, high_dice = bootstrap(dice[chosen], groups[chosen], rng)
        row = f"| {name} | {chosen.sum()} | {len(set(groups[chosen]))} | {dice[chosen].mean():.3f} |"
        print(f"{row} {low_dice:.3f} to {high_dice:.3f} |")
    print({name: round(value, 4) for name, value in summarise(counts).items()})

    ranked = np.argsort(dice, kind="stable")
    rows = []
    for name, place in [("worst", 0), ("lower quartile", 0.25), ("median", 0.5), ("upper quartile", 0.75), ("best", 1)]:
        i = ranked[int(place * (len(ranked) - 1))]
        caption = f"{name}\nDice {dice[i]:.3f}\n{diameter[i]:.0f} mm"
        rows.append((caption, None, targets[i][0].numpy(), logits[i][0].sigmoid().numpy()))
    prediction_sheet(rows, scale=2).save(IMG / "results.png")
    return 0


def bootstrap(dice: np.ndarray, groups: np.ndarray, rng: np.random.Generator, draws: int = 2000) -> np.ndarray:
    """The middle 95 % of the mean Dice when whole patients are drawn anew, with replacement."""
    names = np.unique(groups)
    sums = np.array([dice[groups == name].sum() for name in names])
    sizes = np.array([(groups == name).sum() for name in names])
    chosen = rng.integers(0, len(names), (draws, len(names)))
    return np.percentile(sums[chosen].sum(1) / sizes[chosen].sum(1), [2.5, 97.5])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
