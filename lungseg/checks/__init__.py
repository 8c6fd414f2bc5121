"""Checks of anyone's implementation, ours or a student's: `check_*(implementation)`, and `python -m lungseg.checks`.

A check returns None, or raises `Wrong`, an AssertionError whose text is the answer: the smallest counterexample, the
rule, the mistake that explains it, and the page to read.
"""

from typing import TYPE_CHECKING

from lungseg._lazy import lazy_exports

if TYPE_CHECKING:  # for editors and type checkers; at run time each name is imported when it is first used
    from lungseg.checks.data.augment import check_augmentation as check_augmentation
    from lungseg.checks.data.elastic import check_elastic_displacement as check_elastic_displacement
    from lungseg.checks.data.intensities import (
        check_hu_to_grey as check_hu_to_grey,
        check_hu_to_unit as check_hu_to_unit,
    )
    from lungseg.checks.data.splits import check_split_by_group as check_split_by_group
    from lungseg.checks.exercises import EXERCISES as EXERCISES
    from lungseg.checks.lessons import Wrong as Wrong
    from lungseg.checks.networks.attention import check_attention as check_attention
    from lungseg.checks.networks.blocks import check_transformer_block as check_transformer_block
    from lungseg.checks.networks.bottleneck import check_bottleneck as check_bottleneck
    from lungseg.checks.networks.heads import (
        check_merge_heads as check_merge_heads,
        check_split_heads as check_split_heads,
    )
    from lungseg.checks.networks.hidden_states import (
        check_hidden_states as check_hidden_states,
        check_tokens_to_map as check_tokens_to_map,
    )
    from lungseg.checks.networks.masks import check_shifted_window_mask as check_shifted_window_mask
    from lungseg.checks.networks.network import (
        check_network as check_network,
        check_segmentation_network as check_segmentation_network,
    )
    from lungseg.checks.networks.overfitting import (
        check_overfit as check_overfit,
        check_overfits_one_batch as check_overfits_one_batch,
    )
    from lungseg.checks.networks.patches import (
        check_patch_embed as check_patch_embed,
        check_patch_expanding as check_patch_expanding,
        check_patch_merging as check_patch_merging,
    )
    from lungseg.checks.networks.position_index import check_relative_position_index as check_relative_position_index
    from lungseg.checks.networks.rolling import (
        check_cyclic_shift as check_cyclic_shift,
        check_pad_to_multiple as check_pad_to_multiple,
    )
    from lungseg.checks.networks.self_attention import (
        check_self_attention as check_self_attention,
        check_window_attention as check_window_attention,
    )
    from lungseg.checks.networks.small_layers import check_drop_path as check_drop_path, check_mlp as check_mlp
    from lungseg.checks.networks.swin_block import (
        check_swin_block as check_swin_block,
        check_swin_stage as check_swin_stage,
    )
    from lungseg.checks.networks.windows import (
        check_window_partition as check_window_partition,
        check_window_reverse as check_window_reverse,
        check_window_round_trip as check_window_round_trip,
    )
    from lungseg.checks.scores.cross_entropy import check_bce_loss as check_bce_loss
    from lungseg.checks.scores.distances import check_hausdorff95 as check_hausdorff95
    from lungseg.checks.scores.focal import check_focal_loss as check_focal_loss
    from lungseg.checks.scores.geometry import (
        check_boundary_loss as check_boundary_loss,
        check_lesion_weights as check_lesion_weights,
    )
    from lungseg.checks.scores.losses import (
        check_dice_loss as check_dice_loss,
        check_loss_in_half_precision as check_loss_in_half_precision,
    )
    from lungseg.checks.scores.metrics import (
        check_confusion_counts as check_confusion_counts,
        check_per_image as check_per_image,
        check_summarise as check_summarise,
    )
    from lungseg.checks.scores.scores import (
        check_dice as check_dice,
        check_iou as check_iou,
        check_precision as check_precision,
        check_recall as check_recall,
        check_rmse as check_rmse,
    )
    from lungseg.checks.scores.tversky import (
        check_focal_tversky_loss as check_focal_tversky_loss,
        check_tversky_loss as check_tversky_loss,
    )
    from lungseg.checks.training.inference import check_sliding_window as check_sliding_window
    from lungseg.checks.training.stopping import check_early_stopping as check_early_stopping
    from lungseg.checks.training.training_step import (
        check_train_one_epoch as check_train_one_epoch,
        check_train_step as check_train_step,
        check_validate as check_validate,
    )

_EXPORTS = {
    "networks.attention": ("check_attention",),
    "data.augment": ("check_augmentation",),
    "networks.blocks": ("check_transformer_block",),
    "networks.bottleneck": ("check_bottleneck",),
    "scores.cross_entropy": ("check_bce_loss",),
    "scores.distances": ("check_hausdorff95",),
    "data.elastic": ("check_elastic_displacement",),
    "scores.focal": ("check_focal_loss",),
    "scores.geometry": (
        "check_boundary_loss",
        "check_lesion_weights",
    ),
    "exercises": ("EXERCISES",),
    "networks.heads": (
        "check_merge_heads",
        "check_split_heads",
    ),
    "networks.hidden_states": (
        "check_hidden_states",
        "check_tokens_to_map",
    ),
    "training.inference": ("check_sliding_window",),
    "data.intensities": (
        "check_hu_to_grey",
        "check_hu_to_unit",
    ),
    "lessons": ("Wrong",),
    "scores.losses": (
        "check_dice_loss",
        "check_loss_in_half_precision",
    ),
    "networks.masks": ("check_shifted_window_mask",),
    "scores.metrics": (
        "check_confusion_counts",
        "check_per_image",
        "check_summarise",
    ),
    "networks.network": (
        "check_network",
        "check_segmentation_network",
    ),
    "networks.overfitting": (
        "check_overfit",
        "check_overfits_one_batch",
    ),
    "networks.patches": (
        "check_patch_embed",
        "check_patch_expanding",
        "check_patch_merging",
    ),
    "networks.position_index": ("check_relative_position_index",),
    "networks.rolling": (
        "check_cyclic_shift",
        "check_pad_to_multiple",
    ),
    "scores.scores": (
        "check_dice",
        "check_iou",
        "check_precision",
        "check_recall",
        "check_rmse",
    ),
    "scores.tversky": (
        "check_focal_tversky_loss",
        "check_tversky_loss",
    ),
    "networks.self_attention": (
        "check_self_attention",
        "check_window_attention",
    ),
    "networks.small_layers": (
        "check_drop_path",
        "check_mlp",
    ),
    "data.splits": ("check_split_by_group",),
    "training.stopping": ("check_early_stopping",),
    "networks.swin_block": (
        "check_swin_block",
        "check_swin_stage",
    ),
    "training.training_step": (
        "check_train_one_epoch",
        "check_train_step",
        "check_validate",
    ),
    "networks.windows": (
        "check_window_partition",
        "check_window_reverse",
        "check_window_round_trip",
    ),
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, _EXPORTS)
