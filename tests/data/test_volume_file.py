"""One volume, one file: mapped is the same as loaded, only what is looked at is read, and damage is a sentence."""

import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from volume_files import member, npy_bytes, save_folder

from lungseg.data.volume_file import Volume, check_volume, read_volume, write_volume

SIDES = st.tuples(*[st.integers(1, 5)] * 3)
SPACING = (1.5, 0.7, 0.8)


def scan(shape=(3, 4, 5), seed=0, dtype=np.int16):
    rng = np.random.default_rng(seed)
    return rng.integers(-1000, 1000, shape).astype(dtype), rng.integers(0, 2, shape, dtype=np.uint8)


# ---- what is read is what was saved ------------------------------------------------------------------------------


@given(
    shape=SIDES,
    dtype=st.sampled_from(["<i2", ">i2", "i4", "f4", "f8"]),
    order=st.sampled_from("CF"),
    form=st.sampled_from(["stored", "compressed", "folder"]),
    others=st.lists(st.text("abc_", min_size=1, max_size=40), max_size=2, unique=True),
    before=st.binary(max_size=5),
    seed=st.integers(0, 9),
)
def test_each_form_of_file_gives_the_arrays_that_were_saved(
    tmp_path_factory, shape, dtype, order, form, others, before, seed
):
    path = tmp_path_factory.mktemp("v") / ("scan" if form == "folder" else "scan.npz")
    hu, target = scan(shape, seed, dtype)
    arrays = {name: np.arange(3) for name in others} | {"hu": np.asarray(hu, order=order), "target": target > 0}
    save = {"stored": np.savez, "compressed": np.savez_compressed, "folder": save_folder}[form]
    save(path, **arrays, spacing_mm=np.array(SPACING))
    if form == "stored":
        path.write_bytes(before + path.read_bytes())  # a zip archive may have anything in front
    volume = read_volume(path)
    assert np.array_equal(volume.hu, hu) and volume.hu.dtype == dtype and volume.spacing_mm == SPACING
    assert np.array_equal(volume.target, target)
    assert isinstance(volume.hu, np.memmap) == isinstance(volume.target, np.memmap) == (form != "compressed")
    assert not volume.hu.flags.writeable  # nobody changes a file by accident


@given(shape=SIDES, dtype=st.sampled_from(["i2", "i4", "f4"]), with_target=st.booleans(), seed=st.integers(0, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_what_is_read_by_us_and_by_numpy(tmp_path, shape, dtype, with_target, seed):
    hu, target = scan(shape, seed, dtype)
    write_volume(tmp_path / "scan.npz", hu, target.astype(float) if with_target else None, SPACING)
    volume, loaded = read_volume(tmp_path / "scan.npz"), np.load(tmp_path / "scan.npz")
    assert isinstance(volume.hu, np.memmap)
    for array in (volume.hu, loaded["hu"]):
        assert np.array_equal(array, hu) and array.dtype == dtype
    if with_target:
        assert np.array_equal(volume.target, target) and volume.target.dtype == loaded["target"].dtype == np.uint8
    else:
        assert volume.target is None and "target" not in loaded
    assert volume.spacing_mm == tuple(loaded["spacing_mm"]) == SPACING
    assert os.listdir(tmp_path) == ["scan.npz"]


@pytest.mark.parametrize("name", ["scan.npy", "SCAN.NPY"])
def test_a_lone_array_is_hu_of_unknown_spacing(tmp_path, name):
    with open(tmp_path / name, "wb") as file:
        np.save(file, scan()[0])
    volume = read_volume(str(tmp_path / name))
    assert np.array_equal(volume.hu, scan()[0]) and isinstance(volume.hu, np.memmap)
    assert volume.target is None and np.isnan(volume.spacing_mm).tolist() == [True] * 3


@pytest.mark.parametrize(
    ("saved", "read"), [(0.7, (0.7,) * 3), ([0.7], (0.7,) * 3), ([3, 1, 1], (3.0, 1.0, 1.0)), (np.nan, (np.nan,) * 3)]
)
def test_one_spacing_is_that_of_all_axes(tmp_path, saved, read):
    np.savez(tmp_path / "scan.npz", hu=scan()[0], spacing_mm=saved)
    assert repr(read_volume(tmp_path / "scan.npz").spacing_mm) == repr(read)  # repr, because nan != nan


def test_a_suffix_may_be_written_in_capitals(tmp_path):
    with open(tmp_path / "SCAN.NPZ", "wb") as file:
        np.savez(file, hu=scan()[0])
    assert np.array_equal(read_volume(tmp_path / "SCAN.NPZ").hu, scan()[0])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed, save_folder])
