"""Training in stages that can be stopped anywhere and continued with the same digits.

    RUN/medsam.pt            a finished stage: its weights, and the line it printed
    RUN/medsam.partial.pt    a stage in work: weights, optimizer, steps done

Each step draws from generators that depend only on the seed, the stage and the step, so the state of no generator has
to be kept: step 17 is the same whether the run was stopped before it or not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lungseg.checkpoint import load_checkpoint, save_checkpoint
from lungseg.training.machine import seed_everything
from lungseg.training.optim import warmup_cosine, weight_decay_groups
from lungseg.training.resume import load_parts
from lungseg.typed import RESTORE, expect

LossOfStep = Callable[[nn.Module, int, np.random.Generator], Tensor]


def read_stage(path: str, name: str, entry: str) -> dict[str, Any]:
    """The file of a stage of another run, NAME.pt, as a flag of this one gives it.

    Args:
        entry: the name of its arguments, besides "model".

    Raises:
        ValueError: if it is another file of ours.
    """
    saved = load_checkpoint(path)
    if saved.get("stage") != name:
        found = f"{saved['stage']}.pt" if isinstance(saved.get("stage"), str) else "another checkpoint"
        raise ValueError(
            f"{path}: expected {name}.pt of a run of train_refiner.py, or published weights, got {found}. Give one of "
            f"these."
        )
    expect(saved, {entry: dict, "model": dict}, path)
    return saved


class Stages:
    """The stages of one run, in its folder.

    Args:
        out: the folder.
        seed: of the run.
        device: where to compute.
        save_every: steps between two checkpoints within a stage.
        weight_decay, grad_clip: of every stage.
    """

    def __init__(
        self,
        out: Path,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        save_every: int = 50,
        weight_decay: float = 0.01,
        grad_clip: float = 1.0,
    ):
        self.out, self.seed, self.device = out, seed, torch.device(device)
        self.save_every, self.weight_decay, self.grad_clip = save_every, weight_decay, grad_clip

    def path(self, name: str) -> Path:
        return self.out / f"{name}.pt"

    def partial(self, name: str) -> Path:
        return self.out / f"{name}.partial.pt"

    def finished(self, name: str) -> dict[str, Any] | None:
        """What a finished stage has written, or None; a ValueError if it cannot be read."""
        if not self.path(name).exists():
            return None
        saved = load_checkpoint(self.path(name))
        expect(saved, {"stage": str, "model": dict, "line": str}, str(self.path(name)))
        self.partial(name).unlink(missing_ok=True)  # a kill may have come between the two
        return saved

    def read_finished(self, name: str) -> dict[str, Any] | None:
        """As `finished`; its line is printed again. Ask first in each stage: a finished one needs no input any more."""
        if saved := self.finished(name):
            print(saved["line"], flush=True)
        return saved

    def finish(self, name: str, model: dict[str, Tensor], line: str, **entries: Any) -> None:
        """Write the file of a finished stage; print its line."""
        save_checkpoint(self.path(name), {"stage": name, "model": model, "line": line, **entries})
        self.partial(name).unlink(missing_ok=True)
        print(line, flush=True)

    def rng(self, name: str, step: int) -> np.random.Generator:
        """The generator of one step; -1 is that of the preparation."""
        return np.random.default_rng([self.seed, crc32(name.encode()), step + 1])

    def train(
        self,
        name: str,
        build: Callable[[], nn.Module],
        loss_of: LossOfStep,
        *,
        steps: int,
        lr: float,
        describe: Callable[[nn.Module], str] | None = None,
        **entries: Any,
    ) -> nn.Module:
        """Train what `build` returns, from the step at which it was stopped; or read it, if the stage is finished.

        Args:
            build: the network at its start; drawn from a generator that depends on the seed and the stage.
            loss_of: (network, step, generator of the step) -> the loss of a batch.
            steps, lr: how many; and the peak of the learning rate, which rises over 5 % of them and falls as a cosine.
            describe: what the line of the stage says of the trained network.
            entries: what else its file holds.

        Returns:
            The network in evaluation mode.
        """
        seed_everything(int(self.rng(name, -1).integers(2**62)), self.device)
        model = build().to(self.device)
        if saved := self.read_finished(name):
            load_parts({"model": model}, saved, self.path(name))
            return model.eval()
        losses = self._steps(name, model, loss_of, steps, lr)
        model.eval()
        last = losses[-max(1, steps // 10) :]
        loss = f", loss {np.mean(last):.3f}" if last else ""
        told = describe(model) if describe else ""
        self.finish(name, model.state_dict(), f"{name}: {steps} steps{loss}{told and ', ' + told}", **entries)
        return model

    def _steps(self, name: str, model: nn.Module, loss_of: LossOfStep, steps: int, lr: float) -> list[float]:
        """All steps that are still to do; the losses of all."""
        groups = weight_decay_groups(model, self.weight_decay)
        for group in groups:
            group["params"] = [p for p in group["params"] if p.requires_grad]
        optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
        losses = self._continue(name, model, optimizer, steps)
        model.train()
        for step in tqdm(range(len(losses), steps), desc=name, leave=False, disable=None):
            rng = self.rng(name, step)
            torch.manual_seed(int(rng.integers(2**62)))  # of dropout, if a network has any
            for group in optimizer.param_groups:
                group["lr"] = lr * warmup_cosine(step, warmup_steps=max(1, steps // 20), total_steps=steps)
            loss = loss_of(model, step, rng)
            if not loss.isfinite():
                raise FloatingPointError(f"{name}: the loss of step {step} is {loss.item()}. Lower its learning rate.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), self.grad_clip)
            optimizer.step()
            losses.append(loss.item())
            if len(losses) % self.save_every == 0 and len(losses) < steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
                save_checkpoint(self.partial(name), state)
        return losses

    def _continue(self, name: str, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
        """Load what a stopped stage has left; the losses of the steps that are done."""
        path = self.partial(name)
        if not path.exists():
            return []
        saved = load_checkpoint(path)
        expect(saved, {"model": dict, "optimizer": dict, "losses": list}, str(path))
        load_parts({"model": model, "optimizer": optimizer}, saved, path)
        if len(saved["losses"]) > steps:
            raise ValueError(f"{path} is damaged: {len(saved['losses'])} steps of {steps} are done. {RESTORE}")
        return saved["losses"]
