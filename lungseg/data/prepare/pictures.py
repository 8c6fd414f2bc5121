"""Pictures from the web and from other programs, in pairs of image and mask, of any mode, depth and size.

    DIR/images/a.jpg    DIR/masks/a_mask.png        --images 'images/*.jpg' --masks 'masks/*_mask.png'

`lungseg.data.slices` requires 8-bit or 16-bit grey images, and masks of two values. Here the formats in FORMATS are
converted to that, and the caller learns which decisions were made: whether there were colours, or shades in a mask.
"""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
EIGHT_BITS = ("1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV")  # Pillow's modes
ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
MAX_LABEL = 15  # in a mask, values up to this one number lesions or classes; larger values are shades of grey
ALL_HU = (-np.inf, np.inf)  # the `shared_range` of pictures that hold HU
COLOUR_LEVELS, COLOUR_PIXELS = 48, 10  # coloured = channels differ by more levels than this, in more pixels than this


# ---- finding ----------------------------------------------------------------------------------------------------


def find_pairs(folder: Path, images: str, masks: str) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """(name, image, mask) for every image that has a mask, and the paths of files without a partner.

    Args:
        images, masks: patterns relative to `folder`, with the wildcards * (within one name), ? and ** (any folders).
            Two files are partners if the wildcards stand for the same text in both; that text is their name. A file
            that matches both patterns is a mask. Case is ignored; hidden files are left out.

    Raises:
        ValueError: if the patterns do not have equally many wildcards (at least one), if no file matches one of them,
            if two images (or two masks) have the same name, or if no image has a mask.
    """
    image_regex, mask_regex = to_regex(images), to_regex(masks)
    if image_regex.groups != mask_regex.groups or image_regex.groups == 0:
        raise ValueError(
            f"--images {images} and --masks {masks} must have the same number of wildcards, at least one: a pair is "
            f"recognised by the text that they stand for."
        )
    files = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]
    files = [p for p in files if not any(part.startswith(".") for part in p.parts)]
    mask_by_name = match_names(files, mask_regex, "--masks", folder)
    others = [p for p in files if p not in mask_by_name.values()]
    image_by_name = match_names(others, image_regex, "--images", folder)
    for flag, found, pattern in (("--images", image_by_name, images), ("--masks", mask_by_name, masks)):
        if not found:
            examples = ", ".join(map(str, files[:3])) or "no files"
            raise ValueError(
                f"no file in {folder} matches {flag} {pattern} (it holds {examples}, ...). Change the pattern."
            )
    names = [name for name in image_by_name if name in mask_by_name]
    pairs = [(name, folder / image_by_name[name], folder / mask_by_name[name]) for name in names]
    if not pairs:
        first = next(iter(image_by_name.values())), next(iter(mask_by_name.values()))
        raise ValueError(f"no image has a mask: {first[0]} and {first[1]} differ where the wildcards are.")
    alone = [str(path) for name, path in image_by_name.items() if name not in mask_by_name]
    return pairs, alone + [str(path) for name, path in mask_by_name.items() if name not in image_by_name]


def to_regex(pattern: str) -> re.Pattern:
    """Translate a pattern with *, ** and ? to a regular expression that has one group per wildcard."""
    parts = re.split(r"(\*\*/|\*|\?)", Path(pattern).as_posix())
    meaning = {"**/": "((?:[^/]+/)*)", "*": "([^/]+)", "?": "([^/])"}
    return re.compile("".join(meaning.get(part) or re.escape(part) for part in parts), re.IGNORECASE)


def match_names(files: Sequence[Path], pattern: re.Pattern, flag: str, folder: Path) -> dict[str, Path]:
    """name -> file, for the files that match the pattern."""
    found: dict[str, Path] = {}
    for path in files:
        if match := pattern.fullmatch(path.as_posix()):
            name = "/".join(part.strip("/") for part in match.groups() if part)
            if name in found:
                raise ValueError(f"{folder}: {found[name]} and {path} have the same name under {flag}. Rename one.")
            found[name] = path
    return found


