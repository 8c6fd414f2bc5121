"""The table of candidates as another program reads it, and the sheet as a reader sees it."""

import csv

import numpy as np
import pytest

from lungseg.candidate_files import ACROSS, MOST, SIDE, CandidateFiles, candidate_sheet
from lungseg.candidates import find_candidates
from lungseg.data.scans import Scan
from lungseg.draw import MISSED, PRED, TARGET


class Grey:
    """In place of a predictor."""

    def grey(self, hu):
        return np.clip((hu + 1000) / 1400, 0, 1)


def a_scan():
    hu = np.full((5, 90, 80), -850, np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    labels[2:4, 10:16, 70:78] = 1
    return Scan("a", hu, np.roll(labels, 20, axis=1), (2.0, 0.5, 0.5)), labels


def test_a_row_says_where_a_candidate_is_in_voxels_and_mm(tmp_path):
    scan, labels = a_scan()
    found = find_candidates(labels, labels / 1.0, scan.spacing_mm)
    files = CandidateFiles(tmp_path)
    files.add("a", tmp_path / "scan.npz", scan, Grey(), labels, found)
    files.add("b", tmp_path / "scan.npz", scan, Grey(), 0 * labels, [])
    assert files.write_table() == ["Candidates in the volumes: 1, see candidates.csv and candidates/."]
    with open(tmp_path / "candidates.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["id"] == "a" and (row["slice"], row["first_slice"], row["last_slice"]) == ("2", "2", "3")
    assert (row["row"], row["column"]) == ("12.5", "73.5") and float(row["x_mm"]) == pytest.approx(36.75, abs=0.06)
    assert float(row["z_mm"]) == 5.0 and float(row["volume_mm3"]) == 48.0 and row["score"] == f"{found[0].score:.4f}"
    assert sorted(p.name for p in (tmp_path / "candidates").iterdir()) == ["a.png"]


def test_without_a_volume_there_is_no_table(tmp_path):
    assert CandidateFiles(tmp_path).write_table() == [] and not any(tmp_path.iterdir())


def test_a_picture_shows_prediction_and_target_around_the_candidate():
    scan, labels = a_scan()
    found = find_candidates(labels, labels / 1.0)  # of unknown size
    labels[2, 30:34, 60:64] = 1  # another one
    picture = np.asarray(candidate_sheet(found, lambda z: Grey().grey(scan.hu[z]), labels, scan.target))
    for colour in (PRED, TARGET, MISSED):
        assert (picture == colour).all(axis=2).any()
    assert picture.shape[1] >= SIDE


def test_pictures_have_one_size_however_large_a_candidate_is():
    labels = np.zeros((3, 300, 310), np.uint8)
    labels[1, 5:290, 5:100] = labels[1, 150, 200] = 1
    found = find_candidates(labels, labels / 1.0)
    sheet = candidate_sheet(found, lambda z: np.zeros((300, 310), np.float32), labels)
    assert len(found) == 2 and 2 * SIDE <= sheet.width < 2 * SIDE + 40 and SIDE <= sheet.height < SIDE + 90


def test_a_sheet_has_an_end_and_small_slices_fit():
    labels = np.zeros((3, 40, 40), np.uint8)
    labels[1, ::3, ::3] = 1  # 196 candidates
    found = find_candidates(labels, labels / 1.0)
    sheets = [candidate_sheet(found[:n], lambda z: np.zeros((40, 40), np.float32), labels) for n in (MOST, len(found))]
    assert len(found) > MOST and sheets[0].size == sheets[1].size
    assert sheets[0].height > MOST // ACROSS * SIDE
