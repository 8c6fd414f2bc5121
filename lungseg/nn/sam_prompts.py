"""SAM's prompt encoder: points, boxes and masks become tokens and maps that the mask decoder reads.

"Segment Anything" (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643), appendix A, "Prompt encoder"; positions by
random Fourier features (Tancik et al. 2020, https://arxiv.org/abs/2006.10739, section 5). With equal weights the output
equals that of the published code.

Coordinates are (x, y) = (column, row) in pixels of the frame that the image encoder sees; a box is (x0, y0, x1, y1),
the outermost pixels that belong to it.
"""

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor, nn

from lungseg.nn.arguments import check_counts
from lungseg.nn.layers import LayerNorm2d
from lungseg.nn.unetr import token_grid


class FourierPositions(nn.Module):
    """sin and cos of random frequencies: the position code of a point, without anything to learn.

    Near points get similar codes, and the frequencies run in all directions of the plane. They are drawn once, with
    standard deviation 1, and belong to every checkpoint: other frequencies would be another language.

    Args:
        dim: numbers of a code, an even number.
    """

    frequencies: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, dim // 2))

    def forward(self, places: Tensor) -> Tensor:
        """(..., 2) places (x, y) as shares of the frame, from 0 to 1 -> (..., dim)."""
        phase = 2 * pi * ((2 * places - 1) @ self.frequencies)  # (..., dim / 2)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)

    def of_grid(self, grid: Sequence[int]) -> Tensor:
        """The codes of the middles of all patches: (1, dim, *grid)."""
        height, width = grid
        like = self.frequencies
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
        places = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)  # (h, w, 2)
        return self(places).permute(2, 0, 1)[None]


