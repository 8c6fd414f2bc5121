"""lungseg: lung-lesion segmentation in CT, written by hand in PyTorch to be read, taught and used.

    from lungseg import SwinUNet, UNETR, ResNet50UNet, UNet, RRCUNet, load_published, load_predictor
    from lungseg.data import SliceDataset        lungseg.nn: networks and layers      lungseg.losses
    from lungseg.training import train_one_epoch, evaluate                            lungseg.evaluation
"""

from typing import TYPE_CHECKING

from lungseg._lazy import lazy_exports

if TYPE_CHECKING:  # for editors and type checkers; at run time each name is imported when it is first used
    from lungseg.nn.resnet_unet import ResNet50UNet as ResNet50UNet
    from lungseg.nn.rrc_unet import RRCUNet as RRCUNet
    from lungseg.nn.swin_unet import SwinUNet as SwinUNet
    from lungseg.nn.unet import UNet as UNet
    from lungseg.nn.unetr import UNETR as UNETR
    from lungseg.predictor import load_predictor as load_predictor
    from lungseg.weights.load import load_published as load_published

__version__ = "0.1.0"

_EXPORTS = {
    "SwinUNet": "nn.swin_unet",
    "UNETR": "nn.unetr",
    "ResNet50UNet": "nn.resnet_unet",
    "UNet": "nn.unet",
    "RRCUNet": "nn.rrc_unet",
    "load_published": "weights.load",
    "load_predictor": "predictor",
}
__all__ = ["RRCUNet", "ResNet50UNet", "SwinUNet", "UNETR", "UNet", "load_predictor", "load_published"]
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
