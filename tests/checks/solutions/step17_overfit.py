"""Step 17 of 25: one training step; with it your network must memorise a single batch.

Clear the gradients, forward, loss, backward, step, in train mode; return the loss as a number.
Hint: a network that cannot memorise four images is broken, and more data will not help it.
Read: docs/training.md. Time: about 20 minutes.
"""

from collections.abc import Callable

from step16_swin_unet import SwinUNet
from torch import Tensor, nn
from torch.optim import Optimizer

NETWORK = SwinUNet  # the check trains this network with your step


def train_step(model: nn.Module, image: Tensor, target: Tensor, loss_fn: Callable, optimizer: Optimizer) -> float:
    """One step on one batch; loss_fn takes (logits, target)."""
    model.train()
    optimizer.zero_grad()
    loss = loss_fn(model(image), target)
    loss.backward()
    optimizer.step()
    return loss.item()
