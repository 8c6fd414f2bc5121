"""Pictures of every kind become one grey picture and one lesion map; what has no partner is found out."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from lungseg.data.prepare.pictures import find_pairs, find_patient, read_image, read_mask, shared_range

GREY = np.random.default_rng(0).integers(0, 256, (20, 31), dtype=np.uint8)
LESION = np.zeros((20, 31), np.uint8)
LESION[4:12, 5:20] = 1


def saved(folder, picture, name="a.png", **options):
    path = Path(folder, name)
    picture.save(path, **options)
    return path


# ---- pairs ------------------------------------------------------------------------------------------------------


def touch(folder, *names):
    for name in names:
        Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
        Path(folder, name).touch()


PAIRED = {
    "two folders": ("images/*.jpg", "masks/*_mask.png", ["images/a.jpg"], ["masks/a_mask.png"], ["a"]),
    "one folder, where a mask fits both patterns": ("*.png", "*_mask.png", ["a.png"], ["a_mask.png"], ["a"]),
    "a folder for each": ("*/scan.png", "*/mask.png", ["p1/scan.png", "p2/scan.png"], ["p1/mask.png", "p2/mask.png"],
                          ["p1", "p2"]),
    "two wildcards": ("img/*/*.bmp", "seg/*/*.png", ["img/p/1.bmp", "img/q/1.bmp"], ["seg/p/1.png", "seg/q/1.png"],
                      ["p/1", "q/1"]),
    "any depth": ("img/**/*.png", "seg/**/*.png", ["img/0.png", "img/a/b/1.png"], ["seg/0.png", "seg/a/b/1.png"],
                  ["0", "a/b/1"]),
    "one letter": ("im?.png", "ma?.png", ["im1.png", "im2.png"], ["ma1.png", "ma2.png"], ["1", "2"]),
    "capitals": ("images/*.jpg", "masks/*.png", ["images/A1.JPG", "images/b.jpg"], ["masks/A1.PNG", "masks/b.png"],
                 ["A1", "b"]),
    "what is special in other patterns": ("[x]/img (*).png", "[x]/seg (*).png", ["[x]/img (0).png"],
                                          ["[x]/seg (0).png"], ["0"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRED)
def test_partners_are_equal_where_the_wildcards_are(name, tmp_path):
    images, masks, of_image, of_mask, names = PAIRED[name]
    touch(tmp_path, *of_image, *of_mask, "notes.txt", "._a.png", ".hidden/a.png", "images/._a.jpg", "masks/.DS_Store")
    pairs, alone = find_pairs(tmp_path, images, masks)
    expected = zip(names, of_image, of_mask, strict=True)
    assert pairs == [(name, tmp_path / image, tmp_path / mask) for name, image, mask in expected] and alone == []


@given(st.sets(st.text("abA1_", min_size=1, max_size=3)), st.sets(st.text("abA1_", min_size=1, max_size=3)))
def test_every_file_is_in_a_pair_or_named(tmp_path_factory, of_images, of_masks):
    folder = tmp_path_factory.mktemp("pairs")
    of_images, of_masks = of_images | {"x"}, of_masks | {"x"}
    touch(folder, *(f"i/{name}.png" for name in of_images), *(f"m/{name}.png" for name in of_masks))
    pairs, alone = find_pairs(folder, "i/*.png", "m/*.png")
    assert [name for name, _, _ in pairs] == sorted(of_images & of_masks)
    assert sorted(alone) == sorted(
        [f"i/{name}.png" for name in of_images - of_masks] + [f"m/{name}.png" for name in of_masks - of_images]
    )


@pytest.mark.parametrize(
    ("images", "masks", "words"),
    [
        ("a.png", "b.png", "must have the same number of wildcards, at least one"),
        ("*/*.png", "*.png", "must have the same number of wildcards"),
        ("scans/*.png", "masks/*.png", "no file in .* matches --images scans/.* .it holds images/a.png"),
        ("images/*.png", "masks/*.gif", "no file in .* matches --masks masks/"),
        ("images/*.png", "masks/*.png", "no image has a mask: images/a.png and masks/b_mask.png differ where"),
        ("*/a.p?g", "*/b_mask.p?g", "images/a.png and images/a.PnG have the same name"),
    ],
)
def test_patterns_that_pair_nothing_are_refused(images, masks, words, tmp_path):
    touch(tmp_path, "images/a.png", "masks/b_mask.png")
    if "p?g" in images:
        touch(tmp_path, "images/a.PnG", "images/b_mask.png")
        words = "images/a.PnG and images/a.png have the same name under --images. Rename one"
    with pytest.raises(ValueError, match=words):
        find_pairs(tmp_path, images, masks)


def test_a_patient_is_the_first_group_of_the_pattern():
    assert find_patient(Path("images/LIDC-0001_s3.png"), re.compile(r"(LIDC-\d+)_(s\d)")) == "LIDC-0001"
    for pattern in (r"(CT-\d+)", r"images/(x*)"):  # not found, and found empty
        with pytest.raises(ValueError, match=r"--patient-from .* finds no patient in images/LIDC-0001_s3.png"):
            find_patient(Path("images/LIDC-0001_s3.png"), re.compile(pattern))


# ---- images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
@pytest.mark.parametrize("form", ["png", "tiff", "bmp"])
def test_grey_is_grey_in_any_mode_and_format(mode, form, tmp_path):
    if (form, mode) in {("bmp", "LA"), ("bmp", "RGBA")}:
        pytest.skip("no such BMP")
    path = saved(tmp_path, Image.fromarray(GREY).convert(mode), f"a.{form}")
    image, coloured = read_image(path)
    assert image.dtype == np.uint8 and np.array_equal(image, GREY) and not coloured


def test_a_jpeg_is_nearly_the_same_and_not_coloured(tmp_path):
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    image, coloured = read_image(saved(tmp_path, Image.fromarray(smooth).convert("RGB"), "a.jpg", quality=90))
    assert np.abs(image.astype(int) - smooth).max() <= 6 and not coloured


def test_one_bit_is_black_and_white(tmp_path):
    assert np.array_equal(read_image(saved(tmp_path, Image.fromarray(LESION > 0)))[0], LESION * 255)


def test_colours_are_noticed(tmp_path):
    marked = np.stack([GREY] * 3, axis=2)
    marked[3, 5:17] = (255, 0, 0)  # a red line
    image, coloured = read_image(saved(tmp_path, Image.fromarray(marked)))
    assert coloured and np.array_equal(image[4:], GREY[4:])


def test_what_is_transparent_is_black(tmp_path):
    alpha = np.dstack([np.full_like(GREY, 200), LESION * 255])
    assert np.array_equal(read_image(saved(tmp_path, Image.fromarray(alpha, "LA")))[0], LESION * 200)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_as_its_orientation_says(orientation, tmp_path):
    turned = {1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T, 6: np.rot90(GREY, 1),
              7: GREY[::-1, ::-1].T, 8: np.rot90(GREY, -1)}[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(turned)), "a.png", exif=exif)
    assert np.array_equal(read_image(path)[0], GREY)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 4000]], np.uint16), (0, 4095)),  # 12 bits
        (np.array([[0, 65535]], np.uint16), (0, 65535)),
        (np.array([[0, 9]], np.uint16), (0, 255)),
        (np.array([[0.0, 1.0]], np.float32), (0, 1)),
        (np.array([[-1000, 40]], np.int32), (-np.inf, np.inf)),
        (np.array([[0, 200]], np.uint8), None),
    ],
)
def test_deep_pictures_share_one_scale(values, expected, tmp_path):
    paths = [saved(tmp_path, Image.fromarray(v), f"{k}.tiff") for k, v in enumerate((values, values // 2, GREY))]
    assert shared_range(paths) == expected
    assert np.array_equal(read_image(paths[0])[0], values)


# ---- masks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 2, 15, 38, 128, 255])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA"])
def test_whatever_is_not_black_is_lesion(value, mode, tmp_path):
    path = saved(tmp_path, Image.fromarray(LESION * np.uint8(value)).convert(mode))
    mask, shaded = read_mask(path)
    assert mask.dtype == np.uint8 and np.array_equal(mask, LESION) and not shaded


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (0, 40, 0)])
def test_in_any_colour(colour, tmp_path):
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(LESION[..., None] * np.uint8(colour))))[0], LESION)


def test_one_bit_sixteen_bits_labels_and_palettes(tmp_path):
    labels = LESION.copy()
    labels[5:7, 6:9] = 3
    palette = Image.fromarray(labels, "P")
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    for k, picture in enumerate([
        Image.fromarray(LESION > 0), Image.fromarray(LESION.astype(np.uint16) * 65535), Image.fromarray(labels), palette
    ]):  # fmt: skip
        mask, shaded = read_mask(saved(tmp_path, picture, f"{k}.png"))
        assert np.array_equal(mask, LESION) and not shaded
    empty, shaded = read_mask(saved(tmp_path, Image.new("L", (31, 20))))
    assert not empty.any() and not shaded


def test_a_mask_saved_as_jpeg_or_with_a_smooth_outline_is_cut_at_half(tmp_path):
    large = np.kron(LESION, np.ones((4, 4), np.uint8)) * 255
    mask, shaded = read_mask(saved(tmp_path, Image.fromarray(large), "a.jpg", quality=75))
    assert shaded and (mask != large // 255).mean() < 0.01
    smooth = Image.fromarray(large).resize((31, 20), Image.Resampling.BILINEAR)
    mask, shaded = read_mask(saved(tmp_path, smooth))
    assert shaded and np.array_equal(mask, LESION)


# ---- refusals ---------------------------------------------------------------------------------------------------


def animation(folder):
    return saved(folder, Image.fromarray(GREY), "a.tiff", save_all=True, append_images=[Image.fromarray(GREY)] * 2)


def text(folder):
    Path(folder, "a.png").write_text("no picture")
    return Path(folder, "a.png")


def cut(folder):
    path = saved(folder, Image.fromarray(GREY))
    path.write_bytes(path.read_bytes()[:-60])
    return path


def not_a_number(folder):
    return saved(folder, Image.fromarray(np.full((4, 4), np.nan, np.float32)), "a.tiff")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (animation, "holds 3 pictures, expected one. Save each slice as its own file"),
        (text, "is not a PNG, JPEG, BMP, TIFF picture. Convert it to PNG"),
        (cut, "is damaged or cut short"),
        (not_a_number, "has a pixel format that is not supported"),
    ],
)
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_what_is_no_picture_of_one_slice_is_refused_by_name(make, words, read, tmp_path):
    path = make(tmp_path)
    with pytest.raises(ValueError) as error:
        read(path)
    assert str(error.value).startswith(str(path)) and words in str(error.value) and "\n" not in str(error.value)


def test_a_picture_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(GREY))
    for limit in (500, 100):  # Pillow warns above the limit, and refuses above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match="has more pixels than a slice can have"):
            read_image(path)
        assert shared_range([path]) is None
