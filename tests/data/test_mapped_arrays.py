"""Arrays are read where they are used and no further, whatever a file claims about itself."""

import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from volume_files import member, npy_bytes, save_folder

from lungseg.data.volume_file import read_volume


def peak_of_reading_one_voxel(path):
    tracemalloc.start()
    try:
        assert read_volume(path).hu[7, 100, 100] == 7
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_reading_a_voxel_takes_no_memory_unless_the_file_is_compressed(tmp_path):
    hu = np.zeros((16, 256, 256), np.int16)  # 2 MiB
    hu[7] = 7
    np.savez(tmp_path / "stored.npz", hu=hu)
    np.savez_compressed(tmp_path / "compressed.npz", hu=hu)
    save_folder(tmp_path / "folder", hu=hu)
    assert peak_of_reading_one_voxel(tmp_path / "stored.npz") < 2**17
    assert peak_of_reading_one_voxel(tmp_path / "folder") < 2**17
    assert peak_of_reading_one_voxel(tmp_path / "compressed.npz") > 2**21


def test_a_file_larger_than_any_memory_opens_at_once(tmp_path):
    (tmp_path / "huge").mkdir()
    shape = (2**16, 2**12, 2**12)  # 2 TiB of HU, all of it a hole in the file
    for name, dtype in (("hu", np.int16), ("target", np.uint8)):
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        with open(tmp_path / f"huge/{name}.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            try:
                file.truncate(file.tell() + np.dtype(dtype).itemsize * 2**40)
            except OSError:
                pytest.skip("this file system has no files with holes of that size")
    volume = read_volume(tmp_path / "huge")
    assert volume.hu.shape == shape and volume.hu[-1, -1, -8:].tolist() == [0] * 8
    assert not volume.target[2**15, 7:9, :5].any()


def bomb(path, claimed=None):
    """An .npz of some hundred kB whose compressed member unpacks to 64 MiB, behind a header of 4 x 20 x 20."""
    data = npy_bytes(np.zeros((4, 20, 20), np.int16)) + bytes(2**26)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hu.npy", data)
    if claimed is not None:  # the size that the archive says of it, in its table and before the member
        raw = path.read_bytes()
        path.write_bytes(raw.replace(len(data).to_bytes(4, "little"), claimed.to_bytes(4, "little")))


@pytest.mark.parametrize("claimed", [None, 1000, 2**31])
def test_no_more_is_unpacked_than_the_header_says(tmp_path, claimed):
    bomb(tmp_path / "scan.npz", claimed)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="scan.npz.*(hu is longer than its header|hu is cut short|is damaged)"):
            read_volume(tmp_path / "scan.npz")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_no_memory_is_set_aside_that_a_compressed_member_cannot_fill(tmp_path):
    """Header and archive agree on 512 MiB, for 65 kB of compressed bytes at most."""
    data = npy_bytes(np.zeros((1, 1, 1), np.int16)).replace(b"(1, 1, 1), }    ", b"(256,1024,1024)}")
    data = data[:-2] + np.random.default_rng(0).bytes(60000)
    member("hu.npy", data, zipfile.ZIP_DEFLATED)(tmp_path / "scan.npz")
    raw = (tmp_path / "scan.npz").read_bytes()
    claimed = len(data) - 60000 + 2**29
    (tmp_path / "scan.npz").write_bytes(raw.replace(len(data).to_bytes(4, "little"), claimed.to_bytes(4, "little")))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"scan.npz: hu is cut short: its header promises \(256, 1024, 1024\)"):
            read_volume(tmp_path / "scan.npz")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["scan.npy", "scan.npz"])
def test_a_header_of_gigabytes_is_not_read(tmp_path, name):
    head = b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b"{" + b" " * 100
    if name == "scan.npz":
        member("hu.npy", head, zipfile.ZIP_DEFLATED)(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(head)
        os.truncate(tmp_path / name, 2**33)  # a hole
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"{name}: hu does not begin as .npy data do"):
            read_volume(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_an_archive_of_very_many_members_is_refused_before_they_are_listed(tmp_path):
    with zipfile.ZipFile(tmp_path / "scan.npz", "w") as archive:
        for i in range(12000):
            archive.writestr(f"{i:060d}", b"")
    with pytest.raises(ValueError, match="scan.npz: its table of members is larger than 1 MiB, too large for a volume"):
        read_volume(tmp_path / "scan.npz")


@pytest.mark.parametrize("name", ["scan.npz", "scan.npy", "scan/hu.npy"])
def test_a_pipe_is_not_opened(tmp_path, name):
    (tmp_path / "scan").mkdir()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="scan.* cannot be read .it is a pipe"):
        read_volume(tmp_path / name.removesuffix("/hu.npy"))
