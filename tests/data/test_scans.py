"""The same slice or volume is read from every kind of file and folder that can hold it."""

import gzip
import os
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from lungseg.data.manifest import ImageRecord
from lungseg.data.scans import Scan, input_kind, input_name, read_scans
from lungseg.data.slices import SliceWriter
from lungseg.data.volumes import VolumeWriter

WINDOW = (-1000.0, 400.0)


def make_grey(shape=(30, 41), seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_hu(grey, low=-1000.0, high=400.0):
    return low + grey.astype(np.float64) * (high - low) / 255


def scans_in(path, **options):
    return list(read_scans(path, WINDOW, **options))


# ---- slices ------------------------------------------------------------------------------------------------------


def as_png(folder, grey):
    Image.fromarray(grey).save(folder / "scan.png")
    return folder / "scan.png"


def as_capital_png(folder, grey):
    return as_png(folder, grey).rename(folder / "scan.PNG")


def as_npy(folder, grey):
    np.save(folder / "scan.npy", make_hu(grey))
    return folder / "scan.npy"


def as_capital_npy(folder, grey):
    return as_npy(folder, grey).rename(folder / "scan.NPY")


def as_folder_of_pngs(folder, grey):
    (folder / "pngs").mkdir()
    as_png(folder / "pngs", grey)
    return folder / "pngs"


def as_images_without_masks(folder, grey):
    (folder / "data/images").mkdir(parents=True)
    as_png(folder / "data/images", grey)
    return folder / "data"


def as_slices(folder, grey):
    with SliceWriter(folder / "data") as out:
        out.add(ImageRecord("scan", "a", "test"), grey, np.zeros_like(grey))
    return folder / "data"


def as_sixteen_bits_in_another_window(folder, grey):
    levels = np.rint((make_hu(grey) + 1400) / 2000 * 65535).astype(np.uint16)
    with SliceWriter(folder / "data") as out:
        out.add(ImageRecord("scan", "a", "test", hu_low=-1400, hu_high=600, bits=16), levels, np.zeros_like(grey))
    return folder / "data"


def as_sixteen_bits_alone(folder, grey):
    Image.fromarray(grey * np.uint16(257)).save(folder / "scan.png")
    return folder / "scan.png"


def as_one_of_its_folder(folder, grey):
    return as_sixteen_bits_in_another_window(folder, grey) / "images/scan.png"


def as_the_images_of_its_folder(folder, grey):
    return as_sixteen_bits_in_another_window(folder, grey) / "images"


def as_pngs_in_capitals_among_junk(folder, grey):
    path = as_folder_of_pngs(folder, grey)
    (path / "scan.png").rename(path / "scan.PNG")
    (path / "__MACOSX").mkdir()
    for name in ("._scan.PNG", "._scan.png", ".DS_Store", "Thumbs.db"):
        (path / name).write_bytes(b"\0\5\x16\7")
    return path


FORMS = {
    as_sixteen_bits_alone: "png",
    as_one_of_its_folder: "png",
    as_the_images_of_its_folder: "pngs",
    as_pngs_in_capitals_among_junk: "pngs",
    as_png: "png",
    as_capital_png: "png",
    as_npy: "array",
    as_capital_npy: "array",
    as_folder_of_pngs: "pngs",
    as_images_without_masks: "slices",
    as_slices: "slices",
    as_sixteen_bits_in_another_window: "slices",
}


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_a_slice_has_the_same_hu_however_it_comes(form, tmp_path):
    grey = make_grey()
    path = form(tmp_path, grey)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # patients do not matter here
        (scan,) = scans_in(path)
    assert input_kind(path) == FORMS[form] and input_kind(str(path)) == FORMS[form]
    assert scan.id == "scan" and scan.hu.shape == grey.shape and scan.spacing_mm is None
    assert np.abs(scan.hu - make_hu(grey)).max() < 0.02  # of sixteen bits, half a level is 0.015 HU
    assert scan.from_grey == (form not in (as_npy, as_capital_npy))
    has_target = form in (as_slices, as_sixteen_bits_in_another_window)
    assert (scan.target is not None and not scan.target.any()) == has_target


@given(low=st.floats(-2000, 0), width=st.floats(1, 4000))
@settings(max_examples=20)
def test_black_and_white_of_a_lone_png_are_the_ends_of_the_window(low, width, tmp_path_factory):
    grey = np.array([[0, 255, 51]], np.uint8)
    (scan,) = read_scans(as_png(tmp_path_factory.mktemp("png"), grey), (low, low + width))
    assert np.allclose(scan.hu, [[low, low + width, low + width / 5]], atol=1e-3)


def test_slices_come_in_the_order_of_their_manifest_with_spacing_and_target(tmp_path):
    greys = {id_: make_grey(seed=seed) for seed, id_ in enumerate("cab")}
    with SliceWriter(tmp_path / "data") as out:
        for id_, grey in greys.items():
            out.add(ImageRecord(id_, id_, "test", spacing_mm=0.7 if id_ == "a" else np.nan), grey, grey > 200)
    (tmp_path / "data/masks/b.png").unlink()
    scans = scans_in(tmp_path / "data")
    assert [scan.id for scan in scans] == ["c", "a", "b"]
    assert [scan.spacing_mm for scan in scans] == [None, (0.7, 0.7), None]
    assert scans[2].target is None
    for scan in scans[:2]:
        assert np.array_equal(scan.target, greys[scan.id] > 200)


def test_a_scan_knows_the_slice_it_was_made_from(tmp_path):
    """Arrays, volumes and tables are sources; a folder says it; a lone PNG does not."""
    grey = make_grey()
    with SliceWriter(tmp_path / "shrunk") as out:
        out.add(ImageRecord("a", "a", "test", source_height=512, source_width=500), grey, np.zeros_like(grey))
        out.add(ImageRecord("b", "b", "test"), grey, np.zeros_like(grey))
    assert [scan.source_size for scan in scans_in(tmp_path / "shrunk")] == [(512, 500), None]
    assert scans_in(as_png(tmp_path, grey))[0].source_size is None
    assert scans_in(as_npy(tmp_path, grey))[0].source_size == (30, 41)
    np.save(tmp_path / "volume.npy", np.full((2, 5, 6), -700, np.int16))
    assert scans_in(tmp_path / "volume.npy")[0].source_size == (5, 6)


def test_a_table_may_say_how_large_its_pixels_are(tmp_path):
    rows = [{"mask": np.zeros((5, 6), np.int8), "hu_array_old": np.full((5, 6), -700.0)} for _ in range(3)]
    for row, cell in zip(rows, (0.7, None, "0.8\\0.8"), strict=True):
        row["Pixel Spacing"] = cell
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(rows))
    scans = scans_in(tmp_path / "t.pkl")
    assert [scan.spacing_mm for scan in scans] == [(0.7, 0.7), None, (0.8, 0.8)]
    assert {scan.source_size for scan in scans} == {(5, 6)}
    rows[1]["Pixel Spacing"] = "wide"
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(rows))
    with pytest.raises(ValueError, match=r"t.pkl, row 1: expected the side of a pixel in mm, .* got 'wide'"):
        scans_in(tmp_path / "t.pkl")