def compile_patient_pattern(text: str) -> re.Pattern:
    """The expression of --patient-from, or a ValueError if it is not one with a group."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(f"--patient-from {text} is not a regular expression ({error}).") from None
    if not pattern.groups:
        raise ValueError(f"--patient-from {text} has no group. Put the patient in parentheses: 'images/([^_]+)_'.")
    return pattern


def find_patient(path: Path, pattern: re.Pattern) -> str:
    """The text that the first group of the pattern matches in a path.

    Raises:
        ValueError: if the pattern does not match, or the group is empty.
    """
    match = pattern.search(path.as_posix())
    if not match or not match[1]:
        raise ValueError(
            f"--patient-from {pattern.pattern} finds no patient in {path.as_posix()}. Change the expression."
        )
    return match[1]


# ---- reading ----------------------------------------------------------------------------------------------------


def open_picture(path: Path) -> Image.Image:
    """Decode one picture and turn it as its EXIF orientation says.

    Raises:
        ValueError: naming the file, if it has another format, is damaged or too large, or holds several frames.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                if (frames := getattr(picture, "n_frames", 1)) > 1:
                    raise ValueError(f"{path} holds {frames} pictures, expected one. Save each slice as its own file.")
                return ImageOps.exif_transpose(picture)  # decodes it
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path} is not a {', '.join(FORMATS)} picture. Convert it to PNG.") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"{path} has more pixels than a slice can have. Remove it.") from None
    except ValueError as error:
        raise error if str(error).startswith(str(path)) else damage_error(path, error) from None
    except Exception as error:  # Pillow reports damage as OSError, SyntaxError, struct.error, zlib.error, ...
        raise damage_error(path, error) from None


def damage_error(path: Path, error: Exception) -> ValueError:
    """The error to raise for a file that Pillow cannot decode."""
    return ValueError(f"{path} is damaged or cut short ({error}). Copy or export it again.")


def read_image(path: Path) -> tuple[NDArray, bool]:
    """Grey levels (H, W), for colours their brightness, and whether the picture was coloured.

    Up to 8 bits give uint8, with black 0 and white 255. Deeper pictures give the numbers in the file.
    """
    picture = open_picture(path)
    if picture.mode not in EIGHT_BITS:
        return read_deep(path, picture), False
    rgb = flatten_to_rgb(picture)
    channels = np.asarray(rgb).astype(np.int16)  # (H, W, 3)
    coloured = np.count_nonzero(np.ptp(channels, axis=2) > COLOUR_LEVELS) > COLOUR_PIXELS
    return np.asarray(rgb.convert("L")), bool(coloured)


def read_mask(path: Path) -> tuple[NDArray[np.uint8], bool]:
    """Lesion map (H, W) in {0, 1}, and whether it had shades between background and lesion.

    If there is only one value that is not black, or the values are labels 1 ... 15, everything that is not black is
    lesion, in any colour. Among shades, as from smooth outlines or JPEG, lesion is above half of the brightest value.
    """
    picture = open_picture(path)
    if picture.mode in EIGHT_BITS:
        shades = np.asarray(flatten_to_rgb(picture)).max(axis=2)  # (H, W)
    else:
        shades = read_deep(path, picture)
    brightest = shades.max()
    shaded = brightest > MAX_LABEL and len(np.unique(shades[shades > 0])) > 1
    return (shades > (brightest / 2 if shaded else 0)).astype(np.uint8), bool(shaded)


def read_deep(path: Path, picture: Image.Image) -> NDArray:
    """The numbers (H, W) in the file of a picture with more than 8 bits."""
    numbers = np.asarray(picture)
    if numbers.ndim != 2 or numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
        raise ValueError(f"{path} has a pixel format that is not supported ({picture.mode}). Convert it to PNG.")
    return numbers


def flatten_to_rgb(picture: Image.Image) -> Image.Image:
    """Convert to RGB; transparent pixels become black."""
    if picture.mode in ALPHA or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    return picture.convert("RGB")


def shared_range(paths: Sequence[Path]) -> tuple[float, float] | None:
    """(black, white) for all pictures with more than 8 bits, which share one scale; None if there are no such pictures.

    White is the largest number of the bits in use (4095 for 12 bits), or 1 for fractions. Numbers below 0 can only be
    HU; then the result is ALL_HU.
    """
    low, high, whole, found = 0.0, 0.0, True, False
    for path in paths:
        if has_eight_bits(path):
            continue
        numbers, found = read_deep(path, open_picture(path)), True
        low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
        whole &= numbers.dtype.kind != "f"
    if not found:
        return None
    if low < 0:
        return ALL_HU
    return 0.0, 1.0 if high <= 1 and not whole else 2.0 ** max(8, int(high).bit_length()) - 1


def has_eight_bits(path: Path) -> bool:
    """Whether a picture has at most 8 bits, from its header alone; for a bad file `open_picture` reports the error."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as picture:
            return picture.mode in EIGHT_BITS
    except Exception:
        return True
