"""Pictures as the web and other programs have them, found in pairs of image and mask: any mode, depth and size.

    DIR/images/a.jpg    DIR/masks/a_mask.png        --images 'images/*.jpg' --masks 'masks/*_mask.png'

`lungseg.data.slices` insists on 8- or 16-bit grey and on two values in a mask. Here everything that Pillow reads
becomes that, once, and what was decided on the way is told.
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
MOST_LABELS = 15  # a mask with no larger value numbers its lesions or classes; above, values are shades of grey
COLOUR = 48, 10  # a picture is coloured if channels differ by more than 48 levels in more than 10 pixels


# ---- finding ----------------------------------------------------------------------------------------------------


def find_pairs(folder: Path, images: str, masks: str) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """(name, image, mask) for every image that has a mask, by name, and the files that have no partner.

    Args:
        images, masks: patterns relative to `folder`, with the wildcards * (in one name), ? and ** (any folders). Two
            files are partners if the wildcards stand for the same text in both; that text is their name. A file that
            fits both patterns is a mask. Capitals make no difference; hidden files are left out.

    Raises:
        ValueError: if a pattern has no wildcard, the two do not have equally many, no file fits one, two files of one
            kind have the same name, or nothing is paired.
    """
    readers = {"--images": to_regex(images), "--masks": to_regex(masks)}
    groups = [reader.groups for reader in readers.values()]
    if groups[0] != groups[1] or groups[0] == 0:
        raise ValueError(
            f"--images {images} and --masks {masks} must have the same number of wildcards, at least one: a pair is "
            f"known by what they stand for."
        )
    files = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]
    files = [p for p in files if not any(part.startswith(".") for part in p.parts)]
    of_mask = match_names(files, readers["--masks"], "--masks", folder)
    of_image = match_names([p for p in files if p not in of_mask.values()], readers["--images"], "--images", folder)
    for flag, found, pattern in (("--images", of_image, images), ("--masks", of_mask, masks)):
        if not found:
            there = ", ".join(map(str, files[:3])) or "no files"
            raise ValueError(f"no file of {folder} fits {flag} {pattern} (it holds {there}, ...). Change the pattern.")
    pairs = [(name, folder / of_image[name], folder / of_mask[name]) for name in of_image if name in of_mask]
    if not pairs:
        first = next(iter(of_image.values())), next(iter(of_mask.values()))
        raise ValueError(f"no image has a mask: {first[0]} and {first[1]} differ where the wildcards are.")
    alone = [str(path) for name, path in of_image.items() if name not in of_mask]
    return pairs, alone + [str(path) for name, path in of_mask.items() if name not in of_image]


def to_regex(pattern: str) -> re.Pattern:
    """A pattern with * ** ? as a regular expression with one group for each of them."""
    parts = re.split(r"(\*\*/|\*|\?)", Path(pattern).as_posix())
    meaning = {"**/": "((?:[^/]+/)*)", "*": "([^/]+)", "?": "([^/])"}
    return re.compile("".join(meaning.get(part) or re.escape(part) for part in parts), re.IGNORECASE)


def match_names(files: Sequence[Path], pattern: re.Pattern, flag: str, folder: Path) -> dict[str, Path]:
    """name -> file of those that fit the pattern."""
    found: dict[str, Path] = {}
    for path in files:
        if match := pattern.fullmatch(path.as_posix()):
            name = "/".join(part.strip("/") for part in match.groups() if part)
            if name in found:
                raise ValueError(f"{folder}: {found[name]} and {path} have the same name under {flag}. Rename one.")
            found[name] = path
    return found


def find_patient(path: Path, pattern: re.Pattern) -> str:
    """The first group of the pattern in a path.

    Raises:
        ValueError: if it is not found, or empty.
    """
    match = pattern.search(path.as_posix())
    if not match or not match[1]:
        raise ValueError(f"--patient-from {pattern.pattern} finds no patient in {path.as_posix()}. Change it.")
    return match[1]


# ---- reading ----------------------------------------------------------------------------------------------------


def open_picture(path: Path) -> Image.Image:
    """One picture, decoded, the way up that its EXIF orientation says.

    Raises:
        ValueError: naming the file, if it is of no format of ours, damaged, too large, or holds several frames.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                if (frames := getattr(picture, "n_frames", 1)) > 1:
                    raise ValueError(f"{path} holds {frames} pictures. Save each slice as a file of its own.")
                return ImageOps.exif_transpose(picture)  # decodes it
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path} is no {', '.join(FORMATS)} picture. Convert it to PNG.") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"{path} has more pixels than a slice can have. Take it out.") from None
    except ValueError as error:
        raise error if str(error).startswith(str(path)) else damage_error(path, error) from None
    except Exception as error:  # Pillow reports damage as OSError, SyntaxError, struct.error, zlib.error, ...
        raise damage_error(path, error) from None


