"""What a box gives away, and how fine the logits must be: the tables of docs/prompting.md.

    python docs/benchmarks/box_controls.py FOLDER [SPLIT]

FOLDER is a folder of slices, SPLIT one of its splits (test). No network takes part. Boxes are drawn around all that is
lesion in a slice; slices without a lesion are left out.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lungseg.data.manifest import read_manifest
from lungseg.data.slices import read_slice
from lungseg.evaluation.box_controls import bounding_box, inscribed_ellipse, move_sides_out
from lungseg.evaluation.lesions import SIZES_MM, match_lesions, size_class
from lungseg.losses import dice_loss

JITTER = (3, 10)  # pixels; 10 of 512 are MedSAM's 20 of 1024
STRIDES = (2, 4, 8)
STEPS = 60  # of gradient descent on the logits themselves


def read_targets(folder: str, split: str) -> tuple[NDArray[np.bool_], list[str]]:
    """(n, H, W) targets of one shape that hold a lesion, and the size of the largest lesion of each."""
    targets, sizes = [], []
    for record in read_manifest(folder):
        if record.split == split:
            target = read_slice(folder, record)[1] > 0
            if target.any():
                lesions, _ = match_lesions(target, target, record.spacing_mm)
                targets.append(target)
                sizes.append(size_class(max(lesion.diameter for lesion in lesions), "mm"))
    return np.stack(targets), sizes


def dice(pred: NDArray[np.bool_], target: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Dice of each of n masks, (n, H, W)."""
    return 2 * (pred & target).sum((1, 2)) / (pred.sum((1, 2)) + target.sum((1, 2)))


def box_rows(targets: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """Masks that are made of the box alone."""
    shape, rng = targets.shape[1:], np.random.default_rng(0)
    boxes = [bounding_box(target) for target in targets]
    filled = np.zeros_like(targets)
    for mask, (x0, y0, x1, y1) in zip(filled, boxes, strict=True):
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
    rows = {"the box, filled": dice(filled, targets)}
    for most in (0, *JITTER):
        moved = [move_sides_out(box, most, shape, rng) for box in boxes]
        name = "its inscribed ellipse" + (f", sides moved out by 0 to {most} px" if most else "")
        rows[name] = dice(np.stack([inscribed_ellipse(box, shape) for box in moved]), targets)
    return rows


def enlarged(logits: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def stride_rows(targets: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """Masks drawn by logits on a coarser grid, enlarged bilinearly: from the averaged mask, and the best found."""
    rows, goal = {}, torch.from_numpy(targets)[:, None].float()
    for stride in STRIDES:
        share = F.avg_pool2d(goal, stride)  # of lesion in each square
        rows[f"stride {stride}: the averaged mask above 1/2"] = dice(mask_of(share - 0.5, goal), targets)
        logits = (8 * share - 4).requires_grad_()
        optimizer, best = torch.optim.Adam([logits], lr=1.0), np.zeros(len(targets))
        for _ in range(STEPS):
            loss = len(targets) * dice_loss(enlarged(logits, goal.shape[2:]), goal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            best = np.maximum(best, dice(mask_of(logits.detach(), goal), targets))
        rows[f"stride {stride}: the best logits found"] = best
    return rows


def mask_of(logits: Tensor, goal: Tensor) -> NDArray[np.bool_]:
    return (enlarged(logits, goal.shape[2:]) > 0)[:, 0].numpy()


def main(folder: str, split: str = "test") -> int:
    targets, sizes = read_targets(folder, split)
    inside = {name: np.array([size == name for size in sizes]) for name in SIZES_MM}
    print("| mean Dice |", " | ".join(f"{name} ({mask.sum()})" for name, mask in inside.items()), "| all |")
    print("| --- |" + " ---: |" * (len(inside) + 1))
    for name, scores in (box_rows(targets) | stride_rows(targets)).items():
        means = [scores[mask].mean() if mask.any() else np.nan for mask in [*inside.values(), scores >= 0]]
        print(f"| {name} |", " | ".join(f"{mean:.3f}" for mean in means), "|", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
