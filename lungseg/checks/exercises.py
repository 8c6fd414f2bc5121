"""What `python -m lungseg.checks` looks for in a file: names of functions and classes, and the check of each."""

from collections.abc import Callable
from typing import NamedTuple

from lungseg.checks.data import augment, elastic, intensities, splits
from lungseg.checks.lessons import Lesson
from lungseg.checks.networks import (
    attention,
    blocks,
    bottleneck,
    heads,
    hidden_states,
    masks,
    network,
    overfitting,
    patches,
    position_index,
    rolling,
    self_attention,
    small_layers,
    swin_block,
    windows,
)
from lungseg.checks.scores import cross_entropy, distances, focal, geometry, losses, metrics, scores, tversky
from lungseg.checks.training import inference, stopping, training_step


class Exercise(NamedTuple):
    """The check of one function or class, and what it teaches."""

    check: Callable[..., None]
    lesson: Lesson


EXERCISES: dict[str, Exercise] = {
    exercise.lesson.name: exercise
    for exercise in (
        Exercise(windows.check_window_partition, windows.PARTITION),
        Exercise(windows.check_window_reverse, windows.REVERSE),
        Exercise(rolling.check_cyclic_shift, rolling.SHIFT),
        Exercise(rolling.check_pad_to_multiple, rolling.PAD),
        Exercise(masks.check_shifted_window_mask, masks.MASK),
        Exercise(position_index.check_relative_position_index, position_index.INDEX),
        Exercise(attention.check_attention, attention.ATTENTION),
        Exercise(heads.check_split_heads, heads.SPLIT),
        Exercise(heads.check_merge_heads, heads.MERGE),
        Exercise(self_attention.check_self_attention, self_attention.SELF),
        Exercise(self_attention.check_window_attention, self_attention.WINDOW),
        Exercise(small_layers.check_mlp, small_layers.MLP),
        Exercise(small_layers.check_drop_path, small_layers.DROP),
        Exercise(patches.check_patch_embed, patches.EMBED),
        Exercise(patches.check_patch_merging, patches.MERGING),
        Exercise(patches.check_patch_expanding, patches.EXPANDING),
        Exercise(swin_block.check_swin_block, swin_block.SWIN),
        Exercise(swin_block.check_swin_stage, swin_block.STAGE),
        Exercise(blocks.check_transformer_block, blocks.TRANSFORMER),
        Exercise(hidden_states.check_tokens_to_map, hidden_states.TO_MAP),
        Exercise(hidden_states.check_hidden_states, hidden_states.SKIPS),
        Exercise(bottleneck.check_bottleneck, bottleneck.BOTTLENECK),
        Exercise(scores.check_dice, scores.LESSONS["dice"]),
        Exercise(scores.check_iou, scores.LESSONS["iou"]),
        Exercise(scores.check_precision, scores.LESSONS["precision"]),
        Exercise(scores.check_recall, scores.LESSONS["recall"]),
        Exercise(scores.check_rmse, scores.LESSONS["rmse"]),
        Exercise(cross_entropy.check_bce_loss, cross_entropy.BCE),
        Exercise(losses.check_dice_loss, losses.DICE),
        Exercise(tversky.check_tversky_loss, tversky.TVERSKY),
        Exercise(tversky.check_focal_tversky_loss, tversky.FOCAL_TVERSKY),
        Exercise(focal.check_focal_loss, focal.FOCAL),
        Exercise(geometry.check_boundary_loss, geometry.BOUNDARY),
        Exercise(geometry.check_lesion_weights, geometry.WEIGHTS),
        Exercise(metrics.check_confusion_counts, metrics.COUNTS),
        Exercise(metrics.check_per_image, metrics.PER_IMAGE),
        Exercise(metrics.check_summarise, metrics.SUMMARISE),
        Exercise(distances.check_hausdorff95, distances.HAUSDORFF),
        Exercise(intensities.check_hu_to_unit, intensities.UNIT),
        Exercise(intensities.check_hu_to_grey, intensities.GREY),
        Exercise(augment.check_augmentation, augment.AUGMENT),
        Exercise(elastic.check_elastic_displacement, elastic.ELASTIC),
        Exercise(splits.check_split_by_group, splits.SPLIT),
        Exercise(stopping.check_early_stopping, stopping.STOPPING),
        Exercise(inference.check_sliding_window, inference.SLIDING),
        Exercise(training_step.check_train_one_epoch, training_step.EPOCH),
        Exercise(training_step.check_train_step, training_step.STEP),
        Exercise(overfitting.check_overfit, overfitting.OVERFIT),
        Exercise(training_step.check_validate, training_step.VALIDATE),
    )
}
for _network in ("SwinUNet", "UNETR", "UNet", "ResNet50UNet", "RRCUNet", "Network"):
    EXERCISES[_network] = Exercise(network.check_network, network.NETWORK)
