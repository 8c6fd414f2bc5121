"""The files of a folder, as systems and cameras leave them."""

import pytest

from lungseg.data.folder_files import find_member, members
from lungseg.data.manifest import (
    read_manifest,
)


def test_what_there_is_instead_of_pngs_is_counted(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg", "c.JPG", "d.tif", "Thumbs.db", ".DS_Store", "._a.png"):
        (tmp_path / "images" / name).touch()
    with pytest.raises(ValueError, match=r"lists no slice; only PNG .* there are 2 .jpg and 1 .JPG and 1 .tif"):
        read_manifest(tmp_path)
    (tmp_path / "images").rename(tmp_path / "volumes")
    for path in (tmp_path / "volumes").glob("*.jpg"):
        path.rename(path.with_suffix(".nii.gz"))
    with pytest.raises(ValueError, match="lists no volume; only .npz is read, and there are 2 .nii.gz"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("masks", "pattern"),
    [(("a_mask.png", "b.png", "c.txt"), "*.png"), (("a.tif",), "*.tif"), ((), "*.png"), (None, "*.png")],
)
def test_pictures_of_another_format_are_answered_with_the_command_that_converts_them(tmp_path, masks, pattern):
    for home, names in (("images", ("a.JPG", "b.JPG", "c.jpg")), ("masks", masks)):
        if names is not None:
            (tmp_path / home).mkdir()
            for name in names:
                (tmp_path / home / name).touch()
    with pytest.raises(ValueError) as error:
        read_manifest(tmp_path)
    command = f"Convert them: prepare_data.py {tmp_path} --images 'images/*.JPG' --masks 'masks/{pattern}' --out"
    assert command in str(error.value)


def test_files_that_are_no_pictures_are_answered_with_no_command(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.dcm").touch()
    with pytest.raises(ValueError, match="there are 1 .dcm. Convert them[.]$"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(("home", "suffix"), [("images", "PNG"), ("images", "Png"), ("volumes", "NPZ")])
def test_suffixes_in_capitals_and_what_systems_leave(tmp_path, home, suffix):
    (tmp_path / home / "__MACOSX").mkdir(parents=True)
    junk = f"._a.{suffix}", f".b.{suffix.lower()}", ".DS_Store", "Thumbs.db"
    for name in (f"a.{suffix}", f"b.{suffix.lower()}", *junk):
        (tmp_path / home / name).touch()
    with pytest.warns(UserWarning, match="belong to one patient"):
        assert [r.id for r in read_manifest(tmp_path)] == ["a", "b"]
    assert find_member(tmp_path / home, "a").name == f"a.{suffix}" and len(members(tmp_path / home)) == 2
    assert find_member(tmp_path / home, "c").name == f"c.{suffix.lower()}"  # it is not there


def test_without_a_manifest_the_files_and_folders_are_the_volumes(tmp_path):
    (tmp_path / "volumes/1.2.840").mkdir(parents=True)
    for name in ("a.npz", "b.npz", ".c.npz.partial-7", ".d.npz", "notes.txt"):
        (tmp_path / f"volumes/{name}").touch()
    with pytest.warns(UserWarning, match="which volumes belong to one patient"):
        assert [r.id for r in read_manifest(tmp_path)] == ["1.2.840", "a", "b"]
