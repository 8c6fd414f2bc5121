"""Draw docs/img/mistakes_*.png: the curves of a small U-Net trained on phantoms with one mistake, and without.

Takes about two minutes on one core. `python docs/pictures/mistakes.py NAME ...` draws only these.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lungseg.charts import line_chart
from lungseg.data.ct import hu_to_unit
from lungseg.data.phantoms.scene import phantom_crops
from lungseg.draw import contact_sheet
from lungseg.evaluation.metrics import confusion_counts, per_image
from lungseg.losses import bce_loss, dice_bce_loss
from lungseg.nn.unet import UNet

IMG = Path(__file__).resolve().parents[1] / "img"
SIZE, BATCH, EPOCHS, PARTS = 48, 8, 20, 4  # pixels, images, epochs, and points of the loss curve in an epoch
Data = tuple[Tensor, Tensor]  # images, targets: (n, 1, SIZE, SIZE) float32 in [0, 1]; 0 and 1

MISTAKES = {  # name of the file -> title
    "sigmoid_twice": "sigmoid twice: the network ends in one, and the loss applies another",
    "zero_grad": "zero_grad forgotten: each step uses the sum of all gradients so far",
    "rate": "learning rate 0.3 instead of 0.003",
    "sign": "the Dice is minimised: loss = Dice instead of 1 - Dice",
    "bce": "BCE alone, where 2.8 % of the pixels are lesion",
    "pairs": "targets of other images: the two lists of files are sorted differently",
    "shifted": "targets moved by 3 pixels against their images, in training only",
    "order": "no shuffling of a set that is sorted by lesion size",
    "eval": "model.eval() before the first epoch, and never model.train()",
    "train": "no model.eval() in validation, one image at a time",
    "grey": "grey levels 0 to 255 in validation, 0 to 1 in training",
    "leak": "trained on 12 patients, validated on other slices of the same 12",
}


def crops(patients: range, num: int = 2) -> Data:
    """`num` neighbouring slices of each patient, around a nodule of 5 to 16 mm."""
    slices = [
        s for p in patients
        for s in phantom_crops(np.random.default_rng(p), num=num, size=SIZE, spacing_mm=1.0, diameter_mm=(5.0, 16.0))
    ]  # fmt: skip
    images = torch.from_numpy(np.stack([hu_to_unit(s.hu) for s in slices])).float()
    targets = torch.from_numpy(np.stack([s.target for s in slices])).float()
    return images[:, None], targets[:, None]


def spoiled(mistake: str, images: Tensor, targets: Tensor) -> Data:
    """The training set with the mistakes that are in the data."""
    if mistake == "pairs":
        return images, targets.roll(7, dims=0)
    if mistake == "shifted":
        return images, targets.roll((3, 3), dims=(2, 3))
    if mistake == "order":
        order = targets.sum((1, 2, 3)).argsort()
        return images[order], targets[order]
    return images, targets


def compute_loss(mistake: str, logits: Tensor, target: Tensor) -> Tensor:
    if mistake == "sigmoid_twice":
        return dice_bce_loss(logits.sigmoid(), target)
    if mistake == "sign":
        return 1 - (dice_bce_loss(logits, target) - bce_loss(logits, target))
    return bce_loss(logits, target) if mistake == "bce" else dice_bce_loss(logits, target)


@torch.no_grad()
def validate(mistake: str, network: UNet, images: Tensor, targets: Tensor) -> float:
    """Mean Dice of the images that have one."""
    if mistake not in ("eval", "train"):
        network.eval()
    if mistake == "grey":
        images = 255 * images
    outputs = [network(image) for image in images.split(1 if mistake == "train" else len(images))]
    logits = torch.cat(outputs)
    if mistake == "sigmoid_twice":
        logits = logits.sigmoid()
    return per_image(confusion_counts(logits, targets))["dice"].nanmean().item()


def train(mistake: str, training: Data, validation: Data) -> tuple[list, list]:
    """(epoch, loss) four times in each epoch, and (epoch, validation Dice)."""
    torch.manual_seed(0)
    network = UNet(channels=(8, 16, 32))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.3 if mistake == "rate" else 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    images, targets = spoiled(mistake, *training)
    steps, losses, dice = len(images) // BATCH, [], []
    if mistake == "eval":
        network.eval()
    for epoch in range(EPOCHS):
        if mistake != "eval":
            network.train()
        order = torch.arange(len(images)) if mistake == "order" else torch.randperm(len(images))
        for step, batch in enumerate(order.split(BATCH)):
            loss = compute_loss(mistake, network(images[batch]), targets[batch])
            if mistake != "zero_grad":
                optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append((epoch + (step + 1) / steps, loss.item()))
        schedule.step()
        dice.append((epoch + 1, validate(mistake, network, *validation)))
    part = steps // PARTS
    means = [tuple(np.mean(losses[i : i + part], axis=0)) for i in range(0, len(losses), part)]
    return means, dice


def picture(title: str, runs: dict[str, tuple[list, list]]) -> Image.Image:
    """Training loss and validation Dice of the runs, beside each other."""
    charts = []
    for i, what in enumerate(("training loss", "validation Dice")):
        curves = {name: run[i] for name, run in runs.items() if run[i]}
        y_range = (0, 1) if i else (0, 2)
        charts.append(line_chart(curves, title=what, x_label="epoch", y_range=y_range, size=(420, 230), scale=2))
    return contact_sheet([[contact_sheet([charts])]], column_labels=[title], font_size=32)


def main(*names: str) -> int:
    start = time.process_time()
    training, new_patients = crops(range(64)), crops(range(1000, 1032))
    few = crops(range(12), num=8)
    healthy = train("", training, new_patients)
    for name in names or MISTAKES:
        if name == "leak":  # the same training twice: only what it is validated on differs
            half, rest = (tuple(part[i::2] for part in few) for i in (0, 1))
            runs = {"new patients": train("", half, new_patients), "same patients": train("", half, rest)}
        else:
            runs = {"healthy": healthy, "mistake": train(name, training, new_patients)}
        sheet = picture(MISTAKES[name], runs)
        sheet.quantize(64).save(IMG / f"mistakes_{name}.png", optimize=True)
        for run, (losses, dice) in runs.items():
            print(
                f"{name}, {run}: loss {losses[-1][1]:.3f}, Dice {dice[-1][1]:.3f}, best {max(d for _, d in dice):.3f}"
            )
    print(f"{time.process_time() - start:.0f} s of a core")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
