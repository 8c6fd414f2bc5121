"""Phantoms as folders: split by patient, the same every time, and nothing is left of half a folder."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest

from lungseg.data.manifest import describe_folder, read_manifest
from lungseg.data.phantoms import folders
from lungseg.data.phantoms.folders import draw_volume, write_phantom_folder, write_phantom_volumes
from lungseg.data.slices import check_folder, read_slice
from lungseg.data.volume_file import read_volume
from lungseg.data.volumes import VolumeDataset, check_volume_folder


def test_slices_are_split_by_patient_and_the_same_each_time(tmp_path):
    for name, patients in (("f", 6), ("g", 6), ("h", 4)):
        write_phantom_folder(tmp_path / name, num_patients=patients, slices_per_patient=2, size=48, seed=3)
    assert check_folder(tmp_path / "f") == []
    records = read_manifest(tmp_path / "f")
    assert len(records) == 12 and {r.split for r in records} == {"train", "val", "test"}
    assert records[0].spacing_mm == pytest.approx(360 / 48)
    for path in (tmp_path / "f").rglob("*.*"):
        relative = path.relative_to(tmp_path / "f")
        assert path.read_bytes() == (tmp_path / "g" / relative).read_bytes()
        if (tmp_path / "h" / relative).exists() and path.suffix == ".png":  # fewer patients, but the same ones
            assert path.read_bytes() == (tmp_path / "h" / relative).read_bytes()


def test_options_of_slices_are_passed_on(tmp_path):
    write_phantom_folder(tmp_path / "f", num_patients=3, slices_per_patient=2, size=32, nodule_free=1.0)
    assert {r.label for r in read_manifest(tmp_path / "f")} == {"none"}


def test_the_nodule_view_holds_a_lesion_in_crops_of_fine_pixels(tmp_path):
    options = {"num_patients": 3, "slices_per_patient": 2, "size": 32}
    write_phantom_folder(tmp_path / "f", view="nodule", diameter_mm=(8.0, 30.0), **options)
    records = read_manifest(tmp_path / "f")
    assert {r.spacing_mm for r in records} == {0.7}
    assert all(read_slice(tmp_path / "f", record)[1].any() for record in records)
    with pytest.raises(ValueError, match='expected view "chest" or "nodule", got \'knee\''):
        write_phantom_folder(tmp_path / "g", view="knee", **options)


PHANTOMS = {"shape": (4, 24, 24), "spacing_mm": (8.0, 4.0, 4.0), "diameter_mm": (20.0, 25.0), "num_nodules": 1}


def test_phantoms_are_split_by_patient_and_the_same_each_time(tmp_path):
    for name, patients in (("f", 4), ("g", 4), ("h", 3)):
        write_phantom_volumes(tmp_path / name, num_patients=patients, seed=3, **PHANTOMS)
    assert check_volume_folder(tmp_path / "f") == []
    assert describe_folder(tmp_path / "f").startswith(f"{tmp_path / 'f'} holds 4 volumes: ")
    assert {r.split for r in read_manifest(tmp_path / "h")} == {"train", "val", "test"}  # three are enough
    with open(tmp_path / "f/manifest.csv") as file:
        assert {row["spacing_mm"] for row in csv.DictReader(file)} == {"4"}
    for path in (tmp_path / "f/volumes").iterdir():
        assert path.read_bytes() == (tmp_path / "g/volumes" / path.name).read_bytes()
        if (tmp_path / "h/volumes" / path.name).exists():  # fewer patients, but the same ones
            assert path.read_bytes() == (tmp_path / "h/volumes" / path.name).read_bytes()
        volume = read_volume(path)
        assert volume.hu.shape == (4, 24, 24) and volume.target.any() and volume.spacing_mm == (8.0, 4.0, 4.0)


def test_phantom_options_are_passed_on(tmp_path):
    write_phantom_volumes(tmp_path / "f", num_patients=3, centre_mm=(500.0, 0.0), **PHANTOMS | {"num_nodules": 0})
    for image, target, _ in VolumeDataset(tmp_path / "f"):
        assert not target.any() and image.mean() < 0.1  # beside the patient: air


@pytest.mark.parametrize("room_at", [1, 3, 20])
def test_where_a_view_has_no_room_for_its_nodules_another_is_drawn(monkeypatch, room_at):
    centres = []

    def crowded(rng, *, centre_mm, shape):
        centres.append(centre_mm)
        if len(centres) < room_at:
            raise ValueError("no room")
        return shape

    monkeypatch.setattr(folders, "phantom_volume", crowded)
    assert draw_volume(np.random.default_rng(0), shape="drawn") == "drawn"
    assert len(set(centres)) == room_at and all(40 < abs(x) < 90 and abs(y) < 25 for x, y in centres)


def test_a_view_without_room_anywhere_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "TRIES", 2)
    with pytest.raises(ValueError, match="has no room for a nodule of 40 mm"):
        write_phantom_volumes(tmp_path / "f", num_patients=3, **PHANTOMS | {"diameter_mm": (40, 40), "num_nodules": 9})
    assert os.listdir(tmp_path) == []


def test_reading_a_png_or_a_volume_imports_no_phantom():
    code = (
        "import sys, lungseg.data.slices, lungseg.data.volumes, lungseg.data.scans, lungseg.training.data\n"
        "print(*(name for name in sys.modules if 'phantoms' in name))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    assert not found.split()
