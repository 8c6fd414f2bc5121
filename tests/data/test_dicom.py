"""A folder of DICOM files becomes one CT volume in HU, whatever else lies in it; or a sentence.

The files are objects made here, with the attributes that a DICOM library would read from a file.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from lungseg.data.dicom import read_series, to_hu, why_not_a_slice
from lungseg.data.geometry import orient, resample_upright, voxel_spacing

SUPINE, PRONE = (1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0)
ORIENTATIONS = {
    "supine, head first": SUPINE,
    "prone": PRONE,
    "feet first": (-1, 0, 0, 0, 1, 0),
    "feet first, prone": (1, 0, 0, 0, -1, 0),
    "on the left side": (0, -1, 0, 1, 0, 0),
    "on the right side": (0, 1, 0, -1, 0, 0),
}
SHAPE, SPACING, FIRST = (5, 4, 6), (2.5, 0.7, 0.8), (-100.0, 50.0, -300.0)


def patient_hu(places):
    """(..., 3) mm -> HU, another one at each place: the scanned patient."""
    x, y, z = np.moveaxis(places - np.array(FIRST), -1, 0)
    return np.rint(-500 + 41 * z + 7.3 * y + 1.9 * x)


def slices(orientation=SUPINE, shape=SHAPE, spacing=SPACING, first=FIRST, step=None, series="1", **attributes):
    """Headers with pixels, as the standard lays them out (PS3.3, C.7.6.2.1.1), from the feet to the head."""
    along_row, along_column = np.reshape(np.asarray(orientation, float), (2, 3))
    step = np.array([0, 0, spacing[0]]) if step is None else np.asarray(step)
    rows, columns = np.indices(shape[1:])[..., None]
    made = []
    for d in range(shape[0]):
        corner = np.array(first) + d * step
        places = corner + rows * spacing[1] * along_column + columns * spacing[2] * along_row  # (H, W, 3)
        header = SimpleNamespace(
            Modality="CT",
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            SeriesInstanceUID=series,
            SOPInstanceUID=f"{series}.{d}",
            SeriesNumber=int(series),
            SeriesDescription="Lung",
            InstanceNumber=shape[0] - d,
            Rows=shape[1],
            Columns=shape[2],
            SamplesPerPixel=1,
            PhotometricInterpretation="MONOCHROME2",
            ImageOrientationPatient=list(orientation),
            ImagePositionPatient=list(corner),
            PixelSpacing=list(spacing[1:]),
            RescaleSlope=1,
            RescaleIntercept=-1024,
            pixel_array=(patient_hu(places) + 1024).astype(np.uint16),
        )
        vars(header).update(attributes)
        made.append(header)
    return made


@pytest.fixture
def folder(tmp_path):
    """folder(headers) writes files with names of no order and no suffix, and returns read_series of them."""

    def read(headers, **options):
        files = {}
        for n, header in enumerate(headers):
            path = tmp_path / "deep" / f"{'IM' if n % 2 else ''}{n * 7919 % 1009:04d}"
            path.parent.mkdir(exist_ok=True)
            path.touch()
            files[path] = header

        def dcmread(path, stop_before_pixels=False):
            if isinstance(files[path], Exception):
                raise files[path]
            hidden = {"pixel_array"} if stop_before_pixels else set()
            return SimpleNamespace(**{k: v for k, v in vars(files[path]).items() if k not in hidden})

        return read_series(tmp_path, dcmread, **options)

    return read


def without(headers, *names):
    for header in headers:
        for name in names:
            delattr(header, name)
    return headers


def changed(headers, **attributes):
    for header in headers:
        vars(header).update(attributes)
    return headers


def voxel_positions(shape, affine):
    index = np.stack([*np.indices(shape).reshape(3, -1), np.ones(np.prod(shape))])
    return (affine @ index)[:3].T.reshape(*shape, 3)


def assert_shows_the_patient(hu, affine):
    assert np.array_equal(hu, patient_hu(voxel_positions(hu.shape, affine)))


# ---- one scan, however it lies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
def test_each_position_of_the_patient_gives_the_same_axes(folder, orientation):
    series = folder(slices(orientation))
    assert series.hu.dtype == np.int16 and series.hu.shape == SHAPE
    assert_shows_the_patient(series.hu, series.affine)
    hu, affine = orient(series.hu, series.affine)
    assert_shows_the_patient(hu, affine)
    z, y, x = affine[:3, :3].T
    assert z[2] == pytest.approx(2.5) and y[1] > 0 and x[0] > 0  # to the head, to the back, to the left
    expected = SPACING if orientation[0] else (SPACING[0], SPACING[2], SPACING[1])  # on its side, rows run downwards
    assert voxel_spacing(affine) == pytest.approx(expected)


@given(seed=st.integers(0, 2**32 - 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_slices_are_sorted_by_position_whatever_order_the_files_have(folder, seed):
    made = changed(slices(), InstanceNumber=7, SliceLocation=0.0)
    series = folder([made[n] for n in np.random.default_rng(seed).permutation(len(made))])
    assert_shows_the_patient(series.hu, series.affine)
    assert [s.SOPInstanceUID for s in series.slices] == ([m.SOPInstanceUID for m in made])


def test_a_tilted_gantry_is_refused_by_orient_and_straightened_by_resampling(folder):
    c, s = np.cos(np.radians(12)), np.sin(np.radians(12))
    series = folder(slices((1, 0, 0, 0, c, -s)))
    assert_shows_the_patient(series.hu, np.array(series.affine))
    with pytest.raises(ValueError, match="12.0 degrees off .* tilted gantry"):
        orient(series.hu, series.affine)
    hu, affine = resample_upright(series.hu.astype(float), series.affine, fill=np.nan)
    known = np.isfinite(hu)
    difference = np.abs(hu - patient_hu(voxel_positions(hu.shape, affine)))
    assert known.any() and difference[known].max() <= 1.01  # rounded twice


# ---- what else is in the folder ----------------------------------------------------------------------------------


OTHER = {"shape": (4, 4, 6), "SOPInstanceUID": None}  # fewer slices, and no copies
SCOUT = dict(orientation=(0, 1, 0, 0, 0, -1), shape=(2, 4, 6), step=(1, 0, 0), series="9")
OTHERS = {
    "not a DICOM file": ([ValueError("no preamble")] * 9, "not a readable DICOM file: 9"),
    "a report": (without(slices(series="9", shape=(9, 4, 6)), "Rows", "Columns", "pixel_array"), "no image"),
    "a DICOMDIR": ([SimpleNamespace(MediaStorageSOPClassUID="1.2.840.10008.1.3.10")], "no image"),
    "a PET scan": (slices(series="9", shape=(9, 4, 6), Modality="PT"), "modality PT, not CT: 9"),
    "no modality": (without(slices(series="9", shape=(9, 4, 6)), "Modality"), "modality None"),
    "a scout": (slices(**SCOUT, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a scout (localizer): 2"),
    "a scout of the series itself": (slices(**{**SCOUT, "series": "1"}), "not an axial slice"),
    "an axial scout": (slices(series="9", ImageType=["ORIGINAL", "PRIMARY", "localizer"]), "a scout (localizer): 5"),
    "a reformatted view": (slices((1, 0, 0, 0, 0, -1), (9, 4, 6), step=(0, 1, 0), series="9"), "not an axial slice"),
    "a screenshot": (without(slices(series="9", shape=(9, 4, 6)), "ImagePositionPatient"), "no position"),
    "an empty position": (slices(series="9", shape=(9, 4, 6), ImagePositionPatient=None), "no position"),
    "an empty orientation": (slices(series="9", shape=(9, 4, 6), ImageOrientationPatient=[]), "no position"),
    "no spacing": (without(slices(series="9", shape=(9, 4, 6)), "PixelSpacing"), "no position"),
    "an orientation of zeros": (slices(series="9", ImageOrientationPatient=[0] * 6), "an invalid orientation"),
    "a dose report in colour": (slices(series="9", shape=(9, 4, 6), SamplesPerPixel=3), "a colour image"),
    "several frames": (slices(series="9", NumberOfFrames=400), "several frames in one file"),
    "a spectral map": (slices(series="9", shape=(9, 4, 6), RescaleType="Z_EFF"), "values in Z_EFF, not HU"),
    "a shorter series": (slices(series="9", shape=(4, 4, 6)), "Not used: 4 slices of series 9 (Lung)"),
    "one of another size": (slices(**{**OTHER, "shape": (4, 8, 8)}), "of series 1 (Lung), which differ in size"),
    "one of another spacing": (slices(spacing=(2.5, 0.5, 0.5), **OTHER), "Not used: 4 slices"),
    "a prone scan in the same series": (slices(PRONE, **OTHER), "Not used: 4 slices"),
    "copies of a shorter series": (slices(shape=(4, 4, 6), series="9") * 2, "copies of other files: 4"),
    "copies of files": (slices()[1:4], "copies of other files: 3"),
}


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(("others", "note"), OTHERS.values(), ids=OTHERS.keys())
def test_other_files_change_nothing_and_are_reported(folder, others, note, first):
    made = slices()
    series = folder([*others, *made] if first else [*made, *others])
    assert_shows_the_patient(series.hu, series.affine)
    assert series.hu.shape == SHAPE and len(series.slices) == len(made)
    assert "series 1 (Lung): 5 slices." in series.notes[0]
    assert any(note in n for n in series.notes), series.notes


def test_a_folder_without_slices_says_what_is_in_it(folder):
    with pytest.raises(ValueError, match="holds no CT slices. It contains no files"):
        folder([])
    with pytest.raises(ValueError, match="holds no CT slices. Skipped, several frames .*: 1."):
        folder(slices(shape=(1, 4, 6), NumberOfFrames=400))


def test_of_two_series_of_one_length_the_caller_chooses(folder):
    both = slices(ConvolutionKernel="B60f") + slices(series="2", ConvolutionKernel="B30f", first=(0, 0, 0))
    with pytest.raises(ValueError, match=r": several series have 5 slices: series 1 \(Lung, B60f\); series 2 .* keep="):
        folder(both)
    series = folder(both, keep=lambda header: header.SeriesNumber == 2)
    assert series.affine[:3, 3].tolist() == [0, 0, 0]
    assert "excluded by keep: 5" in series.notes[-1]


# ---- gaps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
def test_gaps_are_refused_and_named(folder, orientation):
    made = slices(orientation, shape=(9, 4, 6))
    with pytest.raises(ValueError, match=r"series 1 \(Lung\): expected slices at equal distances.*5.00 mm between"):
        folder(made[:4] + made[5:])


def test_two_acquisitions_in_one_series_are_refused_until_one_is_chosen(folder):
    one = slices(AcquisitionNumber=1)
    two = changed(slices(AcquisitionNumber=2), SOPInstanceUID=None)
    for n, header in enumerate(two):
        header.SOPInstanceUID = f"other.{n}"
    with pytest.raises(ValueError, match="are at the same position"):
        folder(one + two)
    assert folder(one + two, keep=lambda h: h.AcquisitionNumber == 2).slices[0].SOPInstanceUID == "other.0"


def test_files_without_a_uid_are_all_taken(folder):
    assert folder(changed(slices(), SOPInstanceUID="")).hu.shape == SHAPE
    assert folder(without(slices(), "SOPInstanceUID")).hu.shape == SHAPE


def test_one_slice_is_no_volume(folder):
    with pytest.raises(ValueError, match="expected a volume, got a single slice"):
        folder(slices(shape=(1, 4, 6)))


# ---- HU ----------------------------------------------------------------------------------------------------------


def hu(raw, dtype=np.int16, **attributes):
    raw = np.array([raw], dtype)
    return to_hu(raw, SimpleNamespace(**{"Rows": 1, "Columns": raw.size, "RescaleSlope": 1, **attributes})).tolist()[0]


def test_hu_are_rounded_and_clipped():
    assert hu([0, 1, 2, 3], RescaleSlope="0.3", RescaleIntercept="-1000") == [-1000, -1000, -999, -999]
    assert hu([-1024, 0, 30000], RescaleSlope=2.0, RescaleIntercept=-0.6) == [-1024, -1, 32767]


@pytest.mark.parametrize("slope", [0.5, 1, 1.7])
def test_each_slice_has_its_own_slope(folder, slope):
    made = slices()
    for n, header in enumerate(made):
        factor = slope + n / 10
        header.pixel_array = np.rint((header.pixel_array - 1024.0) / factor + 500).astype(np.int16)
        header.RescaleSlope, header.RescaleIntercept = str(factor), str(-500 * factor)
    series = folder(made)
    difference = np.abs(series.hu - patient_hu(voxel_positions(SHAPE, series.affine)))
    assert difference.max() <= 1.8 * 0.5 + 1  # of a rounded raw


@pytest.mark.parametrize("names", [["RescaleSlope"], ["RescaleIntercept"], ["RescaleSlope", "RescaleIntercept"]])
def test_without_rescale_nothing_is_guessed(folder, names):
    made = slices()
    without(made[2:3], *names)
    with pytest.raises(ValueError, match="RescaleSlope or RescaleIntercept is missing"):
        folder(made)
    assert folder(changed(made, RescaleSlope=1, RescaleIntercept=-1024)).hu.shape == SHAPE


def test_padding_becomes_air():
    inside = [0, 1000, 1100]  # of 12 bits
    assert hu([-2000, *inside], PixelPaddingValue=-2000, RescaleIntercept=-1024) == [-1000, -1024, -24, 76]
    assert hu([-2000, *inside], PixelPaddingValue=63536, RescaleIntercept=-1024)[0] == -1000  # the same 16 bits
    assert hu([-2000, *inside], RescaleIntercept=-1024)[0] == -1024  # not declared: no HU is below that
    assert hu([32767, *inside], PixelPaddingValue=32767, RescaleIntercept=0)[0] == -1000  # would be white
    assert hu([65535, *inside], np.uint16, PixelPaddingValue=-1, RescaleIntercept=-1024)[0] == -1000
    limits = {"PixelPaddingValue": -3000, "PixelPaddingRangeLimit": -2000}
    assert hu([-3000, -2500, -2000, 40], **limits, RescaleIntercept=0) == [-1000, -1000, -1000, 40]


def test_a_padding_value_that_is_tissue_is_not_believed():
    assert hu([0, 40], PixelPaddingValue=0, RescaleIntercept=0) == [0, 40]


def test_monochrome1_changes_no_hu(folder):
    series = folder(changed(slices(), PhotometricInterpretation="MONOCHROME1"))
    assert_shows_the_patient(series.hu, series.affine)


def test_pixels_that_cannot_be_read_are_a_sentence(folder):
    made = without(slices(), "pixel_array")
    with pytest.raises(ValueError, match="the pixels cannot be read"):
        folder(made)
    made = changed(slices(), pixel_array=np.zeros((3, 4, 6), np.uint16))
    with pytest.raises(ValueError, match="expected 4 x 6 pixels, got shape"):
        folder(made)


def test_a_slice_is_a_slice():
    assert why_not_a_slice(slices()[0]) == ""
    for attributes in ({"RescaleType": "US"}, {"RescaleType": "HU"}, {"NumberOfFrames": 1}, {"ImageType": None}):
        assert why_not_a_slice(changed(slices(), **attributes)[0]) == ""
