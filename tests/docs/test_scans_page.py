"""The blocks of docs/data/scans.md that need a library for medical images run here with objects made by hand.

One patient is stored in every way that axes can be ordered and reversed. What the page reads is always the same
volume, and what it writes lies on the voxels of the file that was read.
"""

import re
import sys
from itertools import permutations, product
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from lungseg.data.volumes import check_volume_folder

PAGE = Path(__file__).resolve().parents[2] / "docs/data/scans.md"
BLOCKS = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
READ = ["series.notes", "def read_nifti", "def read_itk"]  # what distinguishes a block from the others
WRITE = ["Nifti1Image(", "GetImageFromArray(", "highdicom.seg.Segmentation("]

SHAPE, SPACING = (5, 4, 6), (2.5, 0.7, 0.8)
LOW = np.array([-100.0, 50.0, -300.0])  # of our first voxel, LPS
HU = (np.arange(120) * 9 - 1000).astype(np.int16).reshape(SHAPE)  # slices to the head, rows to the back, columns left
LESION = (np.random.default_rng(0).random(SHAPE) < 0.3).astype(np.uint8)
TURNS = list(product(permutations(range(3)), product((1, -1), repeat=3)))  # 48: axis n of a file is our order[n]
AXIAL = [(order, signs) for order, signs in TURNS if order[0] == 0]  # of them, those that a series of slices can have
BODY = np.array([[0, 0, SPACING[0]], [0, SPACING[1], 0], [SPACING[2], 0, 0]])  # a step along each of our axes


def stored(ours, turn):
    order, signs = turn
    return ours.transpose(order)[tuple(slice(None, None, s) for s in signs)]


def steps_and_origin(turn):
    """(3, 3) mm along each axis of the stored array, and the place of its first voxel."""
    order, signs = turn
    steps = np.array([s * BODY[a] for a, s in zip(order, signs, strict=True)])
    ends = sum((SHAPE[a] - 1) * BODY[a] for a, s in zip(order, signs, strict=True) if s < 0)
    return steps, LOW + ends


# ---- stand-ins for the libraries -----------------------------------------------------------------------------------


def dicom_slices(turn):
    """One header with pixels for each slice; the first axis of the stored array is the slices."""
    (between, down, right), origin = steps_and_origin(turn)
    for n, pixels in enumerate(stored(HU, turn)):
        yield SimpleNamespace(
            Modality="CT",
            SeriesInstanceUID="1",
            SOPInstanceUID=f"1.{n}",
            Rows=pixels.shape[0],
            Columns=pixels.shape[1],
            ImagePositionPatient=(origin + n * between).tolist(),
            ImageOrientationPatient=[*right / np.linalg.norm(right), *down / np.linalg.norm(down)],
            PixelSpacing=[np.linalg.norm(down), np.linalg.norm(right)],
            RescaleSlope="1",
            RescaleIntercept="-1024",
            pixel_array=(pixels + 1024).astype(np.uint16),
        )


def pydicom_of(turn, folder):
    files = {}
    folder.mkdir(parents=True, exist_ok=True)
    for n, header in enumerate(dicom_slices(turn)):
        path = folder / f"{(7 * n) % 5}"  # no suffix, another order
        path.touch()
        files[path.name] = header
    module = ModuleType("pydicom")
    module.dcmread = lambda path, stop_before_pixels=False: files[path.name]
    return module


class NiftiImage:
    """What nibabel.load returns: numbers are scaled when `dataobj` is read."""

    def __init__(self, dataobj, affine, header=None):
        self.dataobj, self.affine, self.shape = dataobj, np.asarray(affine, float), np.shape(dataobj)
        self.header = dict(header or {"sform_code": 1, "qform_code": 0})

    def set_data_dtype(self, dtype):
        self.header["dtype"] = dtype


class Scaled:
    """The numbers of a file with scl_slope and scl_inter."""

    def __init__(self, raw, slope, inter):
        self.raw, self.slope, self.inter, self.shape = raw, slope, inter, raw.shape

    def __array__(self, dtype=None, copy=None):
        return self.raw * self.slope + self.inter


def nibabel_of(turn):
    steps, origin = steps_and_origin(turn)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps.T, origin
    affine[:2] *= -1  # RAS
    module = ModuleType("nibabel")
    module.files = {
        "nifti/p1.nii.gz": NiftiImage(Scaled(stored(HU + 1000, turn), 0.999, -999.6), affine),  # rounds to HU or 1 more
        "nifti/p1_labels.nii.gz": NiftiImage(stored(LESION * np.float32(3), turn), affine),
    }
    module.load, module.Nifti1Image = module.files.__getitem__, NiftiImage
    module.save = lambda image, path: module.files.update({path: image})
    return module