def damage_error(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged or cut short ({error}). Copy or export it again.")


def read_image(path: Path) -> tuple[NDArray, bool]:
    """Grey levels (H, W), of colours their brightness, and whether there were colours.

    8 bits and less give uint8, black 0 and white 255. Deeper pictures give the numbers in the file.
    """
    picture = open_picture(path)
    if picture.mode not in EIGHT_BITS:
        return raw_numbers(path, picture), False
    rgb = to_rgb(picture)
    levels, pixels = COLOUR
    channels = np.asarray(rgb).astype(np.int16)  # (H, W, 3)
    coloured = np.count_nonzero(np.ptp(channels, axis=2) > levels) > pixels
    return np.asarray(rgb.convert("L")), bool(coloured)


def read_mask(path: Path) -> tuple[NDArray[np.uint8], bool]:
    """Lesion map (H, W) in {0, 1}, and whether it had shades between background and lesion.

    Whatever is not black is lesion, in any colour, if there is only one such value or they are labels 1 ... 15. Shades,
    as from smooth outlines or JPEG, are lesion above half of the brightest.
    """
    picture = open_picture(path)
    shades = (
        np.asarray(to_rgb(picture)).max(axis=2) if picture.mode in EIGHT_BITS else raw_numbers(path, picture)
    )  # (H, W)
    brightest = shades.max()
    shaded = brightest > MOST_LABELS and len(np.unique(shades[shades > 0])) > 1
    return (shades > (brightest / 2 if shaded else 0)).astype(np.uint8), bool(shaded)


def raw_numbers(path: Path, picture: Image.Image) -> NDArray:
    """(H, W) of a picture with more than 8 bits, as the numbers in the file."""
    numbers = np.asarray(picture)
    if numbers.ndim != 2 or numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
        raise ValueError(f"{path} has pixels of a kind that is not known here ({picture.mode}). Convert it to PNG.")
    return numbers


def to_rgb(picture: Image.Image) -> Image.Image:
    """As RGB; what is transparent is black."""
    if picture.mode in ALPHA or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    return picture.convert("RGB")


def shared_range(paths: Sequence[Path]) -> tuple[float, float] | None:
    """(black, white) of those pictures with more than 8 bits, or None if there are none.

    They share one scale: 0 to the largest number of so many bits as are used (4095 of 12), or to 1 for fractions.
    Numbers below 0 can only be HU: then (-inf, inf).
    """
    low, high, whole, found = 0.0, 0.0, True, False
    for path in paths:
        if has_eight_bits(path):
            continue
        numbers, found = raw_numbers(path, open_picture(path)), True
        low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
        whole &= numbers.dtype.kind != "f"
    if not found:
        return None
    if low < 0:
        return -np.inf, np.inf
    return 0.0, 1.0 if high <= 1 and not whole else 2.0 ** max(8, int(high).bit_length()) - 1


def has_eight_bits(path: Path) -> bool:
    """From the first bytes of the file; `open_picture` says what is wrong with one that cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as picture:
            return picture.mode in EIGHT_BITS
    except Exception:
        return True
