"""Draw docs/img/attention_maps.png: the attention of two networks, for which it trains both demos.

python docs/pictures/attention_maps.py [RUN_OF_SWIN RUN_OF_UNETR]      with two runs, nothing is trained
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from lungseg.attention_maps import attention_blocks, attention_in_image, marked
from lungseg.data.ct import hu_to_unit
from lungseg.data.phantoms.scene import phantom_crops
from lungseg.draw import contact_sheet, heatmap, to_rgb
from lungseg.predictor import Predictor, load_predictor

ROOT = Path(__file__).resolve().parents[2]
SEED, FONT = 2, 34  # of the phantom, and the height of letters in pixels


def train(folder: Path, name: str) -> Path:
    """The run of a demo training."""
    subprocess.run([sys.executable, f"examples/{name}.py", "--out", str(folder / name)], cwd=ROOT, check=True)
    return folder / name


def tiles(predictor: Predictor, grey: np.ndarray, pixel: tuple[int, int]) -> tuple[list[Image.Image], list[str]]:
    """The image with the pixel marked, and each block's attention."""
    picture = to_rgb(grey)
    pictures, captions = [marked(picture, *pixel)], ["the pixel"]
    for block in attention_blocks(predictor.network):
        weights = attention_in_image(predictor, grey, pixel, block=block)
        heat = np.where(np.isnan(weights)[..., None], picture, heatmap(weights, 0, np.nanmax(weights)))
        pictures.append(marked(heat, *pixel))
        captions.append(f"{block}:\nup to {np.nanmax(weights):.2f}")
    return pictures, captions


def draw(runs: list[Path]) -> None:
    grey, pixel = example()
    rows, captions = zip(*(tiles(load_predictor(run / "best.pt"), grey, pixel) for run in runs), strict=True)
    sheet = contact_sheet(rows, captions=captions, row_labels=["Swin-UNet", "UNETR"], font_size=FONT)
    sheet.quantize(256, dither=Image.Dither.NONE).save(ROOT / "docs/img/attention_maps.png", optimize=True)


def example() -> tuple[np.ndarray, tuple[int, int]]:
    """A phantom that no training has seen, and the pixel in the middle of its nodule."""
    crop = phantom_crops(np.random.default_rng(SEED), num=1, size=64, diameter_mm=(9.0, 10.0), kinds=("solid",))[0]
    rows, cols = np.nonzero(crop.target)
    return hu_to_unit(crop.hu), (int(rows.mean()), int(cols.mean()))


def main(argv: list[str]) -> int:
    if argv:
        draw([Path(run) for run in argv])
        return 0
    with tempfile.TemporaryDirectory() as folder:
        draw([train(Path(folder), name) for name in ("train_swin", "train_unetr")])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
