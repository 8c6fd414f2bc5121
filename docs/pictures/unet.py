"""Draw docs/img/unet.png (the U with the size of each map) and docs/img/unet_norms.png (a crop against the slice)."""

import sys
from pathlib import Path

import torch
from shapes import save
from u_diagram import conv_rows, draw_u

from lungseg.draw import contact_sheet, heatmap
from lungseg.nn.unet import UNet

IMG = Path(__file__).resolve().parents[1] / "img"
NOTE = (
    "In each box, last line: rows x columns x channels of what it returns. Grey: skips.\n"
    "Max-pooling halves the sides on the way down; where a side is odd, the decoder crops. head: conv 1 x 1."
)


def crop_against_slice(norm: str) -> list:
    """Logits from a crop, from the whole image at the same place, and their difference, away from the crop's border."""
    torch.manual_seed(0)
    network = UNet(channels=(8, 16, 16), norm=norm)
    rows, cols = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    image = (cols / 128)[None, None].clone()  # darker to the left
    image[0, 0][(rows - 64) ** 2 + (cols - 64) ** 2 < 8**2] += 0.5  # a nodule
    with torch.no_grad():
        for shift in range(0, 128, 8):  # running statistics of many images
            network(torch.cat([image.roll(shift, 3), image.roll(shift, 2).flip(3)]))
        network.eval()
        part = network(image[:, :, 20:108, 20:108])[0, 0, 24:64, 24:64]
        whole = network(image)[0, 0, 44:84, 44:84]
    low, high = min(whole.min(), part.min()), max(whole.max(), part.max())
    as_picture = [heatmap(values.numpy(), float(low), float(high)) for values in (part, whole)]
    return [*as_picture, heatmap((part - whole).abs().numpy(), 0, float(high - low) / 4)]


def main() -> int:
    rows = conv_rows("conv 3 x 3, batch norm, ReLU,", "conv 3 x 3, batch norm, ReLU")
    bottom = ("max-pool 2 x 2; bottleneck:\n2 x (conv 3 x 3, batch norm, ReLU)", "bottleneck")
    save(draw_u(UNet, (1, 256, 256), rows, bottom, NOTE), IMG / "unet.png")
    sheet = contact_sheet(
        [crop_against_slice("batch"), crop_against_slice("instance")],
        row_labels=["batch norm", "instance norm"],
        column_labels=["from a crop", "from the whole image", "difference"],
        scale=9,
        font_size=28,
    )
    sheet.save(IMG / "unet_norms.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
