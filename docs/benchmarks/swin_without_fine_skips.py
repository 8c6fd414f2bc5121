"""For `train_swin.py --stem conv --network`: the convolutional stem, whose maps never reach the decoder.

One row of the table in docs/nn/swin_unet.md: what the skips finer than a token bring, and what the stem alone does.
"""

from torch import Tensor

from lungseg.nn import swin_unet


class SwinUNet(swin_unet.SwinUNet):
    """As ours, with zeros in place of the skips at full and half resolution; the same number of parameters."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.conv_stem.register_forward_hook(without_maps)


def without_maps(stem, given, result: tuple[Tensor, list[Tensor]]) -> tuple[Tensor, list[Tensor]]:
    tokens, maps = result
    return tokens, [m.new_zeros(m.shape) for m in maps]
