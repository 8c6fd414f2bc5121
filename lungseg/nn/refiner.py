"""MedSAM that looks at crops around candidates, with what BiomedCLIP sees there, and with further types of scans.

Each addition begins at zero and is **added** to what MedSAM computes anyway, as the zero convolutions of ControlNet
(Zhang et al. 2023, https://arxiv.org/abs/2302.05543, section 3.1):

    tokens' = PE_ct(ct) + sum_k m_k PE_k(x_k)     further scans x_k, where m_k = 1 says that it is there
    E'      = E + resize(W_v V)                   BiomedCLIP's patch tokens V on MedSAM's image embedding E
    sparse' = sparse + W_z z                      BiomedCLIP's vector z of the crop on the corners of the box

With W_v = 0, W_z = 0 and PE_k = 0 the output is MedSAM's, bit for bit, and still all three receive a gradient at the
first step: the gradient of W x with respect to W depends on x, not on W.
"""

from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.nn.arguments import check_image, is_count
from lungseg.nn.biomedclip import BiomedCLIP, clip_input
from lungseg.nn.lora import add_lora
from lungseg.nn.patches import complete_patches
from lungseg.nn.sam import MedSAM, resize_bilinear

Map = TypeVar("Map", nn.Linear, nn.Conv2d)


class Refined(NamedTuple):
    """What the network says of P candidates."""

    mask_logits: Tensor  # (P, 1, S, S)
    iou: Tensor  # (P,): MedSAM's own estimate of the mask's IoU
    similarity: Tensor  # (P,): is the crop more like the sentences about lesions? 0 without BiomedCLIP or sentences