# ---- volumes -----------------------------------------------------------------------------------------------------


def volume_npz(folder, arrays):
    np.savez(folder / "scan.npz", **arrays)
    return folder / "scan.npz"


def capital_npz(folder, arrays):
    return volume_npz(folder, arrays).rename(folder / "scan.NPZ")


def packed_npz(folder, arrays):
    np.savez_compressed(folder / "scan.npz", **arrays)
    return folder / "scan.npz"


def volume_folder(folder, arrays):
    (folder / "scan").mkdir()
    for name, array in arrays.items():
        np.save(folder / "scan" / f"{name}.npy", array)
    return folder / "scan"


def folder_of_volumes(folder, arrays):
    (folder / "data/volumes").mkdir(parents=True)
    volume_npz(folder / "data/volumes", arrays)
    return folder / "data"


VOLUME_FORMS = [volume_npz, capital_npz, packed_npz, volume_folder, folder_of_volumes]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("form", VOLUME_FORMS, ids=lambda f: f.__name__)
def test_a_volume_is_the_same_however_it_comes(form, known, tmp_path):
    grey = make_grey((3, 20, 31))
    arrays = {"hu": np.rint(make_hu(grey)).astype(np.int16)}
    if known:
        arrays |= {"target": (grey > 200).astype(np.uint8), "spacing_mm": np.array([2.0, 0.7, 0.6])}
    (scan,) = scans_in(form(tmp_path, arrays))
    assert scan.id == "scan" and not scan.from_grey
    assert scan.hu.dtype == np.int16 and np.array_equal(scan.hu, arrays["hu"])
    assert scan.spacing_mm == ((2.0, 0.7, 0.6) if known else None)
    assert np.array_equal(scan.target, arrays["target"]) if known else scan.target is None


