"""An exponential moving average of the weights: smoother than the last step, and often better than any.

    average = decay * average + (1 - decay) * weights        after every step of the optimizer

The steps of a training jump around a minimum; their mean lies closer to it (Polyak and Juditsky 1992). A decay of 0.999
is a mean over about the last 1,000 steps. The network that is trained never sees the average: validation, best.pt and
the test do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lungseg.training.distributed import Processes


class WeightAverage:
    """The running average of everything in a network's state, on its device.

    The decay begins small, min(decay, (1 + t) / (10 + t)) at step t = 0, 1, ...: the average would otherwise remember
    the random weights of the start for thousands of steps. (The rule of TensorFlow's ExponentialMovingAverage.)

    Running statistics of batch norms are averaged with the same decay, so that they describe the inputs that averaged
    weights produce; whole numbers, such as their count of batches, are copied. torch's AveragedModel would do the same
    work, but reads a counter from the GPU at every step and has no small decay at the beginning.

    Args:
        model: the network that is trained (not what `processes.wrap` returned), on its device.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average of weights must be at least 0 and below 1, got {decay}")
        self.model, self.decay, self.steps = model, decay, 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after one more step of the optimizer into the average.

        A step that a GradScaler skipped is no exception: the weights it left as they were are averaged once more.
        """
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)
            else:
                self.weights[name].copy_(value)
        self.steps += 1

    def share(self, processes: Processes) -> None:
        """Take the buffers of the main process, which are the ones that a checkpoint holds.

        Each process has running statistics of its own share of the batches; their weights are the same.
        """
        names = [name for name, _ in self.model.named_buffers() if name in self.weights]
        for name, value in processes.gather({name: self.weights[name].cpu() for name in names})[0].items():
            self.weights[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for name, value in self.weights.items():
            value.copy_(state["weights"][name])


@contextmanager
def averaged_weights(average: WeightAverage | None) -> Iterator[None]:
    """Inside the block the network has its averaged weights; after it, bit by bit those it had before.

    Without an average nothing happens.
    """
    if average is None:
        yield
        return
    own = {name: value.detach().clone() for name, value in average.model.state_dict().items()}
    put(average.weights, average.model)
    try:
        yield
    finally:
        put(own, average.model)


@torch.no_grad()
def put(weights: dict[str, Tensor], model: nn.Module) -> None:
    """Copy values into the parameters and buffers of a network."""
    for name, value in model.state_dict().items():
        value.copy_(weights[name])
