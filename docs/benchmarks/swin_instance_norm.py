"""For `train_swin.py --stem conv --network`: the convolutional stem with instance norm in place of batch norm.

One row of the table in docs/nn/swin_unet.md.
"""

from lungseg.nn import swin_unet


class SwinUNet(swin_unet.SwinUNet):
    """As ours, with conv_norm="instance"."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options, conv_norm="instance")