def test_an_npy_of_three_sides_is_a_volume(tmp_path):
    np.save(tmp_path / "scan.npy", np.full((2, 5, 6), -700, np.int16))
    for name in ("scan.npy", "scan.NPY"):
        (scan,) = scans_in((tmp_path / "scan.npy").rename(tmp_path / name))
        assert input_kind(tmp_path / name) == "array" and scan.hu.shape == (2, 5, 6) and scan.target is None
        (tmp_path / name).rename(tmp_path / "scan.npy")


def test_a_target_has_the_shape_of_its_scan():
    with pytest.raises(ValueError, match=r"^a: target has shape \(4, 5\) but hu has \(5, 4\). Export both on one grid"):
        Scan("a", np.zeros((5, 4)), np.zeros((4, 5)))


# ---- tables ------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    greys = [make_grey(seed=k) for k in range(3)]
    columns = {"label1": list("abc"), "mask": [(g > 200).astype(np.int8) for g in greys]}
    columns["hu_array_old"] = [make_hu(g) for g in greys]
    columns["hu_array"] = [np.full(g.shape, -900.0) for g in greys]
    with gzip.open(tmp_path / "train.pkl.gz", "wb") as file:
        pickle.dump(columns, file)
    return tmp_path / "train.pkl.gz", greys


def test_all_rows_of_a_table_or_those_asked_for_in_their_order(table):
    path, greys = table
    assert input_kind(path) == "table"
    for rows in (None, (2, 0), (1, 1), ()):
        wanted = range(3) if rows is None else rows
        scans = scans_in(path, rows=rows)
        assert [scan.id for scan in scans] == [f"train_row000{k}" for k in wanted]
        for scan, k in zip(scans, wanted, strict=True):
            assert np.array_equal(scan.hu, make_hu(greys[k])) and np.array_equal(scan.target, greys[k] > 200)
    assert (scans_in(path, rows=[1], column="hu_array")[0].hu == -900).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": (0, 3)}, "expected rows from 0 to 2, got row 3"),
        ({"rows": (-1,)}, "got row -1"),
        ({"column": "hu"}, "column 'hu' is missing"),
        ({"column": "label1"}, "expected HU in column 'label1', got 'a'"),
    ],
)
def test_a_row_or_column_that_is_not_there_is_refused_before_any_row_is_given(options, words, table):
    with pytest.raises(ValueError) as error:
        next(read_scans(table[0], WINDOW, **options))
    assert words in str(error.value) and str(table[0]) in str(error.value)


def test_a_table_without_masks_has_no_targets(tmp_path):
    with open(tmp_path / "t.pkl", "wb") as file:
        pickle.dump({"hu_array_old": [np.full((4, 5), -800.0)]}, file)
    (scan,) = scans_in(tmp_path / "t.pkl")
    assert scan.target is None and scan.hu.shape == (4, 5)


# ---- refusals ----------------------------------------------------------------------------------------------------


def saved(array, name="x.npy", pickled=False):
    def make(folder):
        np.save(folder / name, array, allow_pickle=pickled)
        return folder / name

    return make


def no_hu(folder):
    np.savez(folder / "x.npz", image=np.zeros((4, 4, 4)))
    return folder / "x.npz"


def colours(folder):
    Image.new("RGB", (4, 4)).save(folder / "x.png")
    return folder / "x.png"


def named(name, text="DICM"):
    def make(folder):
        (folder / name).write_text(text)
        return folder / name

    return make


def empty_folder(folder):
    (folder / "x").mkdir()
    return folder / "x"


def test_a_folder_of_other_pictures_says_what_there_is(tmp_path):
    for name in ("a.jpg", "b.jpg", "._c.png"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="nor [*].png; only PNG .* is read, and there are 2 .jpg. Give"):
        input_kind(tmp_path)


def test_a_png_of_a_folder_has_its_spacing(tmp_path):
    with SliceWriter(tmp_path / "data") as out:
        out.add(ImageRecord("a", "p", "test", spacing_mm=0.7), make_grey(), np.zeros((30, 41)))
    assert scans_in(tmp_path / "data/images/a.png")[0].spacing_mm == (0.7, 0.7)


def test_a_volume_of_arrays_may_be_written_in_capitals(tmp_path):
    np.save(tmp_path / "HU.npy", np.zeros((2, 3, 4)))
    assert input_kind(tmp_path) == "volume" and scans_in(tmp_path)[0].hu.shape == (2, 3, 4)


def test_one_changed_voxel_of_a_volume_is_noticed(tmp_path):
    hu = np.arange(60, dtype=np.int16).reshape(3, 4, 5) - 1000
    np.savez(tmp_path / "v.npz", hu=hu)
    data = bytearray((tmp_path / "v.npz").read_bytes())
    data[data.index(hu.tobytes()) + 7] ^= 4
    (tmp_path / "v.npz").write_bytes(data)
    with pytest.raises(ValueError, match="v.npz is damaged .the checksum of hu.npy is wrong"):
        scans_in(tmp_path / "v.npz")


