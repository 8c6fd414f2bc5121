"""Ask BiomedCLIP about a picture, in words: no training, only sentences that describe each class.

    probabilities = zero_shot(model, images, {"lesion": ["a solid nodule"], "normal": ["normal lung"]}, tokenizer)

CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020), section 3.1. BiomedCLIP's own examples put each class
into the sentence "this is a photo of {class}".
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lungseg.nn.biomedclip import BiomedCLIP, clip_input
from lungseg.wordpiece import CONTEXT, WordPiece


def clip_image(image: NDArray[np.uint8], size: int) -> Tensor:
    """A picture of any size -> (3, size, size), prepared as open_clip prepares it for BiomedCLIP.

    The shorter side is resized to `size` (bicubic, by Pillow), the middle square is cut out, grey becomes three equal
    channels, and CLIP's mean and standard deviation are taken out.

    Args:
        image: (H, W) grey or (H, W, 3) colour, uint8.
        size: side in pixels, the network's img_size.

    Raises:
        ValueError: if the picture is not of this shape and type.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
        raise ValueError(
            f"clip_image: expected (H, W) or (H, W, 3) uint8, got {image.shape} {image.dtype}. CT becomes grey with "
            f"lungseg.data.ct.hu_to_grey."
        )
    height, width = image.shape[:2]
    shorter = min(height, width)
    height, width = size * height // shorter, size * width // shorter  # the longer side is rounded down
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    top, left = round((height - size) / 2), round((width - size) / 2)
    picture = picture.crop((left, top, left + size, top + size)).convert("RGB")
    unit = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)  # (3, size, size)
    return clip_input(unit[None])[0]


@torch.no_grad()
def text_features(
    model: BiomedCLIP, prompts: Mapping[str, Sequence[str]], tokenizer: WordPiece, *, context: int = CONTEXT
) -> Tensor:
    """One normalised vector per class (C, E), from the sentences that describe it (`BiomedCLIP.class_features`).

    Args:
        prompts: for each class its sentences, at least one.
        tokenizer: with the vocabulary that the network was trained with.
        context: tokens of a sentence; cut to the longest that the network can read.

    Raises:
        ValueError: if there is no class, or a class without a sentence.
    """
    empty = [name for name, sentences in prompts.items() if not sentences or isinstance(sentences, str)]
    if empty or not prompts:
        raise ValueError(
            f"text_features: expected a list of sentences for each class, got none for {', '.join(empty) or 'any'}."
        )
    context, device = min(context, model.text.position_embedding.num_embeddings), model.logit_scale.device
    ids = [tokenizer(list(sentences), context=context) for sentences in prompts.values()]
    return model.class_features([of_class.to(device) for of_class in ids])


@torch.no_grad()
def zero_shot(model: BiomedCLIP, images: Tensor, prompts: Mapping[str, Sequence[str]], tokenizer: WordPiece) -> Tensor:
    """The probability of each class for each image: (B, 3, H, W), as `clip_image` makes them, -> (B, C).

    A softmax over the classes that were named: it says which fits best, not whether any fits.
    """
    classes = text_features(model, prompts, tokenizer).to(images.device)
    return model.logits(model.encode_image(images), classes).softmax(dim=-1)
