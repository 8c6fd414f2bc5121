"""Draw docs/img/resnet_unet.png: the ResNet on the way down, the decoder on the way up, and the size of each map."""

import sys
from pathlib import Path

from shapes import save
from u_diagram import draw_u

from lungseg.nn.resnet_unet import ResNet50UNet

IMG = Path(__file__).resolve().parents[1] / "img"
NOTE = (
    "In each box, last line: rows x columns x channels of what it returns. Grey: skips. head: conv 3 x 3.\n"
    "A bottleneck: conv 1 x 1, conv 3 x 3, conv 1 x 1, each with batch norm, added to its input."
)


def main() -> int:
    def decoder(i: int, joins: bool = True) -> tuple[str, str]:
        first = f"decoder[{i}]: upsample x 2{', join the skip' * joins}"
        return f"{first},\n2 x (conv 3 x 3, batch norm, ReLU)", f"decoder.{i}"

    def layer(i: int, count: int, width: int) -> tuple[str, str]:
        strided = ", the first with stride 2" if i > 1 else ""
        before = "max-pool 3 x 3, stride 2; " if i == 1 else ""
        text = f"{before}layer{i}: {count} bottlenecks{strided},\n{width}, {width} and {4 * width} channels"
        return text, f"encoder.layer{i}"

    rows = [
        (None, decoder(4, joins=False)),
        (("conv1: 7 x 7, stride 2,\nbatch norm, ReLU", "encoder.conv1"), decoder(3)),
        (layer(1, 3, 64), decoder(2)),
        (layer(2, 4, 128), decoder(1)),
        (layer(3, 6, 256), decoder(0)),
    ]
    save(draw_u(ResNet50UNet, (3, 256, 256), rows, layer(4, 3, 512), NOTE), IMG / "resnet_unet.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