def test_names_of_arrays_may_be_written_in_capitals(tmp_path, save):
    save(tmp_path / "scan.npz", **{"HU": HU, "Target": TARGET, "Spacing_MM": SPACING})
    volume = read_volume(tmp_path / "scan.npz")
    assert np.array_equal(volume.hu, HU) and np.array_equal(volume.target, TARGET) and volume.spacing_mm == SPACING


@pytest.mark.parametrize("save", [np.savez, save_folder])
@pytest.mark.parametrize("name", ["spacing", "spacing mm", "targets"])
def test_an_array_whose_name_is_nearly_ours_is_not_lost_in_silence(tmp_path, save, name):
    save(tmp_path / "scan.npz", **{"hu": HU, name: TARGET})
    with pytest.raises(ValueError, match=f"scan.npz: there is no .*, but there is '{name}'. If that .* call it"):
        read_volume(tmp_path / "scan.npz")


# ---- only what is looked at is read ------------------------------------------------------------------------------


def test_who_has_a_volume_mapped_keeps_it_when_another_takes_its_name(tmp_path):
    path, (hu, target) = tmp_path / "scan.npz", scan()
    write_volume(path, hu, target, 1.0)
    old = read_volume(path)
    write_volume(path, hu[:1] + 1, None, 1.0)
    assert np.array_equal(old.hu, hu) and np.array_equal(read_volume(path).hu, hu[:1] + 1)


# ---- what cannot be read -----------------------------------------------------------------------------------------


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