class ItkImage:
    """An image of SimpleITK: its index is (x, y, z) where the array's is (z, y, x)."""

    def __init__(self, array):
        self.array = array

    def place(self, origin, spacing, direction):
        self.GetOrigin, self.GetSpacing, self.GetDirection = lambda: origin, lambda: spacing, lambda: direction
        return self

    def CopyInformation(self, other):  # noqa: N802, its name there
        assert self.array.shape == other.array.shape  # SimpleITK refuses others
        self.place(other.GetOrigin(), other.GetSpacing(), other.GetDirection())


def itk_of(turn):
    steps, origin = steps_and_origin(turn)  # along the axes of the array, so backwards for ITK
    spacing = np.linalg.norm(steps[::-1], axis=1)
    direction = (steps[::-1] / spacing[:, None]).T.ravel()  # row by row, a column for each of its axes
    module = ModuleType("SimpleITK")
    module.files = {"nrrd/p1.nrrd": ItkImage(stored(HU, turn)).place(tuple(origin), tuple(spacing), tuple(direction))}
    module.ReadImage, module.GetImageFromArray = module.files.__getitem__, ItkImage
    module.GetArrayFromImage = lambda image: image.array
    module.WriteImage = lambda image, path: module.files.update({path: image})
    return module


class Anything:
    """Answers every attribute and call; the last call of each name is kept."""

    def __init__(self):
        self.calls = {}

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        child = Anything()
        child.__dict__["keep"] = lambda given: self.calls.update({name: given})
        self.__dict__[name] = child
        return child

    def __call__(self, *_, **given):
        self.keep(given)
        return Anything()


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """reader(turn, axial) installs the stand-ins and returns (run, libraries); run(part of a block) runs that block."""
    monkeypatch.chdir(tmp_path)

    def start(turn, axial=AXIAL[0]):
        libraries = {
            "pydicom": pydicom_of(axial, tmp_path / "dicom/p1"),
            "pydicom.sr": ModuleType("pydicom.sr"),
            "pydicom.sr.codedict": ModuleType("pydicom.sr.codedict"),
            "nibabel": nibabel_of(turn),
            "SimpleITK": itk_of(turn),
            "highdicom": Anything(),
        }
        libraries["pydicom.sr.codedict"].codes = Anything()
        for name, library in libraries.items():
            monkeypatch.setitem(sys.modules, name, library)
        names = {}

        def run(part):
            (block,) = [b for b in BLOCKS if part in b]
            exec(compile(block, str(PAGE), "exec"), names)
            return names

        return run, libraries

    return start


def predict(pred=LESION):
    """What examples/predict.py leaves of a volume."""
    Path("predictions/volumes").mkdir(parents=True, exist_ok=True)
    np.savez_compressed("predictions/volumes/p1.npz", pred=pred, spacing_mm=np.array(SPACING))


# ---- the page ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(TURNS)))
def test_each_way_to_store_a_scan_is_read_as_the_same_volume_and_gets_its_map_back(reader, number):
    turn, axial = TURNS[number], AXIAL[number % len(AXIAL)]
    run, libraries = reader(turn, axial)
    predict()
    names = run(READ[0])
    assert np.array_equal(names["hu"], HU) and np.allclose(names["spacing_mm"], SPACING)
    names = run(READ[1])
    assert np.array_equal(names["hu"], np.rint((HU + 1000.0) * 0.999 - 999.6)) and names["hu"].dtype == np.int16
    assert np.array_equal(names["target"], LESION) and np.allclose(names["spacing_mm"], SPACING)
    names = run(READ[2])
    assert np.array_equal(names["hu"], HU) and np.allclose(names["affine"][:3, :3], BODY.T)

    run(WRITE[0])
    saved, source = (libraries["nibabel"].files[f] for f in ("p1_pred.nii.gz", "nifti/p1.nii.gz"))
    assert np.array_equal(saved.dataobj, stored(LESION, turn)) and saved.header["dtype"] == "uint8"
    assert np.array_equal(saved.affine, source.affine) and saved.header["sform_code"] == 1
    run(WRITE[1])
    saved, source = (libraries["SimpleITK"].files[f] for f in ("p1_pred.nrrd", "nrrd/p1.nrrd"))
    assert np.array_equal(saved.array, stored(LESION, turn)) and saved.GetDirection() == source.GetDirection()
    names = run(WRITE[2])
    given = libraries["highdicom"].seg.calls["Segmentation"]
    assert np.array_equal(given["pixel_array"], stored_in_order_of(given["source_images"], axial))
    assert given["pixel_array"].dtype == np.uint8


