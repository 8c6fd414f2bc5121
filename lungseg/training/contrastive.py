"""Contrastive training: bring the features of an image and of its sentence together, and those of others apart.

    for epoch in range(20):
        loss = train_clip_epoch(model, batches, optimizer)

The step is that of lungseg/training/step.py with pairs instead of targets, and a temperature that is learned too.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lungseg.losses_contrastive import clip_loss
from lungseg.nn.biomedclip import MOST_SCALE, BiomedCLIP, clip_input


def train_clip_epoch(
    model: BiomedCLIP,
    batches: Iterable[Sequence[Tensor]],
    optimizer: Optimizer,
    *,
    schedule: LRScheduler | None = None,
    grad_clip: float | None = 1.0,
    turns: torch.Generator | None = None,
) -> float:
    """Take one optimizer step per batch; return the mean loss per pair. Computes on the device of the model.

    Args:
        batches: image (B, 1 or 3, H, W) in [0, 1], and token numbers (B, N) of its sentence.
        schedule: stepped after every optimizer step.
        grad_clip: largest norm of the whole gradient; None does not clip.
        turns: turn and mirror each image at random, drawn from this generator, for sentences without a direction.

    Raises:
        ValueError: if there is no batch.
        FloatingPointError: if a loss is NaN or infinite; that batch has not changed the network.
    """
    model.train()
    device = model.logit_scale.device
    total, count = 0.0, 0
    for image, ids in batches:
        image = image if turns is None else turn_each(image, turns)
        image, ids = image.to(device), ids.to(device)
        loss = clip_loss(model(clip_input(image), ids))
        if not loss.isfinite():
            raise FloatingPointError(f"train_clip_epoch: the loss of batch {count} is {loss.item()}. Lower the rate.")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if grad_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MOST_SCALE)
        total, count = total + loss.item() * len(image), count + len(image)
    if not count:
        raise ValueError("train_clip_epoch: there is no batch. Give at least as many pairs as the batch size.")
    return total / count


def turn_each(image: Tensor, generator: torch.Generator) -> Tensor:
    """Turn each square image (B, C, S, S) by 0 to 3 quarter turns, and mirror it or not: one of 8 ways, at random."""
    ways = torch.randint(8, (len(image),), generator=generator).tolist()
    return torch.stack(
        [(one.flip(-1) if way >= 4 else one).rot90(way % 4, (-2, -1)) for one, way in zip(image, ways, strict=True)]
    )
