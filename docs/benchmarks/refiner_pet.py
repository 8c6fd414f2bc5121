"""Does PET help to outline a nodule? One tiny network, the same phantom crops with PET, without, and with another's.

    python docs/benchmarks/refiner_pet.py [--steps 800] [--seeds 0 1]

The box is the whole crop, so it says nothing. In training the PET is missing in half of the crops: one network is
measured with and without. The PET of another patient is the control: it has bright spots too, in the wrong places.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from lungseg.data.ct import hu_to_unit
from lungseg.data.phantoms.pet import pet_to_unit
from lungseg.data.phantoms.scene import phantom_crops
from lungseg.losses import dice_bce_loss
from lungseg.nn.refiner import CandidateRefiner
from lungseg.nn.sam import MedSAM
from lungseg.training.machine import seed_everything
from lungseg.training.optim import warmup_cosine, weight_decay_groups

SIZE, SLICES, BATCH = 64, 2, 16
KINDS = ("ground-glass", "solid")
SIZES_MM = ((3.0, 5.0), (5.0, 8.0), (8.0, 15.0), (15.0, 25.0))
WAYS = ("CT", "CT + PET", "CT + PET of another patient")


class Crops(NamedTuple):
    """Crops of phantom patients; the two slices of a patient stand side by side."""

    ct: Tensor  # (N, 1, S, S) in [0, 1]
    pet: Tensor  # (N, 1, S, S), 1 is an SUV of 5
    target: Tensor  # (N, 1, S, S)


def draw(kind: str, diameter_mm: tuple[float, float], patients: range) -> Crops:
    """The crops of patients with one nodule of that kind and size; a patient's number is its seed."""
    slices = []
    for patient in patients:
        rng = np.random.default_rng([patient, KINDS.index(kind), round(diameter_mm[0])])
        slices += phantom_crops(rng, num=SLICES, size=SIZE, diameter_mm=diameter_mm, kinds=(kind,), pet=True)
    stack = [torch.from_numpy(np.stack(part))[:, None].float() for part in (
        [hu_to_unit(s.hu) for s in slices], [pet_to_unit(s.pet) for s in slices if s.pet is not None],
        [s.target > 0 for s in slices],
    )]  # fmt: skip
    return Crops(*stack)


def turned(crops: Crops, turn: int) -> Crops:
    """All three turned and mirrored alike, in one of eight ways."""
    return Crops(*(part.rot90(turn % 4, (2, 3)).flip(3) if turn >= 4 else part.rot90(turn, (2, 3)) for part in crops))


def train(crops: Crops, steps: int, seed: int) -> nn.Module:
    """A refiner for CT and one further scan, which is missing half of the time."""
    seed_everything(seed, torch.device("cpu"))
    network = CandidateRefiner(MedSAM.tiny(1), modalities=1)
    optimizer = torch.optim.AdamW(weight_decay_groups(network, 0.01), lr=1e-3, fused=True)
    rng = np.random.default_rng(seed)
    for step in tqdm(range(steps), desc=f"seed {seed}", leave=False, disable=None):
        chosen = rng.choice(len(crops.ct), BATCH, replace=False)
        batch = turned(Crops(*(part[chosen] for part in crops)), int(rng.integers(8)))
        present = torch.from_numpy(rng.random((BATCH, 1)) < 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * warmup_cosine(step, warmup_steps=steps // 20, total_steps=steps)
        out = network(batch.ct, whole(batch.ct), extra=batch.pet, present=present)
        optimizer.zero_grad(set_to_none=True)
        dice_bce_loss(out.mask_logits, batch.target, squared=True).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network.eval()


def whole(ct: Tensor) -> Tensor:
    """The box around all of each crop."""
    return torch.tensor([[0.0, 0, SIZE - 1, SIZE - 1]]).expand(len(ct), 4)


@torch.no_grad()
def dice(network: nn.Module, crops: Crops, way: str) -> NDArray[np.float64]:
    """The mean Dice of each patient, (N / SLICES,)."""
    pet = crops.pet.roll(len(crops.pet) // 2 // SLICES * SLICES, dims=0) if way == WAYS[2] else crops.pet
    present = torch.full((len(pet), 1), way != WAYS[0])
    parts = zip(*(part.split(BATCH) for part in (crops.ct, pet, present)), strict=True)
    logits = torch.cat([network(ct, whole(ct), extra=extra, present=there).mask_logits for ct, extra, there in parts])
    drawn, true = logits > 0, crops.target > 0
    both, sizes = (drawn & true).sum((1, 2, 3)), (drawn.sum((1, 2, 3)) + true.sum((1, 2, 3))).clamp(min=1)
    return (2 * both / sizes).reshape(-1, SLICES).mean(dim=1).double().numpy()


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table: kinds and sizes, the Dice in three ways, and what PET adds, with the interval over patients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--patients", type=int, default=150, help="of each kind and size, to learn from")
    parser.add_argument("--held-out", type=int, default=100, help="of each kind and size, to be measured on")
    a = parser.parse_args(argv)
    strata = [(kind, size) for kind in KINDS for size in SIZES_MM]
    learned = [draw(*stratum, range(a.patients)) for stratum in strata]
    networks = [train(Crops(*map(torch.cat, zip(*learned, strict=True))), a.steps, seed) for seed in a.seeds]
    print(f"| nodule | {' | '.join(WAYS)} | gain of PET (95 %) |\n| --- |" + " ---: |" * 4)
    rng = np.random.default_rng(0)
    for kind, (low, high) in strata:
        crops = draw(kind, (low, high), range(a.patients, a.patients + a.held_out))
        of_way = [np.mean([dice(network, crops, way) for network in networks], axis=0) for way in WAYS]
        gain = of_way[1] - of_way[0]
        draws = [gain[rng.integers(len(gain), size=len(gain))].mean() for _ in range(2000)]
        least, most = np.percentile(draws, [2.5, 97.5])
        cells = " | ".join(f"{d.mean():.3f}" for d in of_way)
        print(
            f"| {kind}, {low:g}-{high:g} mm | {cells} | {gain.mean():+.3f} ({least:+.3f} to {most:+.3f}) |", flush=True
        )


if __name__ == "__main__":
    main()