def stored_in_order_of(headers, axial):
    """The lesion in each slice, as it lies in the file of that slice."""
    return stored(LESION, axial)[[int(header.SOPInstanceUID.split(".")[1]) for header in headers]]


def test_what_was_read_becomes_a_sound_folder(reader):
    run, _ = reader(TURNS[5])
    for part in (*READ, "VolumeWriter("):
        run(part)
    assert check_volume_folder("own_scans") == []


@pytest.mark.parametrize("read", READ)
def test_each_way_to_read_needs_no_other(reader, read):
    run, _ = reader(TURNS[5])
    names = run(read)
    assert np.asarray(names["hu"]).ndim == 3 and np.allclose(names["spacing_mm"], SPACING)
    names.setdefault("target", LESION)  # only labels in NIfTI are shown
    run("VolumeWriter(")
    with np.load("own_scans/volumes/p1.npz") as saved:
        assert np.array_equal(saved["affine"], names["affine"])


@pytest.mark.parametrize(("write", "first"), [(WRITE[0], []), (WRITE[1], READ[2:]), (WRITE[2], [])])
def test_each_way_to_write_needs_only_what_it_says(reader, write, first):
    """Whoever has predicted starts Python anew."""
    run, _ = reader(TURNS[5], AXIAL[3])
    predict()
    for part in [*first, write]:
        run(part)


def test_each_class_has_a_segment(reader):
    (block,) = [block for block in BLOCKS if WRITE[2] in block]
    run, libraries = reader(TURNS[5])
    predict()
    names = {}
    exec(block.replace('["lesion"]', '["LR2", "LR3"]'), names)
    given = libraries["highdicom"].seg.calls["SegmentDescription"]
    assert (given["segment_number"], given["segment_label"], len(names["segments"])) == (2, "LR3", 2)


def test_no_block_of_the_page_is_left_out():
    parts = [*READ, "VolumeWriter(", *WRITE]
    assert [[part in block for part in parts] for block in BLOCKS] == np.eye(len(parts), dtype=bool).tolist()


# ---- what must not pass ------------------------------------------------------------------------------------------


def test_a_missing_slice_is_noticed(reader, tmp_path):
    run, _ = reader(TURNS[0])
    (tmp_path / "dicom/p1/1").unlink()
    with pytest.raises(ValueError, match="expected slices at equal distances"):
        run(READ[0])


def replace(libraries, **changes):
    vars(libraries["nibabel"].files["nifti/p1.nii.gz"]).update(changes)


def test_a_nifti_file_that_does_not_say_how_the_patient_lies_is_refused(reader):
    run, libraries = reader(TURNS[0])
    replace(libraries, header={"sform_code": 0, "qform_code": 0})
    with pytest.raises(ValueError, match="does not say how the patient lies"):
        run(READ[1])


def test_four_axes_oblique_axes_and_labels_elsewhere_are_refused(reader):
    run, libraries = reader(TURNS[0])
    affine = libraries["nibabel"].files["nifti/p1.nii.gz"].affine
    c, s = np.cos(0.1), np.sin(0.1)
    turned = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine
    for changes, match in (
        ({"dataobj": np.zeros((4, 5, 6, 2))}, "expected a volume with three axes"),
        ({"affine": turned}, "5.7 degrees off"),
        ({"affine": affine + np.diag([0, 0, 0.02, 0])}, "mm away from the scan"),
    ):
        run, libraries = reader(TURNS[0])
        replace(libraries, **changes)
        with pytest.raises(ValueError, match=match):
            run(READ[1])


def test_a_map_of_another_size_is_not_written(reader):
    run, libraries = reader(TURNS[0])
    predict(LESION[:, :-1])
    run(READ[0])
    run(READ[1])
    run(READ[2])
    for part in WRITE[:2]:
        with pytest.raises(ValueError, match="Was it cropped or resampled"):
            run(part)
    assert "p1_pred.nii.gz" not in libraries["nibabel"].files
