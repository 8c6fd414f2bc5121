"""One epoch of training, and one evaluation: the same for every network.

    for epoch in range(10):
        train_one_epoch(model, train_batches, dice_bce_loss, optimizer)
        print(evaluate(model, val_batches, dice_bce_loss).scores["dice"])

Any DataLoader of (image, target) will do; one of (image, target, id) lets messages and results name the images.
A whole training run, from start to end, is in examples/train_*.py.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from lungseg.evaluation.metrics import class_counts, summarise, summarise_classes
from lungseg.inference import resize_logits
from lungseg.training.distributed import ALONE, Processes, sync_gradients
from lungseg.training.ema import WeightAverage

CHECK_EVERY = 50  # steps between two looks at the losses on a GPU, which has to wait for each look

# (image, target) or (image, target, ids): image (B, C, *spatial), target (B, K, *spatial) of K lesion classes (binary:
# K = 1), ids of the B images
Batches = Iterable[Sequence[Any]]
LossFunction = Callable[[Tensor, Tensor], Tensor]  # (logits, target) -> mean over the images of the batch


# ---- training ---------------------------------------------------------------------------------------------------


def train_one_epoch(
    model: nn.Module,
    batches: Batches,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    *,
    schedule: LRScheduler | None = None,
    grad_clip: float | None = None,
    accumulate: int = 1,
    autocast_dtype: torch.dtype | None = None,
    scaler: GradScaler | None = None,
    frozen: Sequence[nn.Module] = (),
    ema: WeightAverage | None = None,
    processes: Processes = ALONE,
    title: str = "train",
) -> float:
    """Take one optimizer step per batch; return the mean loss per image. Computes on the device of the model.

    Args:
        model: the network; with several processes what `processes.wrap` returned.
        batches: image (B, C, H, W) float32, target (B, K, H, W) float32 in {0, 1} and, optionally, ids of the B images.
        loss_fn: (logits, target) -> scalar, the mean over the images of a batch. (A loss that is not such a mean, as
            Dice pooled over a batch, would differ when the batch is computed in parts or by several processes.)
        schedule: stepped after every optimizer step.
        grad_clip: largest norm of the whole gradient; None does not clip.
        accumulate: compute each batch in this many parts and add their gradients: the same step with less memory.
        autocast_dtype: number type of the forward pass; None is float32.
        scaler: scales the loss so that float16 gradients do not vanish; None, or a disabled one, does nothing.
        frozen: parts of the network that stay in evaluation mode (`freeze`).
        ema: the running average of the weights, updated after every optimizer step.
        title: text before the progress bar, which is silent where there is no terminal.

    Raises:
        ValueError: if there is no batch, or the targets of the first batch are not within [0, 1].
        FloatingPointError: naming the images of a batch whose loss is NaN or infinite. On the CPU that batch has not
            changed the network; on a GPU the network may have been changed, up to CHECK_EVERY steps ago.
    """
    model.train()
    for module in frozen:
        module.eval()
    device = next(model.parameters()).device
    watch = LossWatch(device, processes)
    scaler = scaler or GradScaler(device.type, enabled=False)
    with tqdm(batches, desc=title, leave=False, disable=None if processes.is_main else True) as bar:
        for number, (image, target, ids) in enumerate(with_ids(bar, processes)):
            if number == 0:  # of each epoch: masks of 0 and 255 would train without an error, to a negative loss
                check_target_range(target, ids)
            image, target = to_device(image, device), to_device(target, device)
            optimizer.zero_grad(set_to_none=True)
            share = processes.share(len(image))  # 1.0 in a single process
            loss = torch.zeros((), device=device)
            for part in split_batch(image, target, accumulate):  # one part, unless memory is short
                with sync_gradients(model, part.is_last):
                    with torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                        logits = model(part.image)  # (b, K, H, W)
                    part_loss = part.weight * loss_fn(logits.float(), part.target)  # sums over pixels need float32
                    scaler.scale(share * part_loss).backward()
                loss += part_loss.detach()  # stays on the device: .item() would stall a GPU at every step
            watch.add(loss, ids)
            scaler.unscale_(optimizer)
            if grad_clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
            scaler.step(optimizer)
            scaler.update()
            if schedule is not None:
                optimizer._opt_called = True  # type: ignore[attr-defined]  # or torch warns if the scaler skips step 1
                schedule.step()
            if ema is not None:
                ema.update()
            bar.set_postfix_str(watch.text(), refresh=False)
    if ema is not None:
        ema.share(processes)
    return watch.mean()


def with_ids(batches: Batches, processes: Processes) -> Iterator[tuple[Tensor, Tensor, Sequence[str]]]:
    """(image, target, ids) of each batch; images without ids are numbered in their order."""
    of_process = f" of process {processes.rank}" if processes.size > 1 else ""
    number = 0
    for image, target, *ids in batches:
        yield image, target, ids[0] if ids else [f"image {number + i:06d}{of_process}" for i in range(len(image))]
        number += len(image)


def check_target_range(target: Tensor, ids: Sequence[str]) -> None:
    """Raise a ValueError unless all values of a target are within [0, 1]; soft labels between them are allowed."""
    low, high = (target.min().item(), target.max().item()) if target.numel() else (0, 0)
    if not (low >= 0 and high <= 1):  # NaN fails both
        cure = "Divide the masks by 255." if (low, high) == (0, 255) else "Convert the masks to 0 and 1."
        raise ValueError(
            f"The targets of the batch that begins with {ids[0]} hold values from {low:g} to {high:g}, "
            f"expected 0 (background) to 1 (lesion). {cure}"
        )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy that a CUDA GPU may finish later, while the program continues; other devices would not wait for it."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def freeze(model: nn.Module, names: Sequence[str], frozen: bool) -> list[nn.Module]:
    """Freeze children of a network, or let them be trained again.

    Without requires_grad no gradient is computed for them, and an optimizer ignores parameters without a gradient: no
    step, no weight decay, no running average.

    Args:
        names: of modules and parameters of `model` itself.

    Returns:
        The frozen modules: `train_one_epoch` keeps them in evaluation mode, in which a batch norm uses its running
        statistics without updating them, and dropout is off.
    """
    parts = [getattr(model, name) for name in names]
    for part in parts:
        part.requires_grad_(not frozen)
    return [part for part in parts if isinstance(part, nn.Module)] if frozen else []


@dataclass(frozen=True)
class Part:
    """Some images of a batch; `weight` is their share of it."""

    image: Tensor  # (b, C, H, W)
    target: Tensor  # (b, K, H, W)
    weight: float
    is_last: bool


def split_batch(image: Tensor, target: Tensor, parts: int) -> list[Part]:
    """Split (B, ...) into at most `parts` parts whose weights add up to 1."""
    pairs = list(zip(image.chunk(parts), target.chunk(parts), strict=True))
    return [Part(x, y, len(x) / len(image), is_last=x is pairs[-1][0]) for x, y in pairs]


class LossWatch:
    """The mean loss per image so far; raises an error at the first loss that is not a finite number."""

    def __init__(self, device: torch.device, processes: Processes):
        self.processes = processes
        self.every = 1 if device.type == "cpu" else CHECK_EVERY
        self.waiting: list[tuple[Tensor, Sequence[str]]] = []
        self.total, self.images = 0.0, 0

    def add(self, loss: Tensor, ids: Sequence[str]) -> None:
        """Take the mean loss of a batch; on a GPU look at the losses every CHECK_EVERY batches."""
        self.waiting.append((loss, ids))
        if len(self.waiting) >= self.every:
            self.look()

    def look(self) -> None:
        values = torch.stack([loss for loss, _ in self.waiting]).tolist() if self.waiting else []  # one wait for all
        for value, (_, ids) in zip(values, self.waiting, strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"The loss became {value} on the batch of slices {', '.join(ids)}. "
                    f"Lower the learning rate, clip the gradient (--grad-clip), or look at these slices."
                )
            self.total += value * len(ids)
            self.images += len(ids)
        self.waiting.clear()

    def text(self) -> str:
        return f"loss {self.total / self.images:.4f}" if self.images else ""

    def mean(self) -> float:
        """Mean loss per image over all processes; a ValueError if none had an image."""
        self.look()
        totals, images = zip(*self.processes.gather((self.total, self.images)), strict=True)
        if sum(images) == 0:
            raise ValueError("There was no batch: the loader is empty, or was read to its end before. Give it images.")
        return sum(totals) / sum(images)


# ---- evaluation -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """What a network predicts on a set of images: the pixel counts of each, and the mean loss."""

    ids: list[str]  # sorted
    counts: Tensor  # int64 tp, fp, fn, tn, in the order of ids: (n, 4), or with K > 1 classes (n, K, 4)
    loss: float
    classes: Sequence[str] = ()  # their names; () numbers them

    @property
    def class_names(self) -> list[str]:
        """One per class, also for a binary network."""
        return list(self.classes) or [f"class {k}" for k in range(1, self.counts[0].numel() // 4 + 1)]

    @property
    def scores(self) -> dict[str, float]:
        """The loss, and the scores of `lungseg.evaluation.metrics.summarise`, or of `summarise_classes`."""
        if self.counts.ndim == 3:
            return {"loss": self.loss} | summarise_classes(self.counts, self.classes)
        return {"loss": self.loss} | summarise(self.counts)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Batches,
    loss_fn: LossFunction,
    *,
    classes: Sequence[str] = (),
    autocast_dtype: torch.dtype | None = None,
    processes: Processes = ALONE,
    title: str = "evaluate",
) -> Evaluation:
    """Compare the predictions with the targets; every image counts once, however many processes share the work.

    Each of K > 1 channels is evaluated on its own: a class is predicted where its probability is above 1/2. So the
    channels may also be maps that overlap.

    Args:
        model: the network itself, not what `processes.wrap` returned: processes may have unequal numbers of batches.
        batches: as in `train_one_epoch`; each process brings its own images.
        classes: names of the K channels, for the scores; () numbers them.

    Returns:
        The result over the images of all processes, the same in each. The network is left in the mode it was in, also
        after an error.

    Raises:
        ValueError: if there is no image, or one was given twice, to one process or to two.
        FloatingPointError: as in `train_one_epoch`.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    watch = LossWatch(device, processes)
    names: list[str] = []
    counts: list[Tensor] = []
    bar = tqdm(batches, desc=title, leave=False, disable=None if processes.is_main else True)
    try:
        for image, target, ids in with_ids(bar, processes):
            image, target = to_device(image, device), to_device(target, device)
            with torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                logits = model(image)  # (B, K, H, W)
            logits = resize_logits(logits, target.shape[2:])  # of volumes that were resampled
            watch.add(loss_fn(logits.float(), target), ids)
            names.extend(ids)
            counts.append(class_counts(logits, target))  # (B, K, 4), still on the device
    finally:
        model.train(was_training)
    return Evaluation(*gather_counts(names, counts, processes), watch.mean(), classes)


def gather_counts(names: list[str], counts: list[Tensor], processes: Processes) -> tuple[list[str], Tensor]:
    """Ids and pixel counts of the images of all processes, sorted by id: int64 (n, 4), or (n, K, 4) of K > 1 classes.

    Args:
        names, counts: of this process: the ids of all its images, and (B, K, 4) of each of its batches.
    """
    ours = list(zip(names, torch.cat(counts).tolist(), strict=True)) if counts else []
    everyone = sorted(row for share in processes.gather(ours) for row in share)
    ids = [id_ for id_, _ in everyone]
    if len(set(ids)) < len(ids):
        twice = next(a for a, b in zip(ids, ids[1:], strict=False) if a == b)
        raise ValueError(f"evaluate: slice {twice} was given twice. Share the slices out without padding or overlap.")
    table = torch.tensor([row for _, row in everyone], dtype=torch.int64)  # (n, K, 4)
    return ids, table.squeeze(1) if table.shape[1:] == (1, 4) else table
