"""lungseg: lung-lesion segmentation in CT, written by hand in PyTorch to be read, taught and used."""

from lungseg.nn.resnet_unet import ResNet50UNet
from lungseg.nn.rrc_unet import RRCUNet
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR

__version__ = "0.1.0"
__all__ = ["UNETR", "RRCUNet", "ResNet50UNet", "SwinUNet", "UNet"]