class PromptEncoder(nn.Module):
    """Points and boxes to sparse tokens, masks to a dense map. 6,220 parameters at the published size.

    Args:
        dim: channels C of the image embedding.
        img_size: side in pixels of the frame, unless `forward` is given another.
        patch_size: pixels of the frame per token of the image embedding.
        mask_channels: channels between the convolutions that read a mask, a multiple of 4, at least 8.

    Raises:
        ValueError: for counts below 1, an odd dim, mask_channels that are not such a multiple, or (in forward) prompts
            whose shapes do not belong together.
    """

    def __init__(self, dim: int = 256, *, img_size: int = 1024, patch_size: int = 16, mask_channels: int = 16):
        super().__init__()
        check_counts("PromptEncoder", dim=dim, img_size=img_size, patch_size=patch_size, mask_channels=mask_channels)
        if dim % 2:
            raise ValueError(f"PromptEncoder: dim must be a multiple of 2, got {dim}: half are sines, half cosines.")
        if mask_channels % 4 or mask_channels < 8:  # with 4 the first norm would be over one channel, and give 0
            raise ValueError(f"PromptEncoder: mask_channels must be 8 or a larger multiple of 4, got {mask_channels}.")
        self.dim, self.img_size, self.patch_size = dim, img_size, patch_size
        self.positions = FourierPositions(dim)
        self.background_point = nn.Parameter(torch.randn(1, dim))  # label 0: "not this"
        self.foreground_point = nn.Parameter(torch.randn(1, dim))  # label 1: "this"
        self.top_left = nn.Parameter(torch.randn(1, dim))  # the corners of a box
        self.bottom_right = nn.Parameter(torch.randn(1, dim))
        self.not_a_point = nn.Parameter(torch.randn(1, dim))  # label -1: padding
        self.no_mask = nn.Parameter(torch.randn(1, dim))
        self.mask_convs = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, dim, kernel_size=1),
        )

    def forward(
        self,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        size: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode P prompts, each of some points, or a box, or a mask, or several of these.

        Args:
            points: (P, n, 2), (x, y) in pixels.
            labels: (P, n): 1 = belongs to the object, 0 = does not, -1 = padding, for prompts with fewer points.
            boxes: (P, 4), (x0, y0, x1, y1) in pixels.
            masks: (P, 1, 4h, 4w), logits of a mask at four times the sides of the image embedding, as the decoder
                gives them.
            size: height and width of the frame in pixels; img_size if None.

        Returns:
            sparse (P, N, C), the points in their order, then the corners of the box; dense (P, C, h, w). Without any
            prompt P is 1 and N is 0.
        """
        frame = self._frame(size)
        grid = token_grid(frame, 2, self.patch_size)
        count = self._check(points, labels, boxes, masks, grid)
        tokens = [self.no_mask.new_empty(count, 0, self.dim)]
        if points is not None and labels is not None:
            if boxes is None:  # as in training: where a box would have two tokens, there is one padding point
                points = torch.cat([points, points.new_zeros(count, 1, 2)], dim=1)
                labels = torch.cat([labels, labels.new_full((count, 1), -1)], dim=1)
            tokens.append(self.embed_points(points, labels, frame))
        if boxes is not None:
            tokens.append(self.embed_boxes(boxes, frame))
        if masks is not None:
            dense = self.mask_convs(masks)  # (P, C, h, w)
        else:
            dense = self.no_mask[..., None, None].expand(count, -1, *grid)
        return torch.cat(tokens, dim=1), dense

    def embed_points(self, points: Tensor, labels: Tensor, frame: Sequence[int]) -> Tensor:
        """Position plus what the label means, (P, n, C). A padding point has no position."""
        codes, labels = self._codes(points, frame), labels[..., None]  # (P, n, C), (P, n, 1)
        known = torch.where(labels == 1, self.foreground_point, torch.zeros_like(self.foreground_point))
        known = torch.where(labels == 0, self.background_point, known)
        return torch.where(labels == -1, self.not_a_point, codes + known)

    def embed_boxes(self, boxes: Tensor, frame: Sequence[int]) -> Tensor:
        """Two corners, each its position plus which corner it is: (P, 2, C)."""
        return self._codes(boxes.unflatten(1, (2, 2)), frame) + torch.stack([self.top_left, self.bottom_right], dim=1)

    def dense_pe(self, size: Sequence[int] | None = None) -> Tensor:
        """The position codes of the image embedding's tokens: (1, C, h, w)."""
        return self.positions.of_grid(token_grid(self._frame(size), 2, self.patch_size))

    def _codes(self, pixels: Tensor, frame: Sequence[int]) -> Tensor:
        """Position codes of the middles of pixels (x, y): pixel 0 of W lies at (0 + 0.5) / W."""
        height, width = frame
        return self.positions((pixels.to(self.no_mask.dtype) + 0.5) / self.no_mask.new_tensor([width, height]))

    def _frame(self, size: Sequence[int] | None) -> list[int]:
        """Height and width of the frame, whole patches, as the image encoder pads it."""
        sides = [self.img_size] * 2 if size is None else size
        return [self.patch_size * count for count in token_grid(sides, 2, self.patch_size)]

    def _check(
        self, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, masks: Tensor | None, grid: list[int]
    ) -> int:
        """The number of prompts, or a `ValueError` that says which shape does not belong here."""
        if (points is None) != (labels is None):
            raise ValueError("PromptEncoder: points and labels belong together. Give both, or none.")
        given = {"points": points, "labels": labels, "boxes": boxes, "masks": masks}
        shapes = {name: tuple(prompt.shape) for name, prompt in given.items() if prompt is not None}
        count = next(iter(shapes.values()), (1,))[:1]
        number = shapes.get("labels", (0, 0))[1:2]
        expected: dict[str, tuple[int, ...]] = {
            "points": (*count, *number, 2),
            "labels": (*count, *number),
            "boxes": (*count, 4),
            "masks": (*count, 1, 4 * grid[0], 4 * grid[1]),
        }
        for name, shape in shapes.items():
            if shape != expected[name] or not number:
                raise ValueError(
                    f"PromptEncoder: {name} have shape {shape}, but {expected[name]} was expected: P prompts in all, "
                    f"points (P, n, 2), labels (P, n), boxes (P, 4), masks (P, 1, {4 * grid[0]}, {4 * grid[1]})."
                )
        return count[0]
