"""BiomedCLIP: one vector for an image and one for a sentence, in the same space, so that the two can be compared.

"BiomedCLIP" (Zhang et al. 2023, https://arxiv.org/abs/2303.00915) is CLIP (Radford et al. 2021,
https://arxiv.org/abs/2103.00020) for figures and captions of biomedical articles: a ViT-B/16 reads the image,
PubMedBERT the sentence, and a linear map or a small MLP brings both to 512 channels. With equal weights every output
equals that of open_clip's network.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.nn.arguments import check_counts
from lungseg.nn.bert import BERT
from lungseg.nn.layers import width_init
from lungseg.nn.vit import ViTEncoder

# The sizes of BiomedCLIP.tiny(), for a CPU; its vocabulary is lungseg.data.phantoms.captions.VOCABULARY.
TINY: dict[str, int] = {
    "embed_dim": 64, "img_size": 48, "patch_size": 6, "vision_dim": 64, "vision_depth": 3, "vision_heads": 4,
    "vocab_size": 101, "max_length": 32, "text_dim": 64, "text_depth": 2, "text_heads": 2,
}  # fmt: skip
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, red, green, blue
MOST_SCALE = math.log(100)  # CLIP, section 2.5: the temperature is kept from falling below 0.01


def clip_input(image: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) in [0, 1] -> (B, 3, H, W): three channels with CLIP's mean and standard deviation taken out.

    `lungseg.zero_shot.clip_image` also brings a picture of any size to that of the network.
    """
    if image.dim() != 4 or image.shape[1] not in (1, 3):
        raise ValueError(
            f"clip_input: expected (B, 1, H, W) or (B, 3, H, W), got {tuple(image.shape)}. Add what is missing."
        )
    mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (image.expand(-1, 3, -1, -1) - mean) / std


class BiomedCLIP(nn.Module):
    """An image tower, a text tower, and the temperature that scales their cosines.

    The defaults are the published size: 195,902,721 parameters (image 86,191,872, text 109,710,848).

    Args:
        embed_dim: channels E of the common space.
        img_size, patch_size, vision_dim, vision_depth, vision_heads, vision_mlp_ratio: of the ViT.
        vocab_size, max_length, text_dim, text_depth, text_heads, text_mlp_ratio: of BERT. The published position table
            has 512 rows, but open_clip's tokenizer cuts sentences at 256 tokens.

    Raises:
        ValueError: for sizes that do not fit, and (in forward) as `ViTEncoder` and `BERT` do.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 512,
        img_size: int = 224,
        patch_size: int = 16,
        vision_dim: int = 768,
        vision_depth: int = 12,
        vision_heads: int = 12,
        vision_mlp_ratio: float = 4.0,
        vocab_size: int = 30522,
        max_length: int = 512,
        text_dim: int = 768,
        text_depth: int = 12,
        text_heads: int = 12,
        text_mlp_ratio: float = 4.0,
    ):
        super().__init__()
        check_counts("BiomedCLIP", embed_dim=embed_dim)
        self.img_size = img_size
        self.visual = ViTEncoder(
            3, img_size=img_size, patch_size=patch_size, embed_dim=vision_dim, depth=vision_depth,
            num_heads=vision_heads, mlp_ratio=vision_mlp_ratio,
        )  # fmt: skip
        self.visual_head = nn.Linear(vision_dim, embed_dim, bias=False)
        self.text = BERT(
            vocab_size=vocab_size, max_length=max_length, dim=text_dim, depth=text_depth, num_heads=text_heads,
            mlp_ratio=text_mlp_ratio,
        )  # fmt: skip
        hidden = (text_dim + embed_dim) // 2
        self.text_head = nn.Sequential(
            nn.Linear(text_dim, hidden, bias=False), nn.GELU(), nn.Linear(hidden, embed_dim, bias=False)
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # the logarithm of 1 / temperature
        self.visual_head.apply(width_init)
        self.text_head.apply(width_init)

    @classmethod
    def tiny(cls, **options: Any) -> "BiomedCLIP":
        """Build a network for a CPU, with the sizes of `TINY`; each can be changed by its name."""
        return cls(**(TINY | options))

    def encode_image(self, image: Tensor) -> Tensor:
        """(B, 3, H, W), as `clip_input` makes it, -> (B, E), not normalised: the head's map of the class token."""
        return self.visual_head(self.visual(image)[:, 0])

    def encode_text(self, ids: Tensor) -> Tensor:
        """Token numbers (B, N), as `WordPiece` makes them, -> (B, E), not normalised: the MLP's map of [CLS]."""
        return self.text_head(self.text(ids)[:, 0])

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(B, E) and (T, E), normalised here, -> (B, T): cosines times exp(logit_scale)."""
        cosines = F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T
        return self.logit_scale.exp() * cosines

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        """(B, 3, H, W) and (T, N) -> (B, T) logits; their softmax over T says which sentence fits an image best."""
        return self.logits(self.encode_image(image), self.encode_text(ids))

    # ---- prompts --------------------------------------------------------------------------------------------------

    def class_features(self, prompts: Sequence[Tensor]) -> Tensor:
        """One vector for each class, from the prompts that describe it: C tensors of ids (P_c, N) -> (C, E).

        As open_clip's zero-shot classifier does (CLIP, section 3.1.4): the features of each prompt are normalised, then
        averaged over the prompts of the class, and the mean is normalised again.
        """
        means = [F.normalize(self.encode_text(ids), dim=-1).mean(dim=0) for ids in prompts]
        return F.normalize(torch.stack(means), dim=-1)

    # ---- patches: not part of BiomedCLIP ---------------------------------------------------------------------------

    def patch_tokens(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H/P, W/P, vision_dim): the tower's last tokens, normalised, without the class token."""
        height, width = (-(-side // self.visual.patch_embed.patch_size) for side in image.shape[2:])
        return self.visual(image)[:, 1:].unflatten(1, (height, width))

    def patch_similarity(self, image: Tensor, text_features: Tensor) -> Tensor:
        """(B, 3, H, W) and (T, E) -> (B, T, H/P, W/P): the cosine of each patch with each sentence.

        The image head is applied to every patch, though it was trained on class tokens only: nothing in the training
        made these cosines say where something is.
        """
        patches = F.normalize(self.visual_head(self.patch_tokens(image)), dim=-1)  # (B, H/P, W/P, E)
        return (patches @ F.normalize(text_features, dim=-1).T).movedim(-1, 1)