PIPES = {"x.png", "x.npy", "x.npz", "x.pkl", "images/x.png", "volumes/x.npz", "manifest.csv", "hu.npy"}


@pytest.mark.parametrize("device", [False, True], ids=["pipe", "device"])
@pytest.mark.parametrize("name", sorted(PIPES))
def test_what_is_no_file_is_not_opened(name, device, tmp_path):
    path = tmp_path / "data" / name
    (tmp_path / "data/images").mkdir(parents=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to("/dev/zero") if device else os.mkfifo(path)
    if name == "hu.npy" or "volumes" in name:
        (tmp_path / "data/images").rmdir()
    given = path if path.parent.name == "data" and name[0] == "x" else tmp_path / "data"
    with pytest.raises(ValueError, match="it is a pipe, a device or a socket") as error:
        scans_in(given)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (saved(np.array([[0, np.nan], [np.inf, 0]])), "2 of 4 HU are NaN or infinite. Fill gaps with -1000"),
        (saved(np.full((2, 4, 4), np.inf)), "32 of 32 HU are NaN or infinite"),
        (saved(np.zeros((0, 4))), "hu is empty: its shape is (0, 4)"),
        (saved(np.zeros((4, 4), complex)), "hu: expected plain numbers, got complex128. Save it"),
        (
            saved(np.array([[{}]], object), pickled=True),
            "hu: expected plain numbers, got object. Save it with .asty",
        ),
        (saved(np.zeros(4)), "expected the shape (H, W) of a slice or (D, H, W) of a volume, got (4,)"),
        (saved(np.zeros(())), "expected the shape (H, W) of a slice or (D, H, W) of a volume, got ()"),
        (
            saved(np.zeros((1, 2, 3, 4))),
            "expected the shape (H, W) of a slice or (D, H, W) of a volume, got (1, 2, 3, 4)",
        ),
        (no_hu, "no array hu"),
        (colours, "expected a grey PNG of 8 bits, got RGB"),
        (named("x.dcm"), "expected a file that ends in .png"),
        (named("x.npz"), "x.npz is damaged"),
        (named("x.npy"), "x.npy"),
        (named("x.pkl"), "x.pkl"),
        (empty_folder, "holds neither images/"),
        (lambda folder: folder / "x.png", "does not exist"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence_that_names_it(make, words, tmp_path):
    path = make(tmp_path)
    with pytest.raises(ValueError) as error:
        scans_in(path)
    assert words in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_one_at_a_time_a_bad_file_is_noticed_when_its_turn_comes(tmp_path):
    as_png(tmp_path, make_grey())
    colours(tmp_path)
    scans = read_scans(tmp_path, WINDOW)
    assert next(scans).id == "scan"
    with pytest.raises(ValueError, match="expected a grey PNG of 8 bits, got RGB"):
        next(scans)


def test_a_folder_has_a_name_however_it_is_given(tmp_path, monkeypatch):
    (tmp_path / "scan/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("scan")
    monkeypatch.chdir(tmp_path / "scan/deep")
    given_as = {".": "deep", "./": "deep", "..": "scan", "../": "scan", "../deep/..": "scan", "../deep/": "deep"}
    assert {path: input_name(path) for path in given_as} == given_as
    assert input_name(tmp_path / "link") == "link"  # what the user calls it
    assert input_name("/") == "root" and input_name("missing.npz") == "missing.npz"


def test_a_folder_with_classes_says_what_its_targets_mean(tmp_path):
    grey, labels = make_grey(), np.zeros((30, 41), np.uint8)
    labels[3:6, 4:9], labels[20:24, 30:33] = 1, 2
    with SliceWriter(tmp_path / "slices", classes=("LR2", "LR3")) as out:
        out.add(ImageRecord("a", "p", "test"), grey, labels)
    with VolumeWriter(tmp_path / "volumes", classes=("LR2", "LR3")) as out:
        out.add(ImageRecord("b", "p", "test"), np.zeros((1, 30, 41), np.int16), labels[None], 1.0)
    for name in ("slices", "volumes"):
        [scan] = scans_in(tmp_path / name)
        assert scan.classes == ("LR2", "LR3") and np.array_equal(np.squeeze(scan.target), labels)
    assert scans_in(tmp_path / "volumes/volumes/b.npz")[0].classes == ()  # a lone file does not say
