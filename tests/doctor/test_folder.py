"""Folders broken on purpose."""

import csv

import numpy as np
import pytest
from PIL import Image

from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceWriter
from lungseg.doctor.finding import FAULT, OK, WARNING
from lungseg.doctor.folder import examine_folder

SPLITS = ("train",) * 6 + ("val",) * 3 + ("test",) * 3


@pytest.fixture
def folder(tmp_path):
    """A sound one: discs on noise, a patient for each slice."""
    y, x = np.mgrid[:24, :24]
    with SliceWriter(tmp_path / "slices") as out:
        for i, split in enumerate(SPLITS):
            rng = np.random.default_rng(i)
            target = ((y - rng.integers(6, 18)) ** 2 + (x - 12) ** 2 < 20).astype(np.uint8)
            image = np.clip(60 + 90 * target + rng.normal(0, 20, (24, 24)), 0, 255).astype(np.uint8)
            out.add(ImageRecord(f"s{i:02d}", f"p{i:02d}", split), image, target)
    return tmp_path / "slices"


def findings_of(folder):
    return {finding.name: finding for finding in examine_folder(folder)[0]}


def rewrite(folder, change):
    """Change rows of the manifest: change(number, row)."""
    path = folder / "manifest.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for number, row in enumerate(rows):
        change(number, row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_a_sound_folder_has_no_fault(folder):
    findings, records, classes = examine_folder(folder)
    assert [f.verdict for f in findings] == [OK] * 4, "\n".join(map(str, findings))
    assert len(records) == len(SPLITS) and classes == ()
    assert findings[1].measured.startswith("train 6 slices of 6 patients, val 3 slices of 3 patients")


def test_a_patient_in_two_splits_is_a_leak(folder):
    rewrite(folder, lambda n, row: row.update(group="p00") if n == 7 else None)
    found = findings_of(folder)
    assert found["leak"].verdict == found["folder"].verdict == FAULT
    assert "1 patient is in two splits" in found["leak"].measured
    assert "'p00' is in train and in val" in found["leak"].cause and "by patient" in found["leak"].cure


def test_inverted_masks_and_foreign_values_are_in_the_lines_of_the_check(folder):
    for path in sorted((folder / "masks").glob("*.png"))[1:]:
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    Image.fromarray(np.asarray(Image.open(path)) // 2).save(folder / "masks/s00.png")
    found = findings_of(folder)["folder"]
    assert found.verdict == FAULT
    assert any("look swapped" in line for line in found.details)
    assert any("holds the values 0, 127" in line for line in found.details)


def test_a_missing_split_is_a_fault_and_a_single_patient_a_warning(folder):
    rewrite(folder, lambda n, row: row.update(group="p11") if row["split"] == "test" else None)
    found = findings_of(folder)["splits"]
    assert found.verdict == WARNING and "test with one or two patients" in found.cause
    rewrite(folder, lambda n, row: row.update(split="train"))
    assert findings_of(folder)["splits"].verdict == FAULT


def test_one_patient_under_two_names_is_a_near_duplicate(folder):
    image = np.asarray(Image.open(folder / "images/s00.png")).astype(float)
    noisy = image + np.random.default_rng(0).normal(0, 3, image.shape)
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / "images/s10.png")
    found = findings_of(folder)["near-duplicates"]
    assert found.verdict == WARNING and "s00 in train and s10 in test" in found.cause


def test_a_folder_that_cannot_be_read_is_an_error_in_words(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        examine_folder(tmp_path / "nothing")
