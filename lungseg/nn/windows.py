"""Windows: cut a feature map into squares, shift them, and say who may attend to whom.

Swin Transformer (Liu et al. 2021, https://arxiv.org/abs/2103.14030), section 3.2. Attention over a whole
map of H x W tokens costs (HW)^2; inside windows of N = window_size^2 tokens it costs HW * N. Every other
block shifts the grid of windows by half a window, so that information crosses the borders. Instead of
cutting windows of several sizes, the map is rolled ("cyclic shift") and a mask keeps apart what the roll
brought together. Everything here is a pure function of its arguments; sizes are counted in tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad with zeros at the bottom and right until both sides are multiples of `multiple`.

    (B, H, W, C) -> (B, H', W', C) with H' = ceil(H / multiple) * multiple, W' likewise. Cropping undoes it,
    `x[:, :H, :W]`. A map that already fits is returned unchanged.
    """
    _, H, W, _ = x.shape
    if not (H % multiple or W % multiple):
        return x
    # Whole multiples minus the side, not -side % multiple: torch.export can follow them for a side that is a symbol.
    bottom, right = (-(-side // multiple) * multiple - side for side in (H, W))
    return F.pad(x, (0, 0, 0, right, 0, bottom))  # F.pad counts from the last dimension: C, W, H


def window_partition(x: Tensor, window_size: int) -> Tensor:
    """Cut a feature map into non-overlapping square windows.

    Swin Transformer (Liu et al. 2021), section 3.2.

    Args:
        x: feature map, (B, H, W, C), any dtype. H and W are counted in tokens, not pixels.
        window_size: side of a window in tokens; must divide both H and W.

    Returns:
        Windows, (B*nW, window_size, window_size, C), where nW = (H/window_size) * (W/window_size).
        All windows of image 0 come first, row by row; then those of image 1, and so on.

    Raises:
        ValueError: if window_size does not divide H and W.
    """
    B, H, W, C = x.shape
    if H % window_size or W % window_size:
        padded = [n + -n % window_size for n in (H, W)]
        raise ValueError(
            f"window_partition: window_size={window_size} does not divide the {H} x {W} feature map. "
            f"Pad it to {padded[0]} x {padded[1]} first (lungseg.nn.windows.pad_to_multiple), "
            f"or pick a window_size that divides both."
        )
    x = x.view(B, H // window_size, window_size, W // window_size, window_size, C)
    x = x.transpose(2, 3)  # (B, rows, ws, cols, ws, C) -> (B, rows, cols, ws, ws, C)
    return x.reshape(-1, window_size, window_size, C)  # (B*nW, ws, ws, C)


def window_reverse(windows: Tensor, height: int, width: int) -> Tensor:
    """Undo `window_partition`: (B*nW, ws, ws, C) -> (B, height, width, C).

    Raises:
        ValueError: if windows of this size do not tile height x width.
    """
    count, ws, _, C = windows.shape
    if height % ws or width % ws or count % max(1, height // ws * (width // ws)):
        raise ValueError(
            f"window_reverse: {count} windows of {ws} x {ws} tokens do not tile maps of {height} x {width}. "
            f"Give the padded height and width that window_partition saw."
        )
    x = windows.view(-1, height // ws, width // ws, ws, ws, C)
    x = x.transpose(2, 3)  # (B, rows, cols, ws, ws, C) -> (B, rows, ws, cols, ws, C)
    return x.reshape(-1, height, width, C)


def _rows_and_columns(shift_size: int | tuple[int, int]) -> tuple[int, int]:
    """The shift as (rows, columns): one number shifts both axes alike."""
    return shift_size if isinstance(shift_size, tuple) else (shift_size, shift_size)


def cyclic_shift(x: Tensor, shift_size: int | tuple[int, int]) -> Tensor:
    """Roll a (B, H, W, C) map so that row and column `shift_size` come first; negative undoes it.

    The first rows and columns wrap around to the far side (Figure 4 of the Swin paper). A pair shifts rows and
    columns differently.
    """
    down, across = _rows_and_columns(shift_size)
    return x.roll((-down, -across), dims=(1, 2))


def shifted_window_mask(
    height: int,
    width: int,
    window_size: int,
    shift_size: int | tuple[int, int],
    *,
    device: torch.device | None = None,
) -> Tensor:
    """Say which token pairs may attend to each other inside each shifted window.

    The map is first padded at the bottom and right until window_size divides it, *then* rolled by
    -shift_size (the other order can carry real rows past the padding). Rolling puts tokens from
    opposite borders into one window; the mask keeps them apart, and keeps padding apart from the image.
    Swin Transformer (Liu et al. 2021), section 3.2, Figure 4.

    Args:
        height, width: size of the map in tokens before padding, each >= 1.
        window_size: side of a window in tokens.
        shift_size: how far the padded map was rolled, 0 <= shift_size < window_size; a pair for rows and columns.
        device: where to build the mask.

    Returns:
        bool, (nW, N, N) with N = window_size**2 and nW counted on the padded map. `mask[w, i, j]` is
        True where token i of window w may attend to token j: both are in one cell of the shifted grid,
        and both are image or both are padding. Every token may attend to itself, so no row is all False.

    Raises:
        ValueError: if shift_size is not in [0, window_size), or a side is below 1.
    """
    down, across = _rows_and_columns(shift_size)
    if not (0 <= down < window_size and 0 <= across < window_size):
        raise ValueError(
            f"shifted_window_mask: shift_size must be in [0, window_size={window_size}), got {shift_size}."
        )
    if height < 1 or width < 1:
        raise ValueError(f"shifted_window_mask: the map must hold at least one token, got {height} x {width}.")
    padded_height, padded_width = (-(-side // window_size) * window_size for side in (height, width))
    row = torch.arange(padded_height, device=device).roll(-down)  # where each row was before the roll
    col = torch.arange(padded_width, device=device).roll(-across)
    # Inside one window, tokens share a cell of the shifted grid unless the roll wrapped one and not the other.
    wrapped = 2 * (row < down)[:, None] + 1 * (col < across)[None, :]  # (H', W'), 0..3
    padding = (row >= height)[:, None] | (col >= width)[None, :]  # (H', W')
    region = 2 * wrapped + padding  # (H', W'), 0..7: tokens attend inside their region only
    region = window_partition(region[None, :, :, None], window_size).flatten(1)  # (nW, N)
    return region[:, :, None] == region[:, None, :]  # (nW, N, N)


def relative_position_index(window_size: int, *, device: torch.device | None = None) -> Tensor:
    """Number every offset between two tokens of a window, for the relative position bias.

    Two tokens of one window are dr rows and dc columns apart, each between -(ws-1) and ws-1, so there are
    (2 ws - 1)^2 offsets; each has one row in the learned bias table. Swin Transformer, section 3.2,
    "Relative position bias", equation 4.

    Args:
        window_size: side of a window in tokens.
        device: where to build the index.

    Returns:
        int64, (N, N) with N = window_size**2: the row of the table for the pair (query i, key j), which
        is (dr + ws - 1) * (2 ws - 1) + (dc + ws - 1), with (dr, dc) = position of i - position of j.
    """
    if window_size < 1:
        raise ValueError(f"relative_position_index: window_size must be at least 1 token, got {window_size}.")
    side = torch.arange(window_size, device=device)
    d = side[:, None] - side[None, :] + window_size - 1  # (ws, ws), 0 .. 2 ws - 2: along one axis, of query and key
    index = (2 * window_size - 1) * d[:, None, :, None] + d[None, :, None, :]  # rows and columns of query, then of key
    return index.flatten(2).flatten(0, 1)  # (ws, ws, ws, ws) -> (N, N): tokens of a window are counted row by row
