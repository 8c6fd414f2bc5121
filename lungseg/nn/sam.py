"""SAM, which segments what a prompt points at, and MedSAM, the same network trained on medical images with boxes.

"Segment Anything" (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643) and "Segment anything in medical images"
(Ma et al. 2024, https://arxiv.org/abs/2304.12306). The image passes the large encoder once; each prompt then costs
only the small decoder. With equal weights the outputs equal those of the published code.

All coordinates are (x, y) = (column, row) in pixels of the frame that the network sees, which is rarely the original
image: `places_to_frame` takes them there, and `logits_to_original` brings masks back.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.nn.arguments import check_image
from lungseg.nn.layers import interpolate_antialiased
from lungseg.nn.sam_decoder import MaskDecoder
from lungseg.nn.sam_encoder import SAMImageEncoder
from lungseg.nn.sam_prompts import PromptEncoder

PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet's RGB, in grey levels 0..255

# For crops of 64 pixels on a CPU: a token for each 4 x 4 pixels, so that masks have the full resolution.
TINY: dict[str, Any] = {
    "img_size": 64, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3, "window_size": 8,
    "global_blocks": (2, 5), "out_channels": 64, "decoder_heads": 4, "decoder_mlp_dim": 256, "iou_hidden_dim": 64,
}  # fmt: skip


class SAM(nn.Module):
    """Image encoder, prompt encoder and mask decoder. The defaults are the published ViT-B: 93,735,472 parameters.

    Args:
        in_channels: channels of the image; the published weights want 3, so repeat a grey image.
        img_size, patch_size, embed_dim, depth, num_heads, window_size, global_blocks: of `SAMImageEncoder`.
        out_channels: channels of the image embedding and of all that follows; a multiple of 8.
        mask_channels: of `PromptEncoder`.
        decoder_depth, decoder_heads, decoder_mlp_dim, iou_hidden_dim: of `MaskDecoder`.

    Raises:
        ValueError: as the three parts do, in their words.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        img_size: int = 1024,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        window_size: int = 14,
        global_blocks: Sequence[int] = (2, 5, 8, 11),
        out_channels: int = 256,
        mask_channels: int = 16,
        decoder_depth: int = 2,
        decoder_heads: int = 8,
        decoder_mlp_dim: int = 2048,
        iou_hidden_dim: int = 256,
    ):
        super().__init__()
        self.image_encoder = SAMImageEncoder(
            in_channels,
            img_size=img_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            window_size=window_size,
            global_blocks=global_blocks,
            out_channels=out_channels,
        )
        self.prompt_encoder = PromptEncoder(
            out_channels, img_size=img_size, patch_size=patch_size, mask_channels=mask_channels
        )
        self.mask_decoder = MaskDecoder(
            out_channels,
            depth=decoder_depth,
            num_heads=decoder_heads,
            mlp_dim=decoder_mlp_dim,
            iou_hidden_dim=iou_hidden_dim,
        )

    @classmethod
    def tiny(cls, in_channels: int = 1, **changes: Any) -> Self:
        """A network for crops of 64 x 64 pixels that trains on a CPU: `TINY`, with the changes."""
        return cls(in_channels, **(TINY | changes))

    def encode(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> embedding (B, C, h, w): the expensive part, once per image."""
        return self.image_encoder(image)

    def decode(
        self,
        embedding: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        multimask: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The masks of P prompts on an embedded image, or on P embedded images: the cheap part, as often as you like.

        Args:
            embedding: (1, C, h, w), or (P, C, h, w) for one prompt on each image.
            points, labels, boxes, masks: of `PromptEncoder`.
            multimask: three masks for a prompt that may mean several things, instead of one.

        Returns:
            Logits (P, 3 or 1, 4h, 4w), and the network's own estimate of each mask's IoU (P, 3 or 1).
        """
        size = [self.prompt_encoder.patch_size * side for side in embedding.shape[2:]]
        sparse, dense = self.prompt_encoder(points, labels, boxes, masks, size=size)
        return self.mask_decoder(embedding, self.prompt_encoder.dense_pe(size), sparse, dense, multimask=multimask)

    def forward(
        self,
        image: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        multimask: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """`encode`, then `decode`."""
        return self.decode(self.encode(image), points, labels, boxes, masks, multimask=multimask)


class MedSAM(SAM):
    """SAM with a box as the only prompt, one mask, and a frozen prompt encoder: an image and a box to logits.

    The arguments are those of `SAM`, and so are the weights' names. Images are not normalised by ImageNet's mean and
    spread, but scaled to [0, 1], and resized to a square without keeping their aspect. Of the 93,735,472 parameters
    of the published size, the 6,220 of the prompt encoder stay as they are.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.prompt_encoder.requires_grad_(False)

    def forward(self, image: Tensor, boxes: Tensor) -> Tensor:  # type: ignore[override]
        """Images with one box each, or one image with P boxes, to logits at the size of the image.

        Args:
            image: (P, in_channels, H, W) or (1, in_channels, H, W), values in [0, 1].
            boxes: (P, 4), (x0, y0, x1, y1) in pixels of the image.

        Returns:
            Logits (P, 1, H, W): those of the decoder, interpolated. MedSAM's loss is taken here.
        """
        encoder = self.image_encoder
        check_image("MedSAM", image, encoder.in_channels, encoder.patch_embed.proj.weight.dtype)
        embedding = self.encode(image)
        frame = [self.prompt_encoder.patch_size * side for side in embedding.shape[2:]]
        logits, _ = self.decode(embedding, boxes=boxes)
        return resize_bilinear(logits, frame)[:, :, : image.shape[2], : image.shape[3]]  # without added patches

    def probabilities(self, image: Tensor, boxes: Tensor, size: Sequence[int]) -> Tensor:
        """Probabilities at the size of the original, (P, 1, *size), as MedSAM's own inference computes them.

        It interpolates the sigmoid of the decoder's logits, not the logits, in one step. Above 0.5 is the mask.
        Arguments as in `forward`, with sides that are multiples of patch_size.
        """
        logits, _ = self.decode(self.encode(image), boxes=boxes)
        return resize_bilinear(logits.sigmoid(), size)


def resize_bilinear(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(P, K, H, W) -> (P, K, *size), bilinear between the middles of pixels."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def frame_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """The size of an image once its longest side has `longest` pixels, rounded as SAM does."""
    scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def sam_input(image: Tensor, img_size: int = 1024) -> Tensor:
    """Prepare 8-bit RGB images for SAM: longest side to img_size, normalise, then zeros at the right and bottom.

    MedSAM wants something else: values in [0, 1], and each side resized to img_size.

    Args:
        image: (B, 3, H, W), uint8.
        img_size: of the network.

    Returns:
        (B, 3, img_size, img_size), float32. Grey levels of the resized image are those of Pillow's bilinear
        filter, which SAM uses, give or take one.
    """
    if image.dtype != torch.uint8 or image.dim() != 4 or image.shape[1] != 3:
        raise ValueError(
            f"sam_input: the image is {image.dtype} of shape {tuple(image.shape)}, but uint8 of (B, 3, H, W) was "
            f"expected. Repeat a grey image three times with image.expand(-1, 3, -1, -1)."
        )
    size = frame_size(image.shape[2], image.shape[3], img_size)
    levels = image if image.device.type == "cpu" else image.float()  # torch resizes whole numbers on a CPU only
    resized = interpolate_antialiased(levels, size, "bilinear").float().round()
    mean, std = (resized.new_tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return F.pad((resized - mean) / std, (0, img_size - size[1], 0, img_size - size[0]))


def places_to_frame(places: Tensor, original: Sequence[int], frame: Sequence[int]) -> Tensor:
    """Take points (..., 2) or boxes (..., 4) from an original image to the frame it was resized to.

    Args:
        places: (x, y) or (x0, y0, x1, y1), in pixels of the original.
        original, frame: height and width before and after. For SAM the frame is `frame_size`; for MedSAM it is the
            whole square.
    """
    scale = places.new_tensor([frame[1] / original[1], frame[0] / original[0]])  # of x and of y
    return places * scale.repeat(places.shape[-1] // 2)


def logits_to_original(logits: Tensor, original: Sequence[int], img_size: int = 1024) -> Tensor:
    """Take the decoder's logits back to the image that `sam_input` was given; above 0 is the mask.

    To the square of the input, off with the padding, to the original: (P, K, h, w) -> (P, K, *original).
    """
    height, width = frame_size(original[0], original[1], img_size)
    return resize_bilinear(resize_bilinear(logits, (img_size, img_size))[:, :, :height, :width], original)
