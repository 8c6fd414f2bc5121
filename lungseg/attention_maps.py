"""Attention in image coordinates: where does the token that holds a given pixel look?

A transformer mixes tokens, and a Swin block mixes them inside the windows of a padded and rolled map. Here the weights
of one query token are put back where the keys came from: the roll is undone, padding is cut off, and each pixel gets
the weight of the token that holds it.

The forward pass of a network has no code for this. A hook keeps what the attention of one block was given, and the
weights are computed from that once more, by the formula (`return_weights=True` in lungseg/nn/attention.py).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn

from lungseg.draw import contact_sheet, enlarge, heatmap, to_rgb
from lungseg.inference import window_grid
from lungseg.nn.swin_unet import SwinBlock, SwinUNet
from lungseg.nn.unetr import UNETR, TransformerBlock
from lungseg.nn.windows import cyclic_shift, pad_to_multiple, window_partition
from lungseg.predictor import Predictor
from lungseg.scale import Scale, file_scale, network_sides

TILE = 360  # pixels on a side, about, of each picture in an `attention_sheet`


def attention_blocks(network: nn.Module) -> list[str]:
    """Names of the blocks that `attention_map` can be asked for, in the order of the forward pass.

    "encoder.0.1" is the second block of a Swin-UNet's first stage, "blocks.0" the first block of a UNETR.

    Raises:
        ValueError: if the network is neither a SwinUNet nor a UNETR.
    """
    if not isinstance(network, SwinUNet | UNETR):
        raise ValueError(f"attention can be shown for a SwinUNet or a UNETR, got {type(network).__name__}.")
    return [name for name, module in network.named_modules() if isinstance(module, SwinBlock | TransformerBlock)]


def token_side(network: nn.Module, block: str) -> int:
    """Side in pixels of the square that one token of this block stands for."""
    module = find_block(network, block)
    if isinstance(network, SwinUNet) and isinstance(module, SwinBlock):
        channels, finest = module.norm1.normalized_shape[0], network.norm_up.normalized_shape[0]
        return network.patch_size * channels // finest  # each merging doubles side and channels
    assert isinstance(network, UNETR)
    return network.patch_size


@torch.no_grad()
def attention_map(
    network: nn.Module, image: Tensor, pixel: Sequence[int], *, block: str, head: int | None = None
) -> NDArray[np.float64]:
    """The attention weights of the token that holds `pixel`, at the pixels of the image.

    Args:
        network: a SwinUNet or a UNETR, in evaluation mode.
        image: (1, C, H, W) as the network takes it, or (1, C, H, W, D) for a UNETR of volumes.
        pixel: (row, column), or three numbers for a volume, counted from 0.
        block: one of `attention_blocks(network)`.
        head: one attention head, counted from 0. None is the mean over the heads.

    Returns:
        (H, W) or (H, W, D): at each pixel the weight of the token that holds it, NaN where that token is not among
        those that the query may attend to. With t = token_side(network, block), `map[::t, ::t]` is the map of tokens,
        and sums to 1 without its NaN.

    Raises:
        ValueError: for another network, a network in training mode, more than one image, a pixel outside of the image,
            an unknown block or head.
    """
    module, side = find_block(network, block), token_side(network, block)
    spatial = tuple(image.shape[2:])
    if network.training:
        raise ValueError("attention_map: the network is in training mode, with dropout. Call network.eval() first.")
    if len(image) != 1:
        raise ValueError(f"attention_map: expected one image, (1, C, H, W), got {tuple(image.shape)}. Use image[:1].")
    check_pixel(pixel, spatial)
    heads = module.attn.num_heads
    if head is not None and not 0 <= head < heads:
        raise ValueError(f"attention_map: block {block} has heads 0 to {heads - 1}, got head={head}.")

    weights, attn_mask = weights_and_mask(network, module, image)
    grid = [-(-n // side) for n in spatial]  # tokens along each side of the image
    numbers = token_numbers(module, grid)  # (nW, N)
    query = int(np.ravel_multi_index([p // side for p in pixel], grid))
    window, token = (numbers == query).nonzero()[0].tolist()
    row = weights[window, :, token].mean(0) if head is None else weights[window, head, token]  # (N,)
    seen = numbers[window] >= 0
    if attn_mask is not None:
        seen &= attn_mask[window, token]
    tokens = torch.full((math.prod(grid),), torch.nan, dtype=torch.float64)
    tokens[numbers[window][seen]] = row[seen]
    pixels = tokens.view(*grid).numpy()
    for axis in range(len(grid)):
        pixels = pixels.repeat(side, axis=axis)
    return pixels[tuple(slice(n) for n in spatial)]  # cut off what completed the last patches


def weights_and_mask(
    network: nn.Module, block: SwinBlock | TransformerBlock, image: Tensor
) -> tuple[Tensor, Tensor | None]:
    """What a block of the network does with one image: (nW, heads, N, N) and (nW, N, N) or None, on the CPU."""
    given: list[tuple] = []
    with block.attn.register_forward_pre_hook(lambda _, inputs: given.append(inputs)):
        network(image)
    (inputs,) = given  # tokens, and in a Swin block the mask
    _, weights = block.attn(*inputs, return_weights=True)
    attn_mask = inputs[1] if len(inputs) > 1 else None
    return weights.cpu().double(), None if attn_mask is None else attn_mask.cpu()


def find_block(network: nn.Module, block: str) -> SwinBlock | TransformerBlock:
    """The module of this name, or a ValueError that lists the names."""
    names = attention_blocks(network)
    if block not in names:
        raise ValueError(f"expected one of the blocks {', '.join(names)}, got {block!r}.")
    module = network.get_submodule(block)
    assert isinstance(module, SwinBlock | TransformerBlock)
    return module


def check_pixel(pixel: Sequence[int], sides: Sequence[int]) -> None:
    """Raise a ValueError unless the pixel is in an image of these sides."""
    if len(pixel) != len(sides) or not all(0 <= p < n for p, n in zip(pixel, sides, strict=True)):
        size, got = " x ".join(map(str, sides)), " ".join(map(str, pixel))
        raise ValueError(f"expected a pixel of an image of {size}, as {len(sides)} numbers counted from 0, got {got}.")


def token_numbers(block: SwinBlock | TransformerBlock, grid: Sequence[int]) -> Tensor:
    """Which token of the map each token of each window is, (nW, N): its number in reading order, -1 for padding.

    A map of numbers takes the way of the features through `SwinBlock.window_attention`. A TransformerBlock has one
    window, the image.
    """
    numbers = 1 + torch.arange(math.prod(grid))  # from 1, because padding is 0
    if isinstance(block, SwinBlock):
        window_size, shift = block.window_and_shift(grid[0], grid[1])
        padded = pad_to_multiple(numbers.view(1, *grid, 1), window_size)  # (1, H', W', 1)
        return window_partition(cyclic_shift(padded, shift), window_size).flatten(1) - 1
    return numbers[None] - 1


# ---- through a predictor ----------------------------------------------------------------------------------------


def attention_in_image(
    predictor: Predictor,
    grey: NDArray,
    pixel: Sequence[int],
    *,
    block: str,
    head: int | None = None,
    scale: Scale | None = None,
) -> NDArray[np.float64]:
    """`attention_map` for an image of any size, which the predictor scales and covers with a sliding window.

    Of the positions of the sliding window, the one is shown in which the pixel has the largest weight: it says most
    about the prediction there.

    Args:
        grey, scale: as in `Predictor.probs`; a 2-D network takes (H, W) only, repeated for each neighbour it expects.
        pixel, block, head: as in `attention_map`; the pixel is one of `grey`.

    Returns:
        The shape of `grey`: at each pixel the weight of the token that holds it, NaN where the query does not look.

    Raises:
        ValueError: as `attention_map`, or if `grey` has not as many sides as the images of the training.
    """
    if grey.ndim != predictor.spatial_dims:
        raise ValueError(f"expected an image with {predictor.spatial_dims} sides, got {grey.shape}. Choose one slice.")
    check_pixel(pixel, grey.shape)
    scale = scale or file_scale(predictor.input, network_sides(predictor.input, grey.shape))
    scaled = predictor.scaled(grey[None], scale)[0]  # (*sides)
    sides = scaled.shape
    there = [int((p + 0.5) * to / n) for p, n, to in zip(pixel, grey.shape, sides, strict=True)]  # the same place
    box = nearest_window(sides, predictor.input.size, predictor.overlap, there)
    image = torch.from_numpy(predictor.channels(scaled[box]))[None].to(next(predictor.network.parameters()).device)
    inside = [p - s.start for p, s in zip(there, box, strict=True)]
    whole = np.full(sides, np.nan)
    whole[box] = attention_map(predictor.network, image, inside, block=block, head=head)
    back = [((np.arange(n) + 0.5) * to / n).astype(int) for n, to in zip(grey.shape, sides, strict=True)]
    return whole[np.ix_(*back)]


def nearest_window(
    sides: Sequence[int], window_size: Sequence[int], overlap: float, pixel: Sequence[int]
) -> tuple[slice, ...]:
    """The position of the sliding window in which a pixel has the largest blending weight."""
    window = [min(w, n) for w, n in zip(window_size, sides, strict=True)]

    def weight(place: tuple[tuple[slice, ...], tuple[Tensor, ...]]) -> float:
        axes = list(zip(*place, pixel, strict=True))  # (slice, weights along it, coordinate of the pixel)
        inside = all(box.start <= p < box.stop for box, _, p in axes)
        return math.prod(w[p - box.start].item() for box, w, p in axes) if inside else -1.0

    return max(window_grid(sides, window, overlap), key=weight)[0]


def attention_sheet(
    predictor: Predictor, grey: NDArray, pixel: Sequence[int], *, scale: Scale | None = None
) -> Image.Image:
    """The image with the pixel marked, then the attention of each block, as a mean over the heads.

    Blocks are shown where any of them looks: in a large image, one position of the sliding window. Colours go from
    black (0) to pale yellow (the largest weight of that block, which is written below). Where the query does not look,
    the image is shown. Of a volume: the slice of the pixel.

    Args:
        As in `attention_in_image`.
    """
    *here, row, col = pixel  # here: [] or [slice]
    picture = to_rgb(grey[tuple(here)])
    blocks = attention_blocks(predictor.network)
    maps = [attention_in_image(predictor, grey, pixel, block=b, scale=scale)[tuple(here)] for b in blocks]  # (H, W)
    rows, cols = np.nonzero(np.isfinite(maps).any(axis=0))
    top, left = int(rows.min()), int(cols.min())
    box = np.s_[top : rows.max() + 1, left : cols.max() + 1]
    tiles, captions = [marked(picture, row, col)], ["the pixel"]
    for block, weights in zip(blocks, maps, strict=True):
        most = np.nanmax(weights)
        heat = np.where(np.isnan(weights)[..., None], picture, heatmap(weights, 0, most))
        tiles.append(marked(heat[box], row - top, col - left))
        captions.append(f"{block}: up to {most:.2g}")
    columns = min(5, len(tiles))
    starts = range(0, len(tiles), columns)
    return contact_sheet(
        [tiles[i : i + columns] for i in starts], captions=[captions[i : i + columns] for i in starts], font_size=22
    )


def marked(picture: NDArray[np.uint8], row: int, col: int) -> Image.Image:
    """The picture, enlarged to about TILE pixels, with a white cross around one pixel, which stays free."""
    enlarged = max(1, TILE // max(picture.shape[:2]))
    image = Image.fromarray(enlarge(picture, enlarged))
    draw = ImageDraw.Draw(image)
    y, x = (row + 0.5) * enlarged, (col + 0.5) * enlarged
    for width, colour in ((5, "black"), (3, "white")):
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            draw.line((x + 5 * dx, y + 5 * dy, x + 16 * dx, y + 16 * dy), fill=colour, width=width)
    return image
