"""Every number of a training run, with its reason.

    @dataclass(frozen=True)
    class Recipe(TrainingRecipe): ...       RECIPES = {"demo": Recipe(...), "report": Recipe(...)}

Each script adds the sizes of its network and names its recipes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lungseg.flags import check_fields, from_to, not_negative, option, positive, share
from lungseg.losses import bce_loss, dice_bce_loss, dice_loss

LOSSES = {"bce": bce_loss, "dice": dice_loss, "dice_bce": dice_bce_loss}


@dataclass(frozen=True)
class RunOptions:
    """What belongs to a run and not to its recipe."""

    data: Path | None = option(
        None, "folder of slices, as prepare_data.py writes it, or of volumes; none draws phantoms"
    )
    out: Path = option(Path("runs/train"), "folder of this run; a new or empty one, unless you resume")
    resume: bool = option(False, "continue the run in --out; a run that was stopped in its first epoch starts again")
    seed: int = option(
        0,
        "start of every random generator: same seed, same machine, same digits",
        check=from_to(0, 2**63 - 1, "2^63 - 1"),
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = option(
        "auto", "where to compute; auto takes a GPU if there is one; mps is that of an Apple computer"
    )
    num_workers: int = option(
        0, "processes that read and augment slices; the result does not depend on it", check=from_to(0, 1024)
    )
    compile: bool = option(False, "compile the network first: minutes at the start, faster steps on a GPU")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything that decides what is learned, except the network."""

    # data
    img_size: int = option(
        64, "slices: side in pixels to which they are resized; twice the side costs four times as much"
    )
    augment: Literal["none", "flips", "full"] = option(
        "full",
        "variations of training images; full: rotation, flips, elastic, brightness, contrast; of volumes, in the plane "
        "of the slices",
    )
    phantom_view: Literal["chest", "nodule"] = option(
        "nodule", "slices, if no --data is given: whole phantoms, or crops around a nodule, which are learned faster"
    )
    phantom_patients: int = option(
        600, "slices: phantom patients to draw; many patients teach more than many slices of a few patients"
    )
    phantom_slices: int = option(2, "slices of each phantom patient")

    # the start
    weights: str | None = option(
        None, "file of weights to start from: best.pt of another run, or a published checkpoint"
    )
    freeze_encoder: int = option(
        0,
        "first epochs in which the encoder stays as it was loaded, batch norms included, and only the rest is trained",
        check=not_negative,
    )
    prior_bias: bool = option(
        True, "start a fresh head at the share of lesion pixels, not at 1/2: saves the steps that only learn this"
    )

    # optimization
    loss: Literal["bce", "dice", "dice_bce"] = option(
        "dice_bce", "bce alone barely penalises predicting all background when lesions are tiny; Dice does"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = option(
        "adamw", "adamw decouples weight decay from the scale of the gradient; sgd does not rescale gradients"
    )
    lr: float = option(5e-4, "peak learning rate, as for Swin; at 2e-3 the outcome depends on luck", check=positive)
    momentum: float = option(0.9, "sgd: share of the last step that is kept; 0 is Keras' default", check=not_negative)
    weight_decay: float = option(0.05, "pull of weight matrices towards 0; Swin uses 0.05", check=not_negative)
    warmup_epochs: float = option(
        2.0, "epochs of rising learning rate: Adam's averages are unreliable at first", check=not_negative
    )
    schedule: Literal["constant", "cosine", "plateau"] = option(
        "cosine", "cosine ends with small steps; plateau lowers the rate when the score stops improving"
    )
    plateau_patience: int = option(
        10, "plateau: epochs without a better score before the rate is divided by ten", check=not_negative
    )
    min_lr: float = option(1e-7, "plateau: lower bound of the learning rate", check=not_negative)
    grad_clip: float | None = option(
        1.0, "largest norm of the gradient; one odd batch must not undo an epoch", check=positive
    )
    batch_size: int = option(8, "samples per optimizer step, over all processes together; fewer samples, more steps")
    accumulate: int = option(1, "parts in which a batch is computed to save memory; the step stays the same")
    epochs: int = option(35, "largest number of passes over the training slices")
    patience: int | None = option(
        None, "stop after so many epochs without a better score; none runs all epochs", check=not_negative
    )
    min_epochs: int = option(0, "never stop before so many epochs are done", check=not_negative)
    monitor: Literal["dice", "iou", "loss"] = option("dice", "validation score that decides which epoch is the best")
    amp: Literal["auto", "none", "bf16", "fp16"] = option(
        "auto",
        "number type of the forward pass; auto: bf16 on a CUDA GPU, float32 (none) elsewhere; bf16 is faster on CPUs "
        "that support it; fp16 is for CUDA GPUs before Ampere",
    )  # fmt: skip
    threads: int = option(
        0,
        "CPU threads; 0: as many as torch chooses. On small tensors they mostly wait for each other, so 1 is as fast",
        check=not_negative,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.schedule == "plateau" and self.warmup_epochs > 0:
            raise ValueError(
                f"--schedule plateau sets the rate itself, so it must have --warmup-epochs 0, not {self.warmup_epochs}"
            )


@dataclass(frozen=True)
class VolumeRecipe(TrainingRecipe):
    """For the networks that also take volumes: how to train on them. Training on slices ignores these fields."""

    spatial_dims: Literal[2, 3] = option(2, "2 trains on slices, 3 on volumes")
    crop_size: tuple[int, int, int] = option((16, 32, 32), "volumes: slices, rows and columns of a training crop")
    crops_per_volume: int = option(2, "volumes: crops drawn from each volume in an epoch")
    foreground: float = option(0.5, "volumes: share of crops that must hold a lesion; else most hold none", check=share)
    slice_mm: float | None = option(
        None,
        "volumes: resample to slices so many mm apart, in training and prediction, such as 1.25; none: as stored",
        check=positive,
    )
    phantom_volumes: int = option(240, "volumes: phantom patients to draw")
    phantom_shape: tuple[int, int, int] = option((16, 40, 40), "volumes: slices, rows and columns of a phantom")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("crop_size", "phantom_shape"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name}={getattr(self, name)} must name three sides: slices, rows and columns")
        if self.slice_mm is not None and self.spatial_dims == 2:
            raise ValueError("--slice-mm is for networks on volumes: give --spatial-dims 3 as well")


RENAMED = {"window": "crop_size", "windows_per_volume": "crops_per_volume"}  # fields of 0.1.0 -> fields


def from_older_version(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run as this version would have written them, so that it resumes with the same numbers."""
    settings = {RENAMED.get(name, name): value for name, value in settings.items()}
    added: dict[str, Any] = {"weights": None, "freeze_encoder": 0, "threads": 0}
    if settings.get("amp") == "bf16" and "freeze_encoder" not in settings:
        settings = settings | {"amp": "auto"}  # then bf16 was the default, and on a CPU it meant float32
    if settings.get("spatial_dims") == 3 and "slice_mm" not in settings and settings.get("augment") == "full":
        settings = settings | {"augment": "flips"}  # then volumes had no other variations
    if "spatial_dims" in settings:
        added["slice_mm"] = None
    return added | settings
