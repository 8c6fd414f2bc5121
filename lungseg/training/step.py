"""What every training script shares: the step, the schedule, the evaluation, and an allocator that keeps its memory.

The story of a training, epoch by epoch, stands in examples/train_*.py.
"""

import contextlib
import ctypes
import math
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from lungseg.evaluation.metrics import class_counts, summarise, summarise_classes
from lungseg.training.distributed import ALONE, Processes

CHECK_EVERY = 50  # steps between two looks at the losses on a GPU, where each look makes it wait

# image (B, C, *spatial), target (B, K, *spatial) of K lesion classes (binary: K = 1), ids of the B slices or volumes
Batches = Iterable[tuple[Tensor, Tensor, Sequence[str]]]
LossFunction = Callable[[Tensor, Tensor], Tensor]  # (logits, target) -> mean over the images of the batch


# ---- one epoch --------------------------------------------------------------------------------------------------


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
    processes: Processes = ALONE,
    title: str = "train",
) -> float:
    """Visit every batch once, one optimizer step each; return the mean loss per image.

    Args:
        model: the network, as `processes.wrap` returned it.
        batches: image (B, C, H, W) float32, target (B, K, H, W) float32 in {0, 1}, ids of the B slices.
        loss_fn: (logits, target) -> scalar, the mean over the images of a batch. (With a loss that is no such
            mean, as Dice pooled over a batch, parts and processes no longer add up to the whole batch.)
        schedule: stepped after every optimizer step.
        grad_clip: largest norm of the whole gradient; None leaves it as it is.
        accumulate: compute each batch in this many parts and add their gradients: the same step, less memory.
        autocast_dtype: type of the forward pass; None is float32.
        scaler: scales the loss so that float16 gradients do not vanish; None, or a disabled one, does nothing.
        frozen: parts of the network that stay in evaluation mode (`freeze`).
        title: stands before the progress bar, which is silent where there is no terminal.

    Raises:
        FloatingPointError: naming the slices of a batch whose loss is NaN or infinite. On the CPU the network
            has not been changed by that batch; on a GPU it may have been, up to CHECK_EVERY steps ago.
    """
    model.train()
    for part in frozen:
        part.eval()
    device, watch = processes.device, LossWatch(processes)
    scaler = scaler or GradScaler(device.type, enabled=False)
    with tqdm(batches, desc=title, leave=False, disable=None if processes.is_main else True) as bar:
        for image, target, ids in bar:
            image, target = to_device(image, device), to_device(target, device)
            optimizer.zero_grad(set_to_none=True)
            share = processes.share(len(image))  # 1.0 if we are alone
            loss = torch.zeros((), device=device)
            for part in split_batch(image, target, accumulate):
                with average_gradients(model, part.is_last):
                    with torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                        logits = model(part.image)  # (b, K, H, W)
                    part_loss = part.weight * loss_fn(logits.float(), part.target)  # pixel sums need float32
                    scaler.scale(share * part_loss).backward()
                loss += part_loss.detach()  # stays on the device: .item() would stall a GPU at every step
            watch.add(loss, ids)
            scaler.unscale_(optimizer)
            if grad_clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
            scaler.step(optimizer)
            scaler.update()
            if schedule is not None:
                schedule.step()
            bar.set_postfix_str(watch.text(), refresh=False)
    return watch.mean()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy that a CUDA GPU may finish later, while the program goes on; elsewhere nobody would wait for it."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def freeze(model: nn.Module, names: Sequence[str], frozen: bool) -> list[nn.Module]:
    """Let children of a network stand still, or learn again.

    Without requires_grad no gradient of theirs is computed, and an optimizer leaves parameters without a gradient
    alone: no step, no weight decay, no average of gradients.

    Args:
        names: of modules and parameters of `model` itself.

    Returns:
        The modules that stand still: `train_one_epoch` keeps them in evaluation mode, in which a batch norm takes its
        running statistics and leaves them as they are, and nothing is dropped out.
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
    """Cut (B, ...) into at most `parts` parts whose weights add up to 1."""
    pairs = list(zip(image.chunk(parts), target.chunk(parts), strict=True))
    return [Part(x, y, len(x) / len(image), is_last=x is pairs[-1][0]) for x, y in pairs]


def average_gradients(model: nn.Module, now: bool) -> contextlib.AbstractContextManager:
    """With DDP, let the processes talk only once for each batch: in its last part."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not now else contextlib.nullcontext()


