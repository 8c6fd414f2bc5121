"""Grey PNGs, read strictly: damage, other colours, animations and rotated pictures are errors, never guesses."""

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lungseg.files import regular_file

MAX_PNG_BYTES = 2**28  # more than 16-bit slices of the most pixels that Pillow opens
ORIENTATION = 0x0112  # the tag of EXIF; 1 = as stored
KINDS = {  # Pillow's names of the modes of a PNG -> ours
    "1": "1-bit", "L": "8-bit", "I": "16-bit", "I;16": "16-bit", "I;16B": "16-bit",
    "P": "palette", "PA": "palette", "LA": "grey with alpha", "RGB": "RGB", "RGBA": "RGB with alpha",
}  # fmt: skip


def read_grey_png(path: Path, bits: int) -> NDArray:
    """Read a grey PNG.

    Args:
        bits: expected depth, 8 or 16.

    Returns:
        (H, W) uint8 or uint16.

    Raises:
        ValueError: if the file is missing, damaged, or not a grey PNG of that depth without EXIF orientation.
    """
    try:
        if regular_file(path).stat().st_size > MAX_PNG_BYTES:
            raise ValueError(f"{path} has more than {MAX_PNG_BYTES >> 20} MiB, too many for a slice. Export it again.")
        data = io.BytesIO(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(
            f"{path} is missing{suggest_replacement(path)}, or remove its partner and its manifest row."
        ) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from None
    picture, frames, rotated = decode_png(path, data)
    kind = KINDS.get(picture.mode, picture.mode)
    if frames > 1:
        raise ValueError(f"{path} is an animation of {frames} pictures. Export each as a PNG of its own.")
    if rotated:
        raise ValueError(f"{path} asks viewers to rotate or mirror it (EXIF orientation). Rotate its pixels instead.")
    if kind != f"{bits}-bit":
        hint = ""
        if path.parent.name in ("images", "masks") and bits == 8:  # in a folder, not a single picture
            hint = ", or the whole folder with prepare_data.py --images --masks"
            hint = " (or write bits = 16 in the manifest)" if (kind, path.parent.name) == ("16-bit", "images") else hint
        raise ValueError(
            f"{path}: expected a grey PNG of {bits} bits, got {kind}. Convert it to {bits}-bit grey{hint}."
        )
    return np.asarray(picture).astype(np.uint8 if bits == 8 else np.uint16)  # (H, W)


def decode_png(path: Path, data: io.BytesIO) -> tuple[Image.Image, int, bool]:
    """The decoded picture, its number of frames, and whether EXIF asks viewers to rotate or mirror it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.open(data, formats=("PNG",)).verify()  # the checksum of every chunk, and the end marker
        picture = Image.open(data, formats=("PNG",))
        frames = getattr(picture, "n_frames", 1)
        picture.load()
        return picture, frames, picture.getexif().get(ORIENTATION, 1) != 1
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path} is not a PNG image. Export it again as PNG.") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"{path} claims more than {Image.MAX_IMAGE_PIXELS} pixels. Export one slice.") from None
    except MemoryError:
        raise ValueError(f"{path} needs more memory than there is. Make it smaller.") from None
    except Exception as error:  # Pillow reports damage as OSError, SyntaxError, struct.error, zlib.error, ...
        raise ValueError(f"{path} is damaged or cut short ({error}). Copy or export it again.") from None


def grey_bits(path: Path) -> int:
    """The depth of a PNG from its header: 16, or 8 for any other file (`read_grey_png` says what is wrong with it)."""
    try:
        with Image.open(regular_file(path), formats=("PNG",)) as picture:
            return 16 if KINDS.get(picture.mode) == "16-bit" else 8
    except Exception:  # Pillow reports damage in many ways
        return 8


def suggest_replacement(path: Path) -> str:
    """The end of a sentence that begins with "it is missing": perhaps the file is there under another name."""
    others = [path.stem + end for end in (".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".JPG", ".npy")]
    if path.parent.name == "masks":
        words = ("mask", "Mask", "label", "seg", "segmentation", "gt", "lesion")
        others += [f"{path.stem}{sep}{word}.png" for word in words for sep in "_-"]
        others += [f"{word}{sep}{path.stem}.png" for word in words for sep in "_-"]
    found = next((name for name in others if (path.parent / name).exists()), None)
    if found is None:
        return ". Add it"
    return f", but there is {found}. " + ("Rename it" if found.endswith(".png") else "Convert it to grey PNG")
