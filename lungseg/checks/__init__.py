"""Checks of anyone's implementation, ours or a student's: `check_*(implementation)`, and `python -m lungseg.checks`.

A check returns None, or raises `Wrong`, an AssertionError whose text is the answer: the smallest counterexample, the
rule, the mistake that explains it, and the page to read.
"""

from typing import TYPE_CHECKING

from lungseg._lazy import lazy_exports

if TYPE_CHECKING:  # for editors and type checkers; at run time each name is imported when it is first used
    from lungseg.checks.attention import check_attention as check_attention
    from lungseg.checks.blocks import check_transformer_block as check_transformer_block
    from lungseg.checks.bottleneck import check_bottleneck as check_bottleneck
    from lungseg.checks.exercises import EXERCISES as EXERCISES
    from lungseg.checks.heads import check_merge_heads as check_merge_heads, check_split_heads as check_split_heads
    from lungseg.checks.hidden_states import (
        check_hidden_states as check_hidden_states,
        check_tokens_to_map as check_tokens_to_map,
    )
    from lungseg.checks.lessons import Wrong as Wrong
    from lungseg.checks.losses import check_loss_in_half_precision as check_loss_in_half_precision
    from lungseg.checks.masks import check_shifted_window_mask as check_shifted_window_mask
    from lungseg.checks.network import (
        check_network as check_network,
        check_segmentation_network as check_segmentation_network,
    )
    from lungseg.checks.overfitting import (
        check_overfit as check_overfit,
        check_overfits_one_batch as check_overfits_one_batch,
    )
    from lungseg.checks.patches import (
        check_patch_embed as check_patch_embed,
        check_patch_expanding as check_patch_expanding,
        check_patch_merging as check_patch_merging,
    )
    from lungseg.checks.position_index import check_relative_position_index as check_relative_position_index
    from lungseg.checks.rolling import (
        check_cyclic_shift as check_cyclic_shift,
        check_pad_to_multiple as check_pad_to_multiple,
    )
    from lungseg.checks.self_attention import (
        check_self_attention as check_self_attention,
        check_window_attention as check_window_attention,
    )
    from lungseg.checks.small_layers import check_drop_path as check_drop_path, check_mlp as check_mlp
    from lungseg.checks.swin_block import check_swin_block as check_swin_block, check_swin_stage as check_swin_stage
    from lungseg.checks.windows import (
        check_window_partition as check_window_partition,
        check_window_reverse as check_window_reverse,
        check_window_round_trip as check_window_round_trip,
    )

_EXPORTS = {
    "attention": ("check_attention",),
    "blocks": ("check_transformer_block",),
    "bottleneck": ("check_bottleneck",),
    "exercises": ("EXERCISES",),
    "heads": (
        "check_merge_heads",
        "check_split_heads",
    ),
    "hidden_states": (
        "check_hidden_states",
        "check_tokens_to_map",
    ),
    "lessons": ("Wrong",),
    "losses": ("check_loss_in_half_precision",),
    "masks": ("check_shifted_window_mask",),
    "network": (
        "check_network",
        "check_segmentation_network",
    ),
    "overfitting": (
        "check_overfit",
        "check_overfits_one_batch",
    ),
    "patches": (
        "check_patch_embed",
        "check_patch_expanding",
        "check_patch_merging",
    ),
    "position_index": ("check_relative_position_index",),
    "rolling": (
        "check_cyclic_shift",
        "check_pad_to_multiple",
    ),
    "self_attention": (
        "check_self_attention",
        "check_window_attention",
    ),
    "small_layers": (
        "check_drop_path",
        "check_mlp",
    ),
    "swin_block": (
        "check_swin_block",
        "check_swin_stage",
    ),
    "windows": (
        "check_window_partition",
        "check_window_reverse",
        "check_window_round_trip",
    ),
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, _EXPORTS)