class LossWatch:
    """The mean loss per image so far, and an alarm at the first loss that is not a finite number."""

    def __init__(self, processes: Processes):
        self.processes = processes
        self.every = 1 if processes.device.type == "cpu" else CHECK_EVERY
        self.waiting: list[tuple[Tensor, Sequence[str]]] = []
        self.total, self.images = 0.0, 0

    def add(self, loss: Tensor, ids: Sequence[str]) -> None:
        """Take the mean loss of a batch; every CHECK_EVERY batches on a GPU, look at them."""
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
        """Mean loss per image over all processes."""
        self.look()
        totals, images = zip(*self.processes.gather((self.total, self.images)), strict=True)
        return sum(totals) / sum(images)


# ---- evaluation -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """What a network does on a set of slices: the pixel counts of each, and the mean loss."""

    ids: list[str]  # sorted
    counts: Tensor  # int64 tp, fp, fn, tn, in the order of ids: (n, 4), or of K > 1 classes (n, K, 4)
    loss: float
    classes: Sequence[str] = ()  # their names; () numbers them

    @property
    def class_names(self) -> list[str]:
        """One for each class; of a binary network too."""
        return list(self.classes) or [f"class {k}" for k in range(1, self.counts[0].numel() // 4 + 1)]

    @property
    def scores(self) -> dict[str, float]:
        """The loss, and `lungseg.evaluation.metrics.summarise`; of several classes `summarise_classes`."""
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
    """Compare the network with the targets; every slice counts once, however many processes share the work.

    Of K > 1 channels each is judged by itself: a class is predicted where its own probability is above 1/2. So the
    channels may also be maps that overlap.

    Args:
        model: the network itself, not what `processes.wrap` returned: processes may have unequal numbers of batches.
        batches: as in `train_one_epoch`; each process brings its own slices.
        classes: names of the K channels, for the scores; () numbers them.

    Returns:
        The same for every process: the slices of all of them. The network is back in the mode it was in.

    Raises:
        ValueError: if a slice was given twice, to one process or to two.
        FloatingPointError: as in `train_one_epoch`.
    """
    was_training = model.training
    model.eval()
    device, watch, names, counts = processes.device, LossWatch(processes), [], []
    for image, target, ids in tqdm(batches, desc=title, leave=False, disable=None if processes.is_main else True):
        image, target = to_device(image, device), to_device(target, device)
        with torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
            logits = model(image)  # (B, K, H, W)
        watch.add(loss_fn(logits.float(), target), ids)
        counts.append(class_counts(logits, target))  # (B, K, 4)
        names.extend(ids)
    model.train(was_training)
    ours = list(zip(names, torch.cat(counts).tolist(), strict=True)) if counts else []
    rows = sorted(row for share in processes.gather(ours) for row in share)
    ids = [id_ for id_, _ in rows]
    if len(set(ids)) < len(ids):
        twice = next(a for a, b in zip(ids, ids[1:], strict=False) if a == b)
        raise ValueError(f"evaluate: slice {twice} was given twice. Share the slices out without padding or overlap.")
    counts = torch.tensor([count for _, count in rows], dtype=torch.int64)  # (n, K, 4)
    if counts.shape[1:] == (1, 4):  # binary
        counts = counts.squeeze(1)  # (n, 4)
    return Evaluation(ids, counts, watch.mean(), classes)


# ---- the optimizer's settings, and the machine ------------------------------------------------------------------


def weight_decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups for AdamW: decay for weight matrices and kernels; none for biases, norms and bias tables.

    A norm's gain belongs near 1 and a bias anywhere, so pulling them towards 0 is no regularisation. The
    relative position bias is excluded too, as in Swin (Liu et al. 2021).
    """
    decay, rest = [], []
    for name, p in model.named_parameters():
        plain = p.ndim < 2 or name.endswith("relative_position_bias_table")
        (rest if plain else decay).append(p)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int, floor: float = 0.01) -> float:
    """The learning rate of a step as a fraction of its peak, for `torch.optim.lr_scheduler.LambdaLR`.

    It rises in a straight line over the first warmup_steps, then follows half a cosine (Loshchilov and Hutter
    2017, equation 5, without restarts) down to `floor` of the peak.

    Args:
        step: optimizer steps done so far, from 0.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps  # never 0: the first step would be wasted
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def keep_freed_memory() -> bool:
    """On Linux with glibc, keep the memory of freed tensors for the next ones; return whether that was possible.

    By default glibc hands each large block back to the kernel when it is freed, and asks for it anew a moment
    later. The kernel must then clear it again, one page fault for every 4 KiB, at every step. Call this once,
    before a training on the CPU.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    no_separate_blocks, never_give_back = mallopt(m_mmap_max, 0), mallopt(m_trim_threshold, 2**31 - 1)
    return bool(no_separate_blocks and never_give_back)
