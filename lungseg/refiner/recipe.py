"""Every number of the training of a refiner, with its reason; each field is a flag of examples/train_refiner.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lungseg.flags import check_fields, from_to, not_negative, option, positive, share


@dataclass(frozen=True)
class RefinerOptions:
    """What belongs to a run and not to its recipe."""

    data: Path | None = option(None, "folder of slices, as prepare_data.py writes it; none draws phantoms")
    out: Path = option(Path("runs/refiner"), "folder of this run; a new or empty one, unless you resume")
    resume: bool = option(False, "continue the run in --out, in the stage in which it was stopped")
    seed: int = option(
        0,
        "start of every random generator: same seed, same machine, same digits",
        check=from_to(0, 2**63 - 1, "2^63 - 1"),
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", "where to compute; auto takes a GPU if there is one")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class RefinerRecipe:
    """Everything that decides what is learned. The defaults are small, for phantoms and one CPU core."""

    # phantoms, if there is no --data
    phantom_patients: int = option(160, "phantoms: patients, each with one nodule of 3 to 25 mm")
    phantom_slices: int = option(3, "phantoms: slices of each patient")
    phantom_size: int = option(64, "phantoms: side of a slice in pixels of 0.7 mm", check=from_to(16, 1024))

    # the proposer
    proposer: str | None = option(
        None, "best.pt of a trained network for slices, which proposes; none trains a small U-Net here"
    )
    img_size: int = option(
        0, "side to which slices are resized for the proposer that is trained here; 0: the longer one of most files",
        check=not_negative,
    )  # fmt: skip
    channels: tuple[int, ...] = option((16, 32, 64), "channels of each stage of that U-Net")
    proposer_batch: int = option(8, "slices in a batch of the proposer")
    proposer_steps: int = option(500, "steps of the proposer, and of each of the two of the cross-fitting")
    proposer_lr: float = option(2e-3, "peak learning rate of the proposer", check=positive)
    cross_fit: bool = option(
        True, "propose on the training slices with networks that have not learned from their patients; without it the "
        "refiner learns from boxes that are better than those it will be given",
    )  # fmt: skip

    # candidates and their crops
    threshold: float = option(
        0.1, "a candidate is a component above this probability: low, for what is not proposed is lost", check=share
    )
    margin: float = option(0.1, "share of its sides by which a candidate's box grows", check=not_negative)
    most: int = option(8, "candidates of a slice, best first")
    crop_size: int = option(
        64,
        "side of a crop in pixels, as MedSAM and BiomedCLIP see it; of published weights: 1024",
        check=from_to(8, 4096),
    )
    context: float = option(2.0, "side of a crop as a multiple of the box's longer side", check=from_to(1, 100))
    smallest: int = option(
        12, "least side of the region that a crop shows, in pixels of the slice", check=from_to(1, 4096)
    )
    jitter: float = option(
        0.1, "true boxes in training: share of the box's own sides by which each side moves", check=share
    )

    # BiomedCLIP
    clip: str | None = option(
        None, "file of weights of BiomedCLIP, published or clip.pt of another run; none trains a tiny one on phantoms"
    )
    vocabulary: str | None = option(None, "with published weights of BiomedCLIP: the file vocab.txt of PubMedBERT")
    use_clip: bool = option(True, "without it the refiner is MedSAM with the proposer's map as a mask prompt")
    clip_dim: int = option(64, "channels of the tiny BiomedCLIP, a multiple of 4")
    clip_depth: int = option(3, "blocks of its image tower")
    clip_patients: int = option(400, "phantoms, each with 4 captioned crops, that it learns from")
    clip_steps: int = option(450, "steps")
    clip_batch: int = option(32, "pairs in a batch, whose other sentences are the wrong ones", check=from_to(2, 2**31))
    clip_lr: float = option(2e-3, "peak learning rate", check=positive)

    # MedSAM
    sam: str | None = option(
        None,
        "file of weights of SAM or MedSAM, published or medsam.pt of another run; none starts a tiny one at random",
    )
    sam_dim: int = option(96, "channels of the tiny MedSAM's image encoder, a multiple of 3")
    sam_depth: int = option(6, "its blocks, an even number", check=from_to(2, 64))
    rank: int = option(
        0, "of LoRA on its queries and values, for weights given with --sam; 0 trains the whole encoder",
        check=not_negative,
    )  # fmt: skip
    sam_steps: int = option(600, "steps on true boxes; 0 takes the weights as they are", check=not_negative)
    sam_lr: float = option(1e-3, "peak learning rate; 1e-4 for published weights", check=positive)

    # the refiner
    refiner_steps: int = option(500, "steps on boxes of the proposer and true ones")
    refiner_lr: float = option(1e-3, "peak learning rate; 1e-4 for published weights", check=positive)
    proposed: float = option(
        0.5, "share of the lesions' boxes that are the proposer's; the others are true", check=share
    )
    false_alarms: float = option(1 / 3, "share of crops that are false alarms, whose IoU should be 0", check=share)
    empty_targets: bool = option(
        False, "learn to draw nothing in a false alarm; without it that is left to the estimated IoU and the judge, "
        "and what is drawn of doubtful lesions is not too small",
        before=True,
    )  # fmt: skip
    prior_dropped: float = option(
        0.5, "share of crops without the mask prompt: else the decoder only copies it", check=share
    )

    # of all stages
    batch_size: int = option(16, "crops in a batch of MedSAM and the refiner")
    weight_decay: float = option(0.01, "pull of weight matrices towards 0", check=not_negative)
    save_every: int = option(50, "steps between two checkpoints within a stage")
    threads: int = option(1, "CPU threads; 0: as many as torch chooses", check=not_negative)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.threshold >= 1 or self.jitter >= 0.5:
            raise ValueError("--threshold must be below 1, and --jitter below 0.5")
        if self.sam_dim % 3 or self.clip_dim % 4 or self.sam_depth % 2:
            raise ValueError("--sam-dim must be a multiple of 3, --clip-dim one of 4, and --sam-depth an even number")
        if not self.use_clip and (self.clip or self.vocabulary):
            raise ValueError("--no-use-clip leaves BiomedCLIP out, so --clip and --vocabulary would do nothing")
        if self.vocabulary and not self.clip:
            raise ValueError("--vocabulary is for published weights of BiomedCLIP: give them with --clip")
