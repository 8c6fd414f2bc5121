"""What is timed: each function here returns a call without arguments, and prepares everything that must not count."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lungseg.benchmark.costs import count_costs
from lungseg.checkpoint import InputSpec, save_checkpoint
from lungseg.data.augment import Augmentation
from lungseg.data.ct import hu_to_unit
from lungseg.data.phantoms.folders import write_phantom_folder
from lungseg.data.phantoms.scene import phantom_volume
from lungseg.data.slices import SliceDataset
from lungseg.losses import dice_bce_loss
from lungseg.nn.unet import UNet
from lungseg.predictor import Predictor
from lungseg.scan_prediction import predict_in_parts
from lungseg.training.batches import train_batches
from lungseg.training.optim import make_optimizer
from lungseg.training.recipe import TrainingRecipe
from lungseg.training.step import train_one_epoch

CHEST_MM = 360.0  # field of view of a phantom slice
HU_WINDOW = (-1000.0, 400.0)


# ---- networks ---------------------------------------------------------------------------------------------------


def warm_up(device: torch.device) -> None:
    """Compute and count once, so that the libraries which torch loads then are not taken for memory of a work."""
    for dims in (2, 3):
        image = random_image((1, 1, *[16] * dims), device)
        count_costs(train_work(UNet(channels=(4, 8), spatial_dims=dims).to(device), image))


def random_image(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Grey values in [0, 1], the same at each call."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)


def forward_work(model: nn.Module, image: Tensor, dtype: torch.dtype = torch.float32) -> Callable[[], Any]:
    """One prediction (B, C, *spatial) -> logits, without gradients; the model must be in evaluation mode."""

    def work() -> Any:
        with torch.no_grad(), torch.autocast(image.device.type, dtype=dtype, enabled=dtype != torch.float32):
            return model(image)

    return work


def train_work(
    model: nn.Module, image: Tensor, dtype: torch.dtype = torch.float32, *, classes: int = 1
) -> Callable[[], float]:
    """One training step as in examples/train_*.py: forward, loss, backward, clipping, AdamW; on the same batch."""
    recipe = TrainingRecipe(lr=1e-6)  # so that even many steps leave the network as it was
    target = (image[:, :1] > 0.9).float().repeat_interleave(classes, dim=1)  # (B, K, *spatial)
    optimizer = make_optimizer(recipe, model)
    autocast = None if dtype == torch.float32 else dtype

    def work() -> float:
        return train_one_epoch(
            model, [(image, target)], dice_bce_loss, optimizer, grad_clip=recipe.grad_clip, autocast_dtype=autocast
        )

    return work


# ---- whole slices and scans -------------------------------------------------------------------------------------


def untrained_predictor(network: nn.Module, spatial: tuple[int, ...], batch_size: int = 8) -> Predictor:
    """A predictor as `load_predictor` returns it for a network that was trained on images of this size."""
    scale = (1.0,) * len(spatial)
    spec = InputSpec(size=spatial, scale=scale, hu_window=HU_WINDOW, spacing_mm=None, source_scale=scale)
    return Predictor(network.eval(), spec, batch_size=batch_size)


def phantom_hu(slices: int, side: int) -> NDArray[np.int16]:
    """(D, H, W) HU of a synthetic chest, the same at each call."""
    spacing = CHEST_MM / side
    return phantom_volume(np.random.default_rng(0), shape=(slices, side, side), spacing_mm=(1.5, spacing, spacing))[0]


def slice_work(predictor: Predictor, hu: NDArray) -> Callable[[], NDArray]:
    """The probabilities of the middle slice of a scan, by sliding window."""
    grey = predictor.grey(hu[len(hu) // 2])
    return lambda: predictor.probs(grey)


def scan_work(predictor: Predictor, hu: NDArray) -> Callable[[], Any]:
    """Labels and probabilities of all slices of a scan, as examples/predict.py computes them."""
    return lambda: predict_in_parts(predictor, hu, None, 0.5)


# ---- data and files ---------------------------------------------------------------------------------------------


def random_pair(side: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """An image in [0, 1] and a target in {0, 1}, as an augmentation takes them."""
    grey = hu_to_unit(phantom_hu(1, side)[0], HU_WINDOW)
    return grey, (grey > 0.9).astype(np.uint8)


def augmentation_work(image: NDArray, target: NDArray) -> Callable[[], Any]:
    """One image and its target through every variation that is on by default, always with an elastic deformation."""
    augment, rng = Augmentation(elastic_probability=1.0), np.random.default_rng(0)
    return lambda: augment(image, target, rng)


def loader_work(folder: Path, *, side: int, num_workers: int) -> tuple[Callable[[], int], int]:
    """Read an epoch of augmented slices in batches of 8: the call, and the number of slices in an epoch.

    Args:
        folder: where a folder of phantom slices is written first.
        num_workers: processes that read; 0 reads in this one.
    """
    write_phantom_folder(folder, num_patients=4, slices_per_patient=8, size=side)
    data = SliceDataset(folder, "train", augment=Augmentation())
    batches = train_batches(data, 8, seed=0, num_workers=num_workers)
    return lambda: sum(len(image) for image, _, _ in batches), len(data)


def checkpoint_work(folder: Path, model: nn.Module) -> tuple[Callable[[], None], int]:
    """Save a network and the state of its optimizer: the call, and the bytes of their tensors."""
    parameters = list(model.parameters())
    optimizer = make_optimizer(TrainingRecipe(), model)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer.step()  # now it has a state
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    size = 3 * sum(math.prod(p.shape) * p.element_size() for p in parameters)  # AdamW keeps two numbers for each
    return lambda: save_checkpoint(folder / "last.pt", state), size
