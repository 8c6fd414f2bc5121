"""Step 20 of 25: the hidden states that feed UNETR's decoder.

Return the tokens after blocks 3, 6, 9, 12 (counted from 1), and turn tokens in reading order into a map.
Hint: run all blocks one after the other; move the channels before you reshape.
Read: docs/nn/unetr.md. Time: about 15 minutes.
"""

from collections.abc import Sequence

from torch import Tensor, nn


def hidden_states(blocks: nn.ModuleList, z: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """The tokens (B, N, K) after each of these blocks."""
    states = []
    for number, block in enumerate(blocks, start=1):
        z = block(z)
        if number in layers:
            states.append(z)
    return states


def tokens_to_map(z: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N, K) -> (B, K, H, W), grid = (H, W) in tokens."""
    B, _, K = z.shape
    return z.transpose(1, 2).reshape(B, K, *grid)
