"""lungseg: lung-lesion segmentation in CT, written by hand in PyTorch to be read, taught and used.

    from lungseg import SwinUNet, load_predictor, load_published    networks, trained networks, published weights
    from lungseg.data import SliceDataset                           folders of slices and volumes, phantoms, splits
    from lungseg.training import evaluate, train_one_epoch          the step, recipes, runs that resume
    from lungseg.evaluation import match_lesions, score_all         scores of each image, detected lesions, tables

`lungseg.nn` holds the networks and their layers, `lungseg.losses` the losses, `lungseg.checks` the checks for students.
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
    "nn.swin_unet": ("SwinUNet",),
    "nn.unetr": ("UNETR",),
    "nn.resnet_unet": ("ResNet50UNet",),
    "nn.unet": ("UNet",),
    "nn.rrc_unet": ("RRCUNet",),
    "weights.load": ("load_published",),
    "predictor": ("load_predictor",),
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, _EXPORTS)
