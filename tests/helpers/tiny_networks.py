"""Every network of the library, as small as a GPU's kernels take it, and what it is given.

Heads have 8 channels or more: the fused attention of a GPU refuses fewer in half precision. Nothing is dropped, so that
two passes are equal.
"""

from functools import partial

import torch

from lungseg.nn.biomedclip import BiomedCLIP
from lungseg.nn.refiner import CandidateRefiner
from lungseg.nn.resnet_unet import ResNet50UNet
from lungseg.nn.rrc_unet import RRCUNet
from lungseg.nn.sam import SAM, MedSAM
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR

swin = partial(SwinUNet, embed_dim=16, depths=(2, 2), num_heads=(1, 2), window_size=4, drop_path_rate=0.0)
unetr = partial(UNETR, embed_dim=32, depth=2, num_heads=2, feature_size=4, patch_size=8, skip_layers=(1, 2))
SEGMENTATION = {  # (B, 1, *spatial) -> logits of the same size
    "SwinUNet": swin,
    "SwinUNet, conv": partial(swin, stem="conv", conv_channels=(4, 8)),
    "UNETR": partial(unetr, img_size=32),
    "UNETR, 3-D": partial(unetr, img_size=16, spatial_dims=3),
    "UNet": partial(UNet, channels=(4, 8)),
    "UNet, 3-D": partial(UNet, channels=(4, 8), spatial_dims=3),
    "RRCUNet": partial(RRCUNet, channels=(4, 8)),
    "ResNet50UNet": partial(
        ResNet50UNet, stem=8, widths=(4, 4, 8, 8), depths=(1, 1, 1, 1), decoder_channels=(8, 8, 8, 8, 8),
        grey_input=True,
    ),
}  # fmt: skip

SAM_SIZES = {
    "img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "window_size": 3,
    "global_blocks": (1,), "out_channels": 32, "decoder_heads": 2, "decoder_mlp_dim": 16, "iou_hidden_dim": 8,
}  # fmt: skip
CLIP_SIZES = {
    "embed_dim": 16, "img_size": 16, "patch_size": 8, "vision_dim": 16, "vision_depth": 1, "vision_heads": 2,
    "vocab_size": 50, "max_length": 8, "text_dim": 16, "text_depth": 1, "text_heads": 2,
}  # fmt: skip


def refiner():
    network = CandidateRefiner(
        MedSAM(1, **SAM_SIZES), BiomedCLIP(**CLIP_SIZES), text_features=torch.randn(2, 16), rank=2, modalities=2
    )
    for part in (network.add_patches, network.add_vector, network.add_scans):  # which begin at 0
        torch.nn.init.normal_(part.weight, std=0.1)
    return network


OTHERS = {
    "SAM": partial(SAM, 3, **SAM_SIZES),
    "MedSAM": partial(MedSAM, 1, **SAM_SIZES),
    "BiomedCLIP": partial(BiomedCLIP, **CLIP_SIZES),
    "CandidateRefiner": refiner,
}
NETWORKS = SEGMENTATION | OTHERS


def batch_of(name):
    """Random images (2, 1, *spatial), of sides that are multiples of nothing."""
    if name == "RRCUNet" or name.endswith("3-D"):
        return torch.rand(2, 1, 13, 18, 22)
    if name == "ResNet50UNet":  # its batch norms divide by the spread of the pixels at stride 32: more than a few
        return torch.rand(4, 1, 97, 130)
    return torch.rand(2, 1, 33, 40)


def inputs_of(name):
    """The arguments of the network's forward pass, on the CPU."""
    boxes = torch.tensor([[4.0, 5, 20, 22], [1, 2, 9, 30]])
    ids = torch.tensor([[2, 7, 9, 3, 0, 0], [2, 11, 3, 0, 0, 0]])  # padded with 0
    if name == "SAM":
        return torch.randn(1, 3, 32, 32), boxes.view(2, 2, 2), torch.tensor([[1, 0], [1, -1]])
    if name == "MedSAM":
        return torch.rand(2, 1, 32, 30), boxes
    if name == "BiomedCLIP":
        return torch.randn(2, 3, 16, 16), ids
    if name == "CandidateRefiner":
        prior, extra = torch.randn(2, 1, 32, 32), torch.rand(2, 2, 32, 32)
        return torch.rand(2, 1, 32, 32), boxes, prior, extra, torch.tensor([[True, False], [True, True]])
    return (batch_of(name),)


def outputs(network, arguments):
    """All that a forward pass returns, in one vector."""
    result = network(*arguments)
    parts = (result,) if isinstance(result, torch.Tensor) else result
    return torch.cat([part.float().flatten() for part in parts])


def gradient(network):
    """All gradients, in one vector; zeros where there is none."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    return torch.cat([part.flatten() for part in parts])


def on(device, arguments):
    return [x.to(device) for x in arguments]


def error(found, expected):
    """The length of the difference, as a share of the length of what was expected; both on the CPU in float64."""
    found, expected = (x.detach().cpu().double() for x in (found, expected))
    return ((found - expected).norm() / expected.norm()).item()
