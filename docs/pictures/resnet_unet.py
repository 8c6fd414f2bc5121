"""Draw docs/img/resnet_unet.png: the ResNet on the way down, the decoder on the way up, and the size of each map."""

import sys
from pathlib import Path

from u_diagram import draw_u

from lungseg.nn.resnet_unet import ResNet50UNet

IMG = Path(__file__).resolve().parents[1] / "img"
NOTE = (
    "Under each box: rows x columns x channels of what it returns. "
    "Grey: skips. A decoder stage upsamples, joins, convolves twice."
)


def main() -> int:
    rows = [
        (None, ("decoder[4], before the head", "decoder.4")),
        (("conv1: 7 x 7, stride 2", "encoder.conv1"), ("decoder[3]", "decoder.3")),
        (("max-pool, layer1: 3 bottlenecks", "encoder.layer1"), ("decoder[2]", "decoder.2")),
        (("layer2: 4 bottlenecks", "encoder.layer2"), ("decoder[1]", "decoder.1")),
        (("layer3: 6 bottlenecks", "encoder.layer3"), ("decoder[0]", "decoder.0")),
    ]
    picture = draw_u(ResNet50UNet, (3, 256, 256), rows, ("layer4: 3 bottlenecks", "encoder.layer4"), NOTE)
    picture.save(IMG / "resnet_unet.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
