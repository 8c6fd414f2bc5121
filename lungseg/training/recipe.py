"""Every number of a training run, with its reason.

    @dataclass(frozen=True)
    class Recipe(TrainingRecipe): ...       RECIPES = {"demo": Recipe(...), "report": Recipe(...)}

Each script adds the sizes of its network and names its recipes.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from lungseg.data.splits import Fold
from lungseg.flags import below_1, check_fields, from_to, not_negative, option, positive, share
from lungseg.training.loss import refuse_unused_numbers


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
    augment: Literal["none", "flips", "full", "strong"] = option(
        "full",
        "variations of training images; full: rotation, flips, elastic, brightness, contrast; strong: also scale, "
        "blur, gamma, noise; all in the plane of the slices, but for flips of volumes",
    )
    soft_targets: bool = option(
        False,
        "train on the share of the readers who outlined each pixel, which --data must hold; validation and test keep "
        "the masks",
        before=False,
    )
    crop_size: tuple[int, ...] = option(
        (0,),
        "slices: side of the square crops to train on; slices then keep the size of their files, and are evaluated and "
        "predicted whole, with a sliding window; 0 trains on whole slices",
        check=not_negative,
        before=(0,),
    )
    crops_per_slice: int = option(1, "crops: how many are drawn from each slice in an epoch", before=1)
    foreground: float = option(
        0.5, "crops: share that must hold a lesion; else most hold none", check=share, before=0.5
    )
    neighbours: int = option(
        0,
        "slices below and above each slice that a 2-D network is shown too, as channels",
        check=from_to(0, 16),
        before=0,
    )
    phantom_view: Literal["chest", "nodule"] = option(
        "nodule", "slices, if no --data is given: whole phantoms, or crops around a nodule, which are learned faster"
    )
    phantom_patients: int = option(
        600, "slices: phantom patients to draw; many patients teach more than many slices of a few patients"
    )
    phantom_slices: int = option(2, "slices of each phantom patient")
    negatives: tuple[str, ...] = option(
        (),
        "folders of slices whose training slices are added, mostly without a lesion (mine_negatives.py makes them)",
        before=(),
    )
    folds: int | None = option(
        None,
        "cross-validation: into how many folds all patients but those of the test split are dealt",
        check=from_to(2, 1000),
        before=None,
    )
    fold: int | None = option(
        None,
        "cross-validation: the fold that validates, counted from 0; the others train",
        check=not_negative,
        before=None,
    )

    # the start
    weights: str | None = option(
        None, "file of weights to start from: best.pt of another run, or a published checkpoint", before=None
    )
    freeze_encoder: int = option(
        0,
        "first epochs in which the encoder stays as it was loaded, batch norms included, and only the rest is trained",
        check=not_negative,
        before=0,
    )
    prior_bias: bool = option(
        True,
        "start a fresh head at the share of lesion pixels, negatives included, not at 1/2: saves the steps that only "
        "learn this",
    )

    # optimization
    loss: Literal[
        "bce", "dice", "dice_bce", "tversky", "focal_tversky", "focal", "dice_focal", "dice_boundary", "dice_lesion_bce"
    ] = option("dice_bce", "bce alone barely penalises predicting all background when lesions are tiny; Dice does")
    pos_weight: float = option(
        1.0,
        "bce, dice_bce: cost of a lesion pixel in units of a background pixel; above 1 finds more",
        check=positive,
        before=1.0,
    )
    tversky_beta: float = option(
        0.7,
        "tversky, focal_tversky: weight of missed pixels; false positives weigh the rest of 1",
        check=share,
        before=0.7,
    )
    tversky_gamma: float = option(
        1.33, "focal_tversky: above 1, maps that are nearly right keep a steep slope", check=positive, before=1.33
    )
    focal_gamma: float = option(
        2.0,
        "focal, dice_focal: how little a pixel counts that is nearly right; 0 is bce",
        check=not_negative,
        before=2.0,
    )
    focal_alpha: float | None = option(
        None,
        "focal, dice_focal: weight of lesion pixels, and the rest of 1 for background; none: 1 for both",
        check=share,
        before=None,
    )
    boundary_weight: float = option(
        0.01, "dice_boundary: weight of the boundary loss, which is in pixels", check=positive, before=0.01
    )
    lesion_size: float = option(
        64.0,
        "dice_lesion_bce: how many background pixels each lesion weighs, small or large",
        check=positive,
        before=64.0,
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
    ema: float = option(
        0.0,
        "decay of a running average of the weights, such as 0.999, which is then validated, saved as best.pt and "
        "tested; 0: the weights themselves",
        check=below_1,
        before=0.0,
    )  # fmt: skip
    amp: Literal["auto", "none", "bf16", "fp16"] = option(
        "auto",
        "number type of the forward pass; auto: bf16 on a CUDA GPU, float32 (none) elsewhere; bf16 is faster on CPUs "
        "that support it; fp16 is for CUDA GPUs before Ampere",
    )  # fmt: skip
    threads: int = option(
        0,
        "CPU threads; 0: as many as torch chooses. On small tensors they mostly wait for each other, so 1 is as fast",
        check=not_negative,
        before=0,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        refuse_unused_numbers(self)
        if self.schedule == "plateau" and self.warmup_epochs > 0:
            raise ValueError(
                f"--schedule plateau sets the rate itself, so it must have --warmup-epochs 0, not {self.warmup_epochs}"
            )
        if (self.folds is None) != (self.fold is None):
            raise ValueError("--folds and --fold go together: --folds 5 --fold 0 validates on the first fold of five")
        if self.folds and self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"--fold {self.fold} must be from 0 to {self.folds - 1}: there are {self.folds} folds")
        self.check_crop_size()

    def check_crop_size(self) -> None:
        if len(self.crop_size) != 1:
            raise ValueError(f"crop_size={self.crop_size} must name one side, that of a square")

    @property
    def crop_side(self) -> int | None:
        """Side in pixels of the crops of slices; None if whole slices are trained on."""
        return self.crop_size[0] or None if len(self.crop_size) == 1 else None

    @property
    def cross_validation(self) -> Fold | None:
        """The fold that validates; None if the manifest decides."""
        return None if self.folds is None or self.fold is None else Fold(self.fold, self.folds)


@dataclass(frozen=True)
class VolumeRecipe(TrainingRecipe):
    """For the networks that also take volumes: how to train on them. Training on slices ignores these fields.

    A `crop_size` of three sides, the default, is one for volumes: then whole slices are trained on.
    """

    spatial_dims: Literal[2, 3] = option(2, "2 trains on slices, also on those of volumes; 3 on volumes")
    crop_size: tuple[int, ...] = option(
        (16, 32, 32),
        "volumes: slices, rows and columns of a training crop; slices: side of a square crop, or 0 for whole slices, "
        "which three sides mean too",
        check=not_negative,
    )
    crops_per_volume: int = option(2, "volumes: crops drawn from each volume in an epoch")
    slice_mm: float | None = option(
        None,
        "volumes: resample to slices so many mm apart, in training and prediction, such as 1.25; none: as stored",
        check=positive,
        before=None,
    )
    phantom_volumes: int = option(240, "volumes: phantom patients to draw")
    phantom_shape: tuple[int, int, int] = option((16, 40, 40), "volumes: slices, rows and columns of a phantom")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.negatives and self.spatial_dims == 3:
            raise ValueError("--negatives are slices, so they cannot be added to volumes (--spatial-dims 3)")
        if len(self.phantom_shape) != 3:
            raise ValueError(f"phantom_shape={self.phantom_shape} must name three sides: slices, rows and columns")
        if self.neighbours and self.spatial_dims == 3:
            raise ValueError("--neighbours is for 2-D networks: with --spatial-dims 3 the network sees them anyway")
        if self.slice_mm is not None and self.spatial_dims == 2:
            raise ValueError("--slice-mm is for networks on volumes: give --spatial-dims 3 as well")

    def check_crop_size(self) -> None:
        sides = self.crop_size
        if len(sides) != 3 and (self.spatial_dims == 3 or len(sides) != 1):
            or_one = "" if self.spatial_dims == 3 else "; or, for slices, one"
            raise ValueError(f"crop_size={sides} must name three sides: slices, rows and columns{or_one}")
        if len(sides) == 3 and min(sides) < 1:
            raise ValueError(f"crop_size={sides}: each side must be at least 1")


RENAMED = {"window": "crop_size", "windows_per_volume": "crops_per_volume"}  # fields of 0.1.0 -> fields


def from_older_version(settings: dict[str, Any], kind: type[TrainingRecipe]) -> dict[str, Any]:
    """The settings of a run as this version would have written them, so that it resumes with the same numbers.

    Args:
        kind: the class of its recipe, whose fields say what runs did before they were added (`option(before=...)`).
    """
    settings = {RENAMED.get(name, name): value for name, value in settings.items()}
    if settings.get("amp") == "bf16" and "freeze_encoder" not in settings:
        settings = settings | {"amp": "auto"}  # then bf16 was the default, and on a CPU it meant float32
    if settings.get("spatial_dims") == 3 and "slice_mm" not in settings and settings.get("augment") == "full":
        settings = settings | {"augment": "flips"}  # then volumes had no other variations
    return {f.name: f.metadata["before"] for f in fields(kind) if "before" in f.metadata} | settings
