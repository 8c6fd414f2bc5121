"""What `python -m lungseg.checks` looks for in a file: names of functions and classes, and the check of each."""

from collections.abc import Callable
from typing import NamedTuple

from lungseg.checks import (
    attention,
    blocks,
    bottleneck,
    masks,
    network,
    patches,
    self_attention,
    small_layers,
    swin_block,
    windows,
)
from lungseg.checks.attention import check_attention, check_merge_heads, check_split_heads
from lungseg.checks.blocks import check_transformer_block
from lungseg.checks.bottleneck import check_bottleneck
from lungseg.checks.lessons import Lesson
from lungseg.checks.masks import check_relative_position_index, check_shifted_window_mask
from lungseg.checks.network import check_network, check_overfit
from lungseg.checks.patches import check_patch_embed, check_patch_expanding, check_patch_merging
from lungseg.checks.self_attention import check_self_attention, check_window_attention
from lungseg.checks.small_layers import check_drop_path, check_hidden_states, check_mlp, check_tokens_to_map
from lungseg.checks.swin_block import check_swin_block, check_swin_stage
from lungseg.checks.windows import (
    check_cyclic_shift,
    check_pad_to_multiple,
    check_window_partition,
    check_window_reverse,
)


class Exercise(NamedTuple):
    """The check of one function or class, and what it teaches."""

    check: Callable[..., None]
    lesson: Lesson


EXERCISES: dict[str, Exercise] = {
    exercise.lesson.name: exercise
    for exercise in (
        Exercise(check_window_partition, windows.PARTITION),
        Exercise(check_window_reverse, windows.REVERSE),
        Exercise(check_cyclic_shift, windows.SHIFT),
        Exercise(check_pad_to_multiple, windows.PAD),
        Exercise(check_shifted_window_mask, masks.MASK),
        Exercise(check_relative_position_index, masks.INDEX),
        Exercise(check_attention, attention.ATTENTION),
        Exercise(check_split_heads, attention.SPLIT),
        Exercise(check_merge_heads, attention.MERGE),
        Exercise(check_self_attention, self_attention.SELF),
        Exercise(check_window_attention, self_attention.WINDOW),
        Exercise(check_mlp, small_layers.MLP),
        Exercise(check_drop_path, small_layers.DROP),
        Exercise(check_patch_embed, patches.EMBED),
        Exercise(check_patch_merging, patches.MERGING),
        Exercise(check_patch_expanding, patches.EXPANDING),
        Exercise(check_swin_block, swin_block.SWIN),
        Exercise(check_swin_stage, swin_block.STAGE),
        Exercise(check_transformer_block, blocks.TRANSFORMER),
        Exercise(check_tokens_to_map, small_layers.TO_MAP),
        Exercise(check_hidden_states, small_layers.SKIPS),
        Exercise(check_bottleneck, bottleneck.BOTTLENECK),
        Exercise(check_overfit, network.OVERFIT),
    )
}
for _network in ("SwinUNet", "UNETR", "UNet", "ResNet50UNet", "RRCUNet", "Network"):
    EXERCISES[_network] = Exercise(check_network, network.NETWORK)