HU, TARGET = scan()
BAD_FILES = {
    "no hu": (npz(a=HU), "holds no array hu. Save the Hounsfield units"),
    "one slice": (npz(hu=HU[0]), r"expected hu \(D, H, W\), .* got shape \(4, 5\)"),
    "four axes": (npz(hu=HU[None]), r"expected hu .* got shape \(1, 3, 4, 5\)"),
    "no voxels": (npz(hu=HU[:0]), r"hu is empty: its shape is \(0, 4, 5\)"),
    "other target": (npz(hu=HU, target=TARGET[1:]), r"target has shape \(2, 4, 5\) but hu has \(3, 4, 5\)"),
    "objects": (
        npz(hu=np.array([[[None]]])),
        r'hu: expected plain numbers, got object. Save it with .astype."int16".',
    ),
    "complex": (npz(hu=HU + 1j), "hu: expected plain numbers, got complex128\\. Save"),
    "text": (npz(hu=HU.astype(str)), "hu: expected plain numbers, got <U6\\. Save"),
    "fields": (npz(hu=np.zeros((2, 2, 2), "i2,f4")), "hu: expected plain numbers, got .*\\. Save"),
    "no spacing": (
        npz(hu=HU, spacing_mm=[0, 1, 1]),
        "expected spacing_mm with three positive numbers, .* got .0. 1. 1.",
    ),
    "negative spacing": (
        npz(hu=HU, spacing_mm=-0.7),
        "expected spacing_mm with three positive numbers, .* got .-0.7.[.]",
    ),
    "endless spacing": (npz(hu=HU, spacing_mm=np.inf), "expected spacing_mm with three positive .* got .inf.[.]"),
    "two spacings": (npz(hu=HU, spacing_mm=[1, 1]), "expected spacing_mm with three positive .* got .1. 1.."),
    "much spacing": (npz(hu=HU, spacing_mm=HU), "expected spacing_mm with three positive .* got .*[.][.][.]"),
    "no array": (member("hu.npy", b"hello"), "hu does not begin as .npy data do"),
    "version 3": (member("hu.npy", npy_bytes(HU, (3, 0))), "hu does not begin as .npy data do"),
    "cut inside": (member("hu.npy", npy_bytes(HU, cut=1)), r"hu is cut short: its header promises \(3, 4, 5\) numbers"),
    "cut inside, compressed": (member("hu.npy", npy_bytes(HU, cut=1), zipfile.ZIP_DEFLATED), "hu is cut short"),
    "not a zip": (lambda path: path.write_bytes(b"hello"), "is damaged or cut short"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged or cut short"),
    "missing": (lambda path: None, "is missing. Give an .npz file"),
    "empty folder": (lambda path: path.mkdir(), "holds no array hu"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_sentence_with_its_name(tmp_path, name):
    make, message = BAD_FILES[name]
    make(tmp_path / "scan.npz")
    with pytest.raises(ValueError, match=message) as caught:
        read_volume(tmp_path / "scan.npz")
    assert str(caught.value).startswith(str(tmp_path / "scan.npz"))
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_too_little_memory_is_a_sentence(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "scan.npz", hu=HU, target=TARGET)

    def no_memory(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", no_memory)
        with pytest.raises(ValueError, match="scan.npz needs more memory than there is. Save it with np.savez"):
            read_volume(tmp_path / "scan.npz")
    monkeypatch.setattr("lungseg.data.volume_file.odd_hu", no_memory)
    with pytest.raises(ValueError, match="scan.npz needs more memory than there is"):
        check_volume(tmp_path / "scan.npz")


def test_a_volume_larger_than_the_memory_allowed_is_checked(tmp_path):
    hu = np.full((64, 128, 128), -700, np.int16)  # 2 MiB
    hu[9, 9, 9], target = 40, (hu > 0).astype(np.uint8)
    write_volume(tmp_path / "scan.npz", hu, target, 1.0)
    del hu, target
    tracemalloc.start()
    try:
        check_volume(tmp_path / "scan.npz")
        assert tracemalloc.get_traced_memory()[1] < 2**20 + 2**19  # of which 1 MiB is a buffer for checksums
    finally:
        tracemalloc.stop()


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "scan.nii.gz").touch()
    with pytest.raises(ValueError, match=r"scan.nii.gz: expected an .npz file, an .npy file or a folder"):
        read_volume(tmp_path / "scan.nii.gz")
    with pytest.raises(ValueError, match=r"none.nii.gz is missing"):
        read_volume(tmp_path / "none.nii.gz")


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["hu", "target", "spacing_mm"])
def test_nothing_in_a_file_is_executed(tmp_path, save, name):
    trap = np.array([Trap(tmp_path / "caught")], dtype=object)
    save(tmp_path / "scan.npz", **{"hu": HU, name: trap})
    with pytest.raises(ValueError, match=f"{name}: expected plain numbers, got object"):
        read_volume(tmp_path / "scan.npz")
    np.load(tmp_path / "scan.npz", allow_pickle=True)[name]  # the trap does work
    assert (tmp_path / "caught").is_dir()


@pytest.fixture(scope="module")
def good_files():
    stored, compressed = io.BytesIO(), io.BytesIO()
    np.savez(stored, hu=HU, target=TARGET, spacing_mm=SPACING)
    np.savez_compressed(compressed, hu=HU, target=TARGET, spacing_mm=SPACING)
    return {"stored.npz": stored.getvalue(), "compressed.npz": compressed.getvalue(), "lone.npy": npy_bytes(HU)}


@given(
    name=st.sampled_from(["stored.npz", "compressed.npz", "lone.npy"]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_refused_or_read_and_nothing_worse(good_files, tmp_path, name, changes, kept):
    data = bytearray(good_files[name])
    for place, byte in changes:
        data[int(place * (len(data) - 1))] = byte
    (tmp_path / name).write_bytes(data[: int(kept * len(data))])
    try:
        volume = read_volume(tmp_path / name)
    except ValueError as error:
        assert name in str(error) and "\n" not in str(error)
        return
    assert isinstance(volume, Volume)
    for array in filter(lambda a: a is not None, (volume.hu, volume.target)):
        bytes(np.asarray(array))  # a map beyond the end of its file would kill the process here


def test_damage_in_what_we_do_not_read_is_damage_too(tmp_path):
    path = tmp_path / "scan.npz"
    np.savez_compressed(path, hu=HU, target=TARGET, notes=np.arange(1000))
    check_volume(path)
    data = bytearray(path.read_bytes())
    start = data.index(b"notes.npy") + 60
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)
    assert np.array_equal(read_volume(path).hu, HU)
    with pytest.raises(ValueError, match="scan.npz is damaged .the checksum of .* is wrong"):
        check_volume(path)


# ---- writing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hu": HU[0]}, "expected hu .* got shape"),
        ({"hu": HU + 1j}, "write_volume: got .* HU of complex128"),
        ({"hu": np.where(HU > 0, np.nan, HU)}, "hu holds NaN or infinite values. Fill them"),
        ({"target": TARGET[1:]}, r"target has shape \(2, 4, 5\) but hu has"),
        ({"target": TARGET * 255}, "expected target with values 0 and 1, got 0, 255"),
        ({"target": np.arange(60).reshape(3, 4, 5)}, "expected target with values 0 and 1, got 0, 1, 2, 3, 4, ..."),
        ({"spacing_mm": (1, 0, 1)}, "expected spacing_mm with"),
        ({"path": "scan.npy"}, "write_volume: got .*scan.npy"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, changed, message):
    arguments = {"path": "scan.npz", "hu": HU, "target": TARGET, "spacing_mm": 1.0} | changed
    with pytest.raises(ValueError, match=message):
        write_volume(tmp_path / arguments.pop("path"), **arguments)
    assert os.listdir(tmp_path) == []


def test_an_interrupted_writer_leaves_what_was_there(tmp_path, monkeypatch):
    write_volume(tmp_path / "scan.npz", HU, TARGET, 1.0)
    before = (tmp_path / "scan.npz").read_bytes()

    def interrupted(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_volume(tmp_path / "scan.npz", HU + 1, TARGET, 1.0)
    assert os.listdir(tmp_path) == ["scan.npz"] and (tmp_path / "scan.npz").read_bytes() == before


def test_the_same_volume_is_the_same_bytes(tmp_path):
    for name in "ab":
        write_volume(tmp_path / f"{name}.npz", HU, TARGET, 1.0)
    assert len({p.read_bytes() for p in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        ({"affine": np.zeros((5, 5))}, r"affine holds float64 of shape \(5, 5\), expected at most 16 numbers"),
        ({"origin_mm": np.array(["left", "back", "head"])}, "origin_mm holds <U4 of shape"),
    ],
)
def test_what_cannot_be_a_geometry_is_refused(geometry, words, tmp_path):
    hu = np.full((2, 3, 4), -1000, np.int16)
    with pytest.raises(ValueError, match=words):
        write_volume(tmp_path / "a.npz", hu, None, 1.0, **geometry)
    np.savez(tmp_path / "b.npz", hu=hu, **geometry)
    with pytest.raises(ValueError, match="affine holds|origin_mm: expected plain numbers"):
        read_volume(tmp_path / "b.npz")
    with pytest.raises(ValueError, match="expected geometry among affine, origin_mm.* got affin[.]"):
        write_volume(tmp_path / "a.npz", hu, None, 1.0, affin=np.eye(4))
    assert not (tmp_path / "a.npz").exists()
