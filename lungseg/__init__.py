"""lungseg: lung-lesion segmentation in CT, written by hand in PyTorch to be read, taught and used."""

from lungseg.nn import UNETR, ResNet50UNet, RRCUNet, SwinUNet, UNet

__version__ = "0.1.0"
__all__ = ["UNETR", "RRCUNet", "ResNet50UNet", "SwinUNet", "UNet"]