class CandidateRefiner(nn.Module):
    """A crop and a box for each candidate -> its mask, and what the judge (`lungseg.refiner.judge`) needs.

    It takes over the networks it is given, with their weights, and decides what can be trained: MedSAM's mask decoder
    and neck, the additions, and the convolutions that read a mask prompt, which MedSAM's own training never uses.
    BiomedCLIP is frozen. MedSAM's image encoder can be trained too, unless it is adapted by LoRA.

    Args:
        sam: MedSAM. Load published weights before: LoRA renames those of its attention.
        clip: BiomedCLIP, with any weights, or None.
        text_features: (2, E), of sentences about lesions and about normal lung, from `BiomedCLIP.class_features`.
        rank: of LoRA on queries and values of the image encoder; 0 for none.
        modalities: how many further types of scans can be given.

    Raises:
        ValueError: for a rank or a number of modalities below 0, text_features that do not fit, or (in forward) crops,
            boxes and scans that do not belong together.
    """

    text_features: Tensor | None

    def __init__(
        self,
        sam: MedSAM,
        clip: BiomedCLIP | None = None,
        *,
        text_features: Tensor | None = None,
        rank: int = 0,
        modalities: int = 0,
    ):
        super().__init__()
        for name, count in (("rank", rank), ("modalities", modalities)):
            if count != 0 and not is_count(count):
                raise ValueError(f"CandidateRefiner: {name} must be an integer of at least 0, got {count!r}.")
        self.sam, self.clip, self.modalities = sam, clip, modalities
        encoder, dim = sam.image_encoder, sam.prompt_encoder.dim
        sam.prompt_encoder.mask_convs.requires_grad_(True)
        if rank:
            encoder.requires_grad_(False)
            encoder.neck.requires_grad_(True)
            add_lora(encoder, rank)
        if clip is not None:
            clip.requires_grad_(False)
            self.add_patches = zero_init(nn.Linear(clip.visual_head.in_features, dim))  # W_v
            self.add_vector = zero_init(nn.Linear(clip.visual_head.out_features, dim))  # W_z
        if text_features is not None and (clip is None or text_features.shape != (2, clip.visual_head.out_features)):
            raise ValueError(
                f"CandidateRefiner: text_features must be (2, E), for sentences about lesions and about normal lung, "
                f"and need BiomedCLIP with E channels; got {tuple(text_features.shape)} and clip={type(clip).__name__}."
            )
        self.register_buffer("text_features", text_features)
        if modalities:
            patch = encoder.patch_embed
            # One convolution over all scans is the sum of one for each. Without a bias, a scan of zeros adds nothing.
            self.add_scans = zero_init(
                nn.Conv2d(modalities, patch.proj.out_channels, patch.patch_size, patch.patch_size, bias=False)
            )

    def forward(
        self,
        ct: Tensor,
        boxes: Tensor,
        prior: Tensor | None = None,
        extra: Tensor | None = None,
        present: Tensor | None = None,
        *,
        prior_present: Tensor | None = None,
    ) -> Refined:
        """Look at P crops, each with its own box.

        Args:
            ct: (P, C, S, S), values in [0, 1]; of several channels BiomedCLIP sees the middle one.
            boxes: (P, 4), (x0, y0, x1, y1) in pixels of the crop.
            prior: (P, 1, S, S), the proposer's logits on the crop, as mask prompt; or None.
            extra: (P, modalities, S, S), further scans on the same pixels, brought to about [0, 1]; or None.
            present: (P, modalities) bool, false where a scan is missing: its pixels are not looked at. None: all.
            prior_present: (P,) bool, false where the prior is not to be given. None: all.
        """
        self._check(ct, boxes, extra, prior=prior, present=present, prior_present=prior_present)
        patches, vector = self._clip(ct)
        embedding = self.sam.image_encoder(ct, self._scan_tokens(extra, present))  # E, (P, dim, h, w)
        patch = self.sam.prompt_encoder.patch_size
        frame = [patch * side for side in embedding.shape[2:]]
        size = [4 * side for side in embedding.shape[2:]]  # of the decoder's maps
        masks = None if prior is None else resize_bilinear(complete_patches(prior, patch), size)
        sparse, dense = self.sam.prompt_encoder(boxes=boxes, masks=masks, size=frame)  # (P, 2, dim), (P, dim, h, w)
        if masks is not None and prior_present is not None:
            no_mask = self.sam.prompt_encoder.no_mask[..., None, None]
            dense = torch.where(prior_present[:, None, None, None], dense, no_mask)
        if patches is not None and vector is not None:
            added = self.add_patches(patches).movedim(-1, 1)  # (P, dim, h', w')
            embedding = embedding + resize_bilinear(added, embedding.shape[2:])
            sparse = sparse + self.add_vector(vector)[:, None]  # the same to both corners
        logits, iou = self.sam.mask_decoder(embedding, self.sam.prompt_encoder.dense_pe(frame), sparse, dense)
        logits = resize_bilinear(logits, frame)[:, :, : ct.shape[2], : ct.shape[3]]  # without added patches
        return Refined(logits, iou[:, 0], self._similarity(vector, iou[:, 0]))

    @torch.no_grad()
    def _clip(self, ct: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """BiomedCLIP's patch tokens V (P, h', w', K) and vector z (P, E) of length 1, in one pass."""
        if self.clip is None:
            return None, None
        middle = ct.shape[1] // 2
        grey = resize_bilinear(ct[:, middle : middle + 1], [self.clip.img_size] * 2)
        tokens = self.clip.visual(clip_input(grey))  # (P, 1 + N, K), the class token first
        side = self.clip.visual.position_embedding.shape[0]
        return tokens[:, 1:].unflatten(1, (side, side)), F.normalize(self.clip.visual_head(tokens[:, 0]), dim=-1)

    def _similarity(self, vector: Tensor | None, like: Tensor) -> Tensor:
        """(cos(z, lesion) - cos(z, normal)) e^tau, (P,)."""
        if self.clip is None or vector is None or self.text_features is None:
            return torch.zeros_like(like)
        lesion, normal = self.clip.logits(vector, self.text_features).unbind(dim=1)
        return lesion - normal

    def _scan_tokens(self, extra: Tensor | None, present: Tensor | None) -> Tensor | None:
        """sum_k m_k PE_k(x_k): (P, h, w, embed_dim)."""
        if extra is None or not self.modalities:
            return None
        if present is not None:  # whatever stands in place of a missing scan, even NaN
            extra = torch.where(present[..., None, None], extra, torch.zeros_like(extra))
        return self.add_scans(complete_patches(extra, self.add_scans.stride[0])).movedim(1, -1)

    def _check(self, ct: Tensor, boxes: Tensor, extra: Tensor | None, **others: Tensor | None) -> None:
        encoder = self.sam.image_encoder
        check_image("CandidateRefiner", ct, encoder.in_channels, encoder.patch_embed.proj.weight.dtype)
        if tuple(boxes.shape) != (len(ct), 4):
            raise ValueError(
                f"CandidateRefiner: expected a box for each of the {len(ct)} crops, ({len(ct)}, 4), got "
                f"{tuple(boxes.shape)}."
            )
        shapes = {
            "prior": (len(ct), 1, *ct.shape[2:]),
            "present": (len(ct), self.modalities),
            "prior_present": (len(ct),),
        }
        for name, other in others.items():
            if other is not None and tuple(other.shape) != shapes[name]:
                raise ValueError(
                    f"CandidateRefiner: expected {name} of shape {shapes[name]} for crops {tuple(ct.shape)}, got "
                    f"{tuple(other.shape)}."
                )
        expected = (len(ct), self.modalities, *ct.shape[2:])
        if extra is not None and tuple(extra.shape) != expected:
            raise ValueError(
                f"CandidateRefiner: extra scans have shape {tuple(extra.shape)}, but {expected} was expected. Build "
                f"the network with modalities={extra.shape[1]}, or leave them out."
            )


def zero_init(module: Map) -> Map:
    """Set weights and bias to 0: the network starts as it was without this module."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
