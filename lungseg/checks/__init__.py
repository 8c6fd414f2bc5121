"""Properties that every correct implementation has, ours or a student's: `check_*(implementation)`.

A check returns None, or raises an `AssertionError` with the smallest counterexample it found. From the command line:
`python -m lungseg.checks student.py`.
"""

from collections.abc import Callable

from lungseg.checks.requirements import check_requirements

check_requirements()  # before the first import of hypothesis, which may not be installed

from lungseg.checks.attention import check_attention, check_window_attention
from lungseg.checks.augment import check_augmentation, check_elastic_displacement
from lungseg.checks.losses import check_dice_loss, check_loss_in_half_precision
from lungseg.checks.metrics import check_confusion_counts, check_hausdorff95, check_per_image, check_summarise
from lungseg.checks.network import check_overfits_one_batch, check_segmentation_network
from lungseg.checks.patches import check_patch_expanding, check_patch_merging
from lungseg.checks.running import run_checks
from lungseg.checks.windows import check_relative_position_index, check_shifted_window_mask, check_window_round_trip

__all__ = [
    "CHECKS",
    "check_attention",
    "check_augmentation",
    "check_confusion_counts",
    "check_dice_loss",
    "check_elastic_displacement",
    "check_hausdorff95",
    "check_loss_in_half_precision",
    "check_overfits_one_batch",
    "check_patch_expanding",
    "check_patch_merging",
    "check_per_image",
    "check_relative_position_index",
    "check_segmentation_network",
    "check_shifted_window_mask",
    "check_summarise",
    "check_window_attention",
    "check_window_round_trip",
    "run_checks",
]

# What `python -m lungseg.checks` looks for in a file, for `run_checks(module, CHECKS)`: names -> the check of them.
CHECKS: dict[tuple[str, ...], Callable[..., None]] = {
    ("window_partition", "window_reverse"): check_window_round_trip,
    ("shifted_window_mask",): check_shifted_window_mask,
    ("relative_position_index",): check_relative_position_index,
    ("attention",): check_attention,
    ("WindowAttention",): check_window_attention,
    ("PatchMerging",): check_patch_merging,
    ("PatchExpanding",): check_patch_expanding,
    ("augment",): check_augmentation,
    ("elastic_displacement",): check_elastic_displacement,
    ("dice_loss",): check_dice_loss,
    ("confusion_counts",): check_confusion_counts,
    ("per_image",): check_per_image,
    ("summarise",): check_summarise,
    ("hausdorff95",): check_hausdorff95,
}
