"""Every kind of input through a network whose answer is known: lesion is where the grey value is above one half."""

import csv
import gzip
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from torch import nn

from lungseg.checkpoint import InputSpec, load_checkpoint, save_checkpoint
from lungseg.data.ct import grey_to_hu
from lungseg.data.manifest import ImageRecord
from lungseg.data.scans import Scan
from lungseg.data.slices import SliceWriter
from lungseg.data.volume_file import write_volume
from lungseg.decision import PLAIN
from lungseg.draw import PRED, TARGET
from lungseg.nn.unet import UNet

SCRIPT = Path(__file__).resolve().parents[2] / "examples/predict.py"


@pytest.fixture(scope="module")
def predict(example):
    return example("predict")


@pytest.fixture(autouse=True)
def _leave_the_memory_as_it_was(predict, monkeypatch):
    monkeypatch.setattr(predict, "keep_freed_memory", lambda: None)  # for ever, in the process that runs the tests


def threshold_network(spatial_dims):
    """A U-Net of one channel and one stage whose logits are 40 (grey - 1/2): its kernels look at one pixel alone."""
    network = UNet(channels=(1,), spatial_dims=spatial_dims)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                layer.weight.zero_()
                layer.weight[(0, 0, *[side // 2 for side in layer.kernel_size])] = 1
        network.head.weight.fill_(40)
        network.head.bias.fill_(-20)
    return network


def save_network(path, spatial_dims=2, **changes):
    size, spacing = ([24, 24], 0.7) if spatial_dims == 2 else ([4, 24, 24], [2.0, 0.7, 0.7])
    input_ = {"size": size, "scale": [1.0] * spatial_dims, "hu_window": [-1000.0, 400.0], "spacing_mm": spacing}
    arguments = {"channels": (1,), "spatial_dims": spatial_dims}
    state = {"network": {"name": "UNet", "arguments": arguments}, "input": input_ | changes}
    save_checkpoint(path, state | {"model": threshold_network(spatial_dims).state_dict()})
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("run") / "best.pt", source_scale=[1.0, 1.0])  # trained on whole slices


@pytest.fixture(scope="module")
def checkpoint_3d(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("run") / "best3d.pt", spatial_dims=3)


def make_grey(shape=(30, 41), seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def lesion_of(grey):
    """What the network finds: (grey / 255 > 1/2), 0 or 255."""
    return (grey > 127).astype(np.uint8) * 255


def read_png(path):
    return np.asarray(Image.open(path))


def run(predict, checkpoint, out, *words):
    return predict.main([str(checkpoint), *map(str, words), "--out", str(out), "--device", "cpu"])


def files_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


def table_of(out):
    with open(out / "slices.csv", newline="") as file:
        return list(csv.DictReader(file))


# ---- one slice, however it comes --------------------------------------------------------------------------------


def as_png(folder, grey):
    Image.fromarray(grey).save(folder / "scan.png")
    return folder / "scan.png"


def as_npy(folder, grey):
    np.save(folder / "scan.npy", np.rint(grey_to_hu(grey)).astype(np.int16))
    return folder / "scan.npy"


def as_sixteen_bits_in_another_window(folder, grey):
    hu = grey_to_hu(grey)
    levels = np.rint((hu + 1400) / 2000 * 65535).astype(np.uint16)
    with SliceWriter(folder / "data") as out:
        out.add(ImageRecord("scan", "a", "test", hu_low=-1400, hu_high=600, bits=16), levels, np.zeros_like(grey))
    return folder / "data"


FORMS = [as_png, as_npy, as_sixteen_bits_in_another_window]


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_a_slice_gives_the_same_mask_of_its_own_size_however_it_comes(form, predict, checkpoint, tmp_path, capsys):
    grey = make_grey()
    source, out = form(tmp_path, grey), tmp_path / "out"
    assert run(predict, checkpoint, out, source) == 0
    assert files_in(out) == ["masks/scan.png", "overlays/scan.png", "slices.csv"]
    assert np.array_equal(read_png(out / "masks/scan.png"), lesion_of(grey))
    pixels = int((grey > 127).sum())
    assert table_of(out) == [{"id": "scan", "input": str(source), "predicted_px": str(pixels), "predicted_mm2": ""}]
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == f"{source}: something found in 1 of 1 slices, {pixels} pixels"
    assert "warning" not in said.err


@pytest.mark.parametrize("shape", [(1, 1), (7, 100), (24, 24), (50, 23)])
def test_masks_and_probabilities_have_the_size_of_the_slice(shape, predict, tmp_path):
    """Also with a network that was trained at half the scale."""
    grey = make_grey(shape)
    checkpoint = save_network(tmp_path / "half.pt", scale=[0.5, 0.5])
    assert run(predict, checkpoint, tmp_path / "out", as_png(tmp_path, grey), "--probabilities") == 0
    for folder in ("masks", "probabilities"):
        assert read_png(tmp_path / "out" / folder / "scan.png").shape == shape
    scale = 512 // max(shape)
    assert read_png(tmp_path / "out/overlays/scan.png").shape == (shape[0] * scale, shape[1] * scale, 3)


def test_probabilities_are_sixteen_bits_and_the_threshold_cuts_them(predict, checkpoint, tmp_path):
    grey = np.tile(np.arange(100, 156, dtype=np.uint8), (3, 1))
    source = as_png(tmp_path, grey)
    assert run(predict, checkpoint, tmp_path / "out", source, "--probabilities", "--threshold", "0.2") == 0
    levels = read_png(tmp_path / "out/probabilities/scan.png")
    expected = 1 / (1 + np.exp(-40 * (grey / 255 - 0.5)))
    assert levels.dtype.itemsize >= 2 and np.abs(levels / 65535 - expected).max() < 1e-4
    assert np.array_equal(read_png(tmp_path / "out/masks/scan.png"), (expected > 0.2) * np.uint8(255))


def test_the_decision_of_the_checkpoint_is_used_unless_numbers_are_given(predict, tmp_path, capsys):
    decided, grey = tmp_path / "decided.pt", np.zeros((24, 24), np.uint8)
    state = load_checkpoint(save_network(tmp_path / "best.pt", source_scale=[1.0, 1.0]))
    save_checkpoint(decided, state | {"decision": {"threshold": 0.3, "min_pixels": 4}})
    grey[2:4, 2:4], grey[10:12, 3:5], grey[20, 20] = 255, 124, 255  # 4 pixels; 4 of probability 0.36; a single one
    path = as_png(tmp_path, grey)
    ways = {"chosen": ([], 8), "half": (["--threshold", "0.5"], 5), "size": (["--min-pixels", "4"], 4)}
    for name, (flags, pixels) in ways.items():
        assert run(predict, decided, tmp_path / name, path, *flags) == 0
        assert table_of(tmp_path / name)[0]["predicted_px"] == str(pixels), name
    said = capsys.readouterr().out
    assert "UNet: lesion is where the probability is above 0.3, in components of at least 4 pixels." in said
    assert "UNet: lesion is where the probability is above 0.5.\n" in said


def test_several_checkpoints_are_averaged_wherever_the_flags_stand(predict, checkpoint, tmp_path, capsys):
    """Another network, whose logits are 0 everywhere: a probability p becomes (p + 1/2) / 2."""
    state = load_checkpoint(checkpoint)
    zero = {name: 0 * value if name.startswith("head") else value for name, value in state["model"].items()}
    save_checkpoint(tmp_path / "zero.pt", state | {"model": zero})
    path = as_png(tmp_path, make_grey())
    run(predict, checkpoint, tmp_path / "one", path, "--probabilities")
    argv = [checkpoint, tmp_path / "zero.pt", "--out", tmp_path / "two", "--probabilities", path]
    assert predict.main([*map(str, argv), "--device", "cpu"]) == 0
    one, two = (read_png(tmp_path / name / "probabilities/scan.png") / 65535 for name in ("one", "two"))
    assert np.abs(two - (one + 0.5) / 2).max() <= 1 / 65535
    assert "UNet + UNet: lesion is where" in capsys.readouterr().out


def test_variations_change_what_an_untrained_network_says(predict, checkpoint, tmp_path):
    torch.manual_seed(0)
    network, state = {"name": "UNet", "arguments": {"channels": (2, 4)}}, load_checkpoint(checkpoint)
    untrained = state | {"network": network, "model": UNet(channels=(2, 4)).state_dict()}
    save_checkpoint(tmp_path / "best.pt", untrained)
    path, maps = as_png(tmp_path, make_grey()), []
    for kind in ("none", "flips", "turns"):
        run(predict, tmp_path / "best.pt", tmp_path / kind, path, "--probabilities", "--tta", kind)
        maps.append(read_png(tmp_path / kind / "probabilities/scan.png").tobytes())
    assert len(set(maps)) == 3


def test_checkpoints_without_an_input_are_refused(predict, checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(predict, checkpoint, tmp_path / "out", checkpoint)
    assert "expected an INPUT after the checkpoints, got" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_attention_looks_into_one_network(predict, checkpoint, tmp_path, capsys):
    path = as_png(tmp_path, make_grey())
    assert run(predict, checkpoint, tmp_path / "out", checkpoint, path, "--attention", 3, 4) == 2
    assert "--attention looks into one network, got 2 checkpoints. Give one." in capsys.readouterr().err


def test_the_overlay_shows_the_prediction_in_orange_and_the_target_in_green(predict, checkpoint, tmp_path):
    grey, target = np.full((40, 40), 20, np.uint8), np.zeros((40, 40), np.uint8)
    grey[5:12, 5:12], target[25:32, 25:32] = 200, 1
    with SliceWriter(tmp_path / "data") as folder:
        folder.add(ImageRecord("a", "p", "train", spacing_mm=0.7), grey, target)
    assert run(predict, checkpoint, tmp_path / "out", tmp_path / "data") == 0
    picture = read_png(tmp_path / "out/overlays/a.png")
    scale = 512 // 40
    for colour, first in ((PRED, 5), (TARGET, 25)):
        rows, cols = np.nonzero((picture == colour).all(axis=2))
        assert abs(rows.min() - first * scale) <= 1 and abs(cols.max() - (first + 7) * scale) <= 1
    (row,) = table_of(tmp_path / "out")
    assert float(row["predicted_mm2"]) == pytest.approx(49 * 0.7**2, abs=0.01)


# ---- volumes ----------------------------------------------------------------------------------------------------


def make_volume(folder, depth=5):
    """Lesions in slices 1 and 3; a target in slice 2; slices 0 and 4 are empty."""
    grey = np.full((depth, 30, 41), 20, np.uint8)
    grey[1, 4:9, 4:9] = grey[3, 20:24, 30:40] = 220
    target = np.zeros_like(grey)
    target[2, 10:14, 10:14] = 1
    return grey, np.rint(grey_to_hu(grey)).astype(np.int16), target


def volume_npz(folder, hu, target):
    write_volume(folder / "scan.npz", hu, target, (2.0, 0.7, 0.7))
    return folder / "scan.npz"


def volume_npy(folder, hu, target):
    np.save(folder / "scan.npy", hu)
    return folder / "scan.npy"


def folder_of_volumes(folder, hu, target):
    (folder / "data/volumes").mkdir(parents=True)
    volume_npz(folder / "data/volumes", hu, target)
    return folder / "data"


@pytest.mark.parametrize("form", [volume_npz, volume_npy, folder_of_volumes], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dims", [2, 3])
def test_volumes_are_predicted_slice_by_slice_or_whole(
    form, dims, predict, checkpoint, checkpoint_3d, tmp_path, capsys
):
    grey, hu, target = make_volume(tmp_path)
    source, out = form(tmp_path, hu, target), tmp_path / "out"
    assert run(predict, checkpoint if dims == 2 else checkpoint_3d, out, source) == 0
    known = form is not volume_npy  # a bare array has neither target nor spacing
    drawn = (1, 2, 3) if known else (1, 3)
    assert files_in(out) == [
        "candidates.csv",
        "candidates/scan.png",
        *(f"masks/scan/{z:03d}.png" for z in range(5)),
        *(f"overlays/scan/{z:03d}.png" for z in drawn),
        "slices.csv",
        "volumes/scan.npz",
    ]
    for z in range(5):
        assert np.array_equal(read_png(out / f"masks/scan/{z:03d}.png"), lesion_of(grey[z]))
    with np.load(out / "volumes/scan.npz") as saved:
        assert saved["pred"].dtype == np.uint8 and np.array_equal(saved["pred"] * np.uint8(255), lesion_of(grey))
        assert ("spacing_mm" in saved) == known
    rows = table_of(out)
    assert [row["id"] for row in rows] == [f"scan/{z:03d}" for z in range(5)]
    assert [row["predicted_px"] for row in rows] == ["0", "25", "0", "40", "0"]
    area = f", {65 * 0.49:.1f} mm2" if known else ""
    assert capsys.readouterr().out.startswith(f"{source}: something found in 2 of 5 slices, 65 pixels{area}\n")


def make_chest(folder):
    """A lung with a large and a small lesion in tissue, and a third in the wall: all of them bright."""
    grey = np.full((4, 60, 60), 120, np.uint8)
    grey[:, 15:45, 15:45] = 20
    grey[1:3, 20:26, 20:26] = grey[1:3, 5:9, 5:9] = grey[1, 40, 40] = 220
    write_volume(folder / "chest.npz", np.rint(grey_to_hu(grey)).astype(np.int16), None, (2.0, 0.7, 0.7))
    return folder / "chest.npz"


@pytest.mark.parametrize(
    ("flags", "kept"),
    [([], {72, 32, 1}), (["--lungs"], {72, 1}), (["--min-diameter-mm", "3"], {72, 32}),
     (["--lungs", "--min-diameter-mm", "3"], {72})],
)  # fmt: skip
def test_candidates_can_be_restricted_to_the_lungs_and_by_size(flags, kept, predict, checkpoint, tmp_path, capsys):
    source, out = make_chest(tmp_path), tmp_path / "out"
    assert run(predict, checkpoint, out, source, *flags) == 0
    with open(out / "candidates.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["voxels"]) for row in rows} == kept and [row["candidate"] for row in rows] == [
        str(n) for n in range(1, len(kept) + 1)
    ]
    assert sum(int(row["predicted_px"]) for row in table_of(out)) == sum(kept)  # masks hold the same
    with np.load(out / "volumes/chest.npz") as saved:
        assert saved["pred"].sum() == sum(kept)
    assert f"Candidates in the volumes: {len(kept)}, " in capsys.readouterr().out


@pytest.mark.parametrize(("place", "voxels"), [("all", 105), ("body", 105), ("lungs", 73)])
def test_what_lies_outside_the_place_to_search_is_not_looked_at(place, voxels, predict, checkpoint, tmp_path, capsys):
    with np.load(make_chest(tmp_path)) as saved:
        chest = saved["hu"]
    tissue, bright = chest[0, 0, 0], chest[1, 5, 5]
    hu = np.pad(chest, [(0, 0), (0, 0), (30, 0)], constant_values=tissue)
    hu[1:3, 5:9, 35:39], hu[1:3, 5:9, 0:4] = tissue, bright  # the lesion in the wall: at the skin, far from the lung
    hu = np.pad(hu, [(0, 0), (0, 0), (60, 0)], constant_values=-1000)  # air around the patient
    write_volume(tmp_path / "wide.npz", hu, None, (2.0, 0.7, 0.7))
    assert run(predict, checkpoint, tmp_path / "out", tmp_path / "wide.npz", "--search", place) == 0
    assert sum(int(row["predicted_px"]) for row in table_of(tmp_path / "out")) == voxels
    said = capsys.readouterr().out
    assert (f"Searched in: {place}. " in said) == (place != "all") and f"{place}. 0 of" not in said


def saved_in_fortran_order(folder, arrays):
    (folder / "scan").mkdir()
    for name, array in arrays.items():
        np.save(folder / "scan" / name, np.asfortranarray(array))
    return folder / "scan"


def saved_compressed(folder, arrays):
    np.savez_compressed(folder / "scan.npz", **arrays)
    return folder / "scan.npz"


def saved_by_us(folder, arrays):
    about = dict(arrays)
    write_volume(folder / "scan.npz", about.pop("hu"), None, about.pop("spacing_mm"), **about)
    return folder / "scan.npz"


@pytest.mark.parametrize("form", [saved_in_fortran_order, saved_compressed, saved_by_us])
def test_a_prediction_lies_on_the_grid_of_its_scan(form, predict, checkpoint, tmp_path):
    """Voxel by voxel, in the order of axes and slices; and it says where that grid lies as the scan did."""
    grey = make_grey((4, 9, 6))
    rng = np.random.default_rng(1)
    where = {
        "spacing_mm": np.array([2.0, 0.7, 0.8]),
        "affine": rng.normal(size=(4, 4)),
        "origin_mm": rng.normal(size=3).astype(np.float32),
        "direction": np.eye(3)[::-1],
        "source_shape": np.array([8, 18, 12], np.int16),
        "crop_start": np.array([0, 3, 2]),
    }
    source = form(tmp_path, {"hu": np.rint(grey_to_hu(grey)).astype(np.int16), **where})
    assert run(predict, checkpoint, tmp_path / "out", source) == 0
    with np.load(tmp_path / "out/volumes/scan.npz") as saved:
        assert np.array_equal(saved["pred"], lesion_of(grey) // 255) and saved.keys() == {"pred", *where}
        for name, array in where.items():
            assert saved[name].dtype == array.dtype and np.array_equal(saved[name], array), name


def test_a_network_for_volumes_refuses_a_slice(predict, checkpoint_3d, tmp_path, capsys):
    source = as_png(tmp_path, make_grey())
    assert_refused(predict, checkpoint_3d, tmp_path, capsys, source, words="trained on volumes, and this is a single")


# ---- tables -----------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    greys = [make_grey(seed=k) for k in range(3)]
    columns = {"label1": list("abc"), "mask": [(g > 200).astype(np.int8) for g in greys]}
    columns["hu_array_old"] = [grey_to_hu(g).astype(np.float64) for g in greys]
    columns["hu_array"] = [np.full(g.shape, -900.0) for g in greys]
    with gzip.open(tmp_path / "train.pkl.gz", "wb") as file:
        pickle.dump(columns, file)
    return tmp_path / "train.pkl.gz", greys


def test_all_rows_of_a_table_or_those_asked_for(predict, checkpoint, table, tmp_path):
    path, greys = table
    assert run(predict, checkpoint, tmp_path / "all", path) == 0
    assert files_in(tmp_path / "all/masks") == [f"train_row000{k}.png" for k in range(3)]
    assert run(predict, checkpoint, tmp_path / "some", path, "--rows", "2", "0") == 0
    assert files_in(tmp_path / "some/masks") == ["train_row0000.png", "train_row0002.png"]
    assert np.array_equal(read_png(tmp_path / "some/masks/train_row0002.png"), lesion_of(greys[2]))
    assert (read_png(tmp_path / "some/overlays/train_row0002.png") == TARGET).all(axis=2).any()
    assert run(predict, checkpoint, tmp_path / "other", path, "--column", "hu_array") == 0
    assert not read_png(tmp_path / "other/masks/train_row0000.png").any()


# ---- many inputs ------------------------------------------------------------------------------------------------


def test_inputs_of_one_name_are_kept_apart(predict, checkpoint, tmp_path):
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        (tmp_path / name).mkdir()
        as_png(tmp_path / name, make_grey(seed=seed))
    _, hu, target = make_volume(tmp_path)
    sources = [tmp_path / "a/scan.png", tmp_path / "b", tmp_path / "c/scan.png", volume_npz(tmp_path, hu, target)]
    out = tmp_path / "out"
    assert run(predict, checkpoint, out, *sources) == 0
    rows = table_of(out)
    assert [row["id"] for row in rows[:4]] == ["scan", "scan_2", "scan_3", "scan_4/000"]
    assert [row["input"] for row in rows[:4]] == [str(s) for s in sources]
    for name, seed in (("scan", 1), ("scan_2", 2), ("scan_3", 3)):
        assert np.array_equal(read_png(out / f"masks/{name}.png"), lesion_of(make_grey(seed=seed)))


def everything_in(folder):
    return {p: os.readlink(p) if p.is_symlink() else p.is_file() and p.read_bytes() for p in Path(folder).rglob("*")}


@pytest.mark.parametrize(("start", "given"), [
    ("scan", "."), ("scan", "./"), ("scan/deep", ".."), ("scan/deep", "../"), ("scan/deep", "../deep/.."),
    ("", "scan/"), ("", "scan/deep/.."),
])  # fmt: skip
def test_a_folder_lends_its_own_name_however_it_is_given(start, given, predict, checkpoint, tmp_path, monkeypatch):
    _, hu, _ = make_volume(tmp_path)
    (tmp_path / "here/scan/deep").mkdir(parents=True)
    np.save(tmp_path / "here/scan/hu.npy", hu)
    before = everything_in(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here" / start)
    out = tmp_path / "there/out"
    assert run(predict, checkpoint, out, given) == 0
    assert everything_in(tmp_path / "here") == before and sorted(os.listdir(tmp_path / "there")) == ["out"]
    assert files_in(out / "masks") == [f"scan/{z:03d}.png" for z in range(5)]
    assert files_in(out / "volumes") == ["scan.npz"] and table_of(out)[0]["id"] == "scan/000"


odd_ids = st.one_of(
    st.text(max_size=5),
    st.lists(st.sampled_from(["", ".", "..", "/", "\\", "a", "A", "a.png", "\0", "\n", "~", "\udcff"]), max_size=4).map(
        "".join
    ),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd=st.lists(st.tuples(odd_ids, st.booleans()), min_size=1, max_size=4))
def test_whatever_a_scan_is_called_all_its_files_lie_below_out(predict, odd, monkeypatch, tmp_path_factory):
    """Ids come from names of files and folders, manifests and tables."""
    place = tmp_path_factory.mktemp("odd")
    hu = np.full((2, 5, 4), -1000, np.int16)
    scans = [Scan(id_, hu if deep else hu[0]) for id_, deep in odd]
    monkeypatch.setattr(predict, "read_scans", lambda *_, **__: iter(scans))
    monkeypatch.setattr(predict, "load_predictor", lambda *_, **__: Silent())
    assert run(predict, "any.pt", place / "a/out", as_png(place, hu[0].astype(np.uint8))) == 0
    assert sorted(os.listdir(place)) == ["a", "scan.png"] and os.listdir(place / "a") == ["out"]
    count = {True: 2, False: 1}
    assert len(files_in(place / "a/out/masks")) == sum(count[deep] for _, deep in odd)
    assert len(files_in(place / "a/out/volumes")) == sum(deep for _, deep in odd)
    ids = [row["id"].casefold() for row in table_of(place / "a/out")]
    assert len(set(ids)) == len(ids)  # also where the disk takes A and a for one name


class Silent:
    """Finds nothing, at once."""

    spatial_dims, batch_size, input = 2, 8, InputSpec((8, 8), (1.0, 1.0), (-1000.0, 400.0), None)
    name, decision = "Silent", PLAIN

    classes = ()

    def grey(self, hu):
        return np.zeros(hu.shape, np.float32)

    def probs(self, grey, scale, *, is_stack=False):
        return grey

    def alone(self, grey):
        return None

    def labels(self, probs, threshold):
        return (probs > threshold).astype(np.uint8)

    def without_small(self, labels, decision, scale):
        return labels

    def any_class(self, probs):
        return probs

    def scale_for(self, *_):
        return None, None

    def search_mask(self, *_):
        return None

    def skipped_remark(self):
        return []


@pytest.mark.parametrize("argv", [["", "--out", "out"], ["a.png", "--out", ""]])
def test_an_empty_name_is_no_folder(argv, predict, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    as_png(tmp_path, make_grey())  # "" would be the current folder, which holds it
    with pytest.raises(SystemExit, match="2"):
        predict.main([str(checkpoint), *argv])
    assert "is empty" in capsys.readouterr().err and os.listdir() == ["scan.png"]


# ---- warnings ---------------------------------------------------------------------------------------------------


def test_numbers_that_are_no_hu_are_predicted_with_a_warning(predict, checkpoint, tmp_path, capsys):
    np.save(tmp_path / "grey.npy", make_grey())
    assert run(predict, checkpoint, tmp_path / "out", tmp_path / "grey.npy") == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert "warning" in warning and "0 to 255 look like the grey levels of a picture" in warning
    np.save(tmp_path / "raw.npy", make_grey() * 5.0)  # nothing below water: of the stored values of a scanner
    assert run(predict, checkpoint, tmp_path / "out2", tmp_path / "raw.npy") == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert "warning" in warning and "Apply the rescale slope and intercept" in warning


@pytest.mark.parametrize(("levels", "cause"), [((7, 7), "one grey level"), ((7, 9), "hardly any of the 256")])
def test_a_picture_that_shows_nothing_is_predicted_with_a_warning(levels, cause, predict, checkpoint, tmp_path, capsys):
    grey = np.random.default_rng(0).choice(levels, (30, 41)).astype(np.uint8)
    assert run(predict, checkpoint, tmp_path / "out", as_png(tmp_path, grey)) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert "warning" in warning and cause in warning


def test_exchanged_masks_are_told_of_when_they_are_drawn(predict, checkpoint, tmp_path, capsys):
    lesion = np.pad(np.ones((9, 9), np.uint8), ((9, 12), (9, 23)))
    with SliceWriter(tmp_path / "data") as out:
        for name in "ab":
            out.add(ImageRecord(name, "a", "test"), make_grey(), 1 - lesion)
    assert run(predict, checkpoint, tmp_path / "out", tmp_path / "data") == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert "lesion and background look swapped" in warning


def test_a_bright_picture_is_not_mistaken(predict, checkpoint, tmp_path, capsys):
    """Grey levels from 190 to 220 are 43 to 208 HU: all of them between 0 and 255."""
    assert run(predict, checkpoint, tmp_path / "out", as_png(tmp_path, make_grey() // 8 + 189)) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("spacing", "warned"), [(0.7, False), (1.0, False), (1.1, True), (0.5, False), (0.4, True)])
def test_pixels_of_another_size_are_resampled_and_told(spacing, warned, predict, checkpoint, tmp_path, capsys):
    with SliceWriter(tmp_path / "data") as out:
        for name in "ab":  # one warning for both
            out.add(ImageRecord(name, "a", "test", spacing_mm=spacing), make_grey(), np.zeros((30, 41)))
    assert run(predict, checkpoint, tmp_path / "out", tmp_path / "data") == 0
    said = capsys.readouterr().err
    assert ("was 0.7 x 0.7 mm in the training" in said) == warned and said.count("\n") == warned


@pytest.mark.parametrize(("spacing", "warned"), [((2, 0.7, 0.7), False), ((4, 0.7, 0.7), True)])
def test_the_distance_of_slices_matters_to_a_network_for_volumes_only(
    spacing, warned, predict, checkpoint, checkpoint_3d, tmp_path, capsys
):
    _, hu, target = make_volume(tmp_path)
    write_volume(tmp_path / "scan.npz", hu, target, spacing)
    assert run(predict, checkpoint, tmp_path / "out2", tmp_path / "scan.npz") == 0
    assert "warning" not in capsys.readouterr().err
    assert run(predict, checkpoint_3d, tmp_path / "out3", tmp_path / "scan.npz") == 0
    assert ("warning" in capsys.readouterr().err) == warned


SHRUNK = {"size": [12, 12], "source_scale": [0.5, 0.5], "stretched": False}  # from 24 x 24, read at the files' size


@pytest.fixture
def seen(monkeypatch):
    """(windows, height, width) of what any U-Net is shown, but for the pixel that it is tried with on loading."""
    sizes, forward = [], UNet.forward

    def noted(self, image):
        if image.numel() > 1:
            sizes.append((len(image), *image.shape[2:]))
        return forward(self, image)

    monkeypatch.setattr(UNet, "forward", noted)
    return sizes


def as_volume(folder, grey):
    return volume_npz(folder, np.rint(grey_to_hu(grey[None])).astype(np.int16), None)


@pytest.mark.parametrize("form", [as_npy, as_volume], ids=lambda f: f.__name__)
def test_what_has_the_pixels_of_the_scanner_is_shrunk_as_the_training_was(form, predict, tmp_path, seen, capsys):
    checkpoint = save_network(tmp_path / "shrunk.pt", **SHRUNK, spacing_mm=None)
    source = form(tmp_path, make_grey((20, 22)))
    assert run(predict, checkpoint, tmp_path / "out", source) == 0
    assert seen == [(1, 10, 11)] and "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("side", [12, 24])
def test_a_loose_png_is_known_by_its_size(side, predict, tmp_path, seen):
    checkpoint = save_network(tmp_path / "shrunk.pt", **SHRUNK)
    assert run(predict, checkpoint, tmp_path / "out", as_png(tmp_path, make_grey((side, side)))) == 0
    assert seen == [(1, 12, 12)]


def test_a_png_of_another_size_is_refused_until_its_pixels_are_known(predict, tmp_path, seen, capsys):
    checkpoint = save_network(tmp_path / "shrunk.pt", **SHRUNK)
    source = as_png(tmp_path, make_grey((30, 30)))
    words = (
        "its 30 x 30 pixels are neither those of the training files (12 x 12) nor those of the slices they were made"
    )
    assert_refused(predict, checkpoint, tmp_path, capsys, source, words=words)
    assert_refused(predict, checkpoint, tmp_path, capsys, source, words="scan: its 30 x 30")
    assert seen == []
    assert run(predict, checkpoint, tmp_path / "out", source, "--spacing-mm", "0.35") == 0
    assert seen == [(4, 12, 12)]  # windows of the slice, 15 x 15 by now
    assert read_png(tmp_path / "out/masks/scan.png").shape == (30, 30)
    assert table_of(tmp_path / "out")[0]["predicted_mm2"] != "" and capsys.readouterr().err == ""
    for bad in ("0", "-1", "nan", "inf"):
        assert_refused(predict, checkpoint, tmp_path, capsys, source, "--spacing-mm", bad, words="--spacing-mm must be")


def test_the_pixels_of_a_volume_can_be_stated_but_not_the_distance_of_its_slices(predict, checkpoint, tmp_path, seen):
    _, hu, target = make_volume(tmp_path)
    assert run(predict, checkpoint, tmp_path / "out", volume_npy(tmp_path, hu, target), "--spacing-mm", "1.4") == 0
    assert {side for _, *sides in seen for side in sides} == {24}  # windows of slices twice as large
    assert sum(n for n, *_ in seen) == 5 * 4 * 6  # 60 x 82 pixels
    with np.load(tmp_path / "out/volumes/scan.npz") as saved:
        assert np.isnan(saved["spacing_mm"][0]) and saved["spacing_mm"][1:].tolist() == [1.4, 1.4]


@pytest.mark.parametrize("form", [as_png, as_npy, as_volume, "table"], ids=lambda f: getattr(f, "__name__", f))
def test_pixels_of_an_unknown_scale_are_told_once(form, predict, table, tmp_path, capsys):
    """The checkpoint says neither what its slices were made from nor how large their pixels are."""
    checkpoint = save_network(tmp_path / "old.pt", spacing_mm=None)
    source = table[0] if form == "table" else form(tmp_path, make_grey())
    assert run(predict, checkpoint, tmp_path / "out", source, "--spacing-mm", "0.7") == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert re.match(r"predict\.py: warning: \S+, \S+: its \d+ x \d+ pixels are treated as", warning)
    known = save_network(tmp_path / "known.pt", spacing_mm=0.7)
    assert run(predict, known, tmp_path / "out2", source, "--spacing-mm", "0.7") == 0
    assert capsys.readouterr().err == ""


def test_a_stated_pixel_size_does_not_overrule_that_of_the_file(predict, checkpoint, tmp_path, capsys):
    with SliceWriter(tmp_path / "data") as out:
        out.add(ImageRecord("a", "a", "test", spacing_mm=0.7), make_grey(), np.zeros((30, 41)))
    assert run(predict, checkpoint, tmp_path / "out", tmp_path / "data", "--spacing-mm", "7") == 0
    assert capsys.readouterr().err == ""


# ---- refusals ---------------------------------------------------------------------------------------------------


def assert_refused(predict, checkpoint, folder, capsys, *words_given, words):
    before = files_in(folder)
    assert run(predict, checkpoint, folder / "refused", *words_given) == 2
    said = capsys.readouterr()
    (sentence,) = said.err.splitlines()
    assert sentence.startswith("predict.py: ") and words in sentence and said.out == ""
    assert files_in(folder) == before and not (folder / "refused").exists()
    assert not list(folder.glob(".*partial*"))


def nan_slice(folder):
    np.save(folder / "x.npy", np.full((4, 4), np.nan))
    return folder / "x.npy"


def colours(folder):
    Image.new("RGB", (4, 4)).save(folder / "x.png")
    return folder / "x.png"


def dicom(folder):
    (folder / "x.dcm").write_bytes(b"DICM")
    return folder / "x.dcm"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nan_slice, "HU are NaN or infinite"),
        (colours, "expected a grey PNG of 8 bits, got RGB"),
        (dicom, "expected a file that ends in .png"),
        (lambda folder: folder / "x.png", "does not exist"),
    ],
)
def test_an_input_that_cannot_be_read_is_refused_and_nothing_is_left(
    make, words, predict, checkpoint, tmp_path, capsys
):
    good = as_png(tmp_path, make_grey())
    assert_refused(predict, checkpoint, tmp_path, capsys, good, make(tmp_path), words=words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--threshold", "0"], "--threshold must be between 0 and 1"),
        (["--overlap", "1"], "--overlap must be at least 0 and below 1"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--rows", "0"], "no INPUT is one"),
        (["--min-diameter-mm", "-1"], "--min-diameter-mm must be a number of at least 0"),
        (["--lungs"], "--lungs and --min-diameter-mm are for volumes, and this is a slice"),
    ],
)
def test_a_flag_that_cannot_work_is_refused(flags, words, predict, checkpoint, tmp_path, capsys):
    assert_refused(predict, checkpoint, tmp_path, capsys, as_png(tmp_path, make_grey()), *flags, words=words)


def test_a_row_that_is_not_there_is_refused(predict, checkpoint, table, tmp_path, capsys):
    assert_refused(predict, checkpoint, tmp_path, capsys, table[0], "--rows", "3", words="expected rows from 0 to 2")


def test_what_is_not_said_is_as_the_help_says(predict):
    args = vars(predict.parse_arguments(["best.pt", "a.png", "--out", "o"]))
    known = {"probabilities": False, "rows": None, "column": "hu_array_old", "spacing_mm": None}
    assert args.items() >= known.items()


def test_a_file_that_is_no_checkpoint_is_refused(predict, tmp_path, capsys):
    source = as_png(tmp_path, make_grey())
    assert_refused(predict, source, tmp_path, capsys, source, words="is not a checkpoint of lungseg")


def test_a_checkpoint_of_an_older_version_is_refused(predict, checkpoint, tmp_path, capsys):
    saved = load_checkpoint(checkpoint)
    del saved["input"]
    save_checkpoint(tmp_path / "old.pt", saved)
    source = as_png(tmp_path, make_grey())
    assert_refused(predict, tmp_path / "old.pt", tmp_path, capsys, source, words="older version")


def test_a_folder_with_anything_in_it_is_never_written_to(predict, checkpoint, tmp_path, capsys):
    source = as_png(tmp_path, make_grey())
    (tmp_path / "out").mkdir()
    assert run(predict, checkpoint, tmp_path / "out", source) == 0  # an empty one will do
    before = files_in(tmp_path / "out")
    assert run(predict, checkpoint, tmp_path / "out", source) == 2
    assert "is not empty" in capsys.readouterr().err and files_in(tmp_path / "out") == before


def test_ctrl_c_leaves_nothing_behind(predict, checkpoint, tmp_path, capsys, monkeypatch):
    source = as_png(tmp_path, make_grey())

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "summary_line", interrupt)  # when all masks are written
    assert run(predict, checkpoint, tmp_path / "out", source) == 130
    assert "was not written" in capsys.readouterr().err
    assert files_in(tmp_path) == ["scan.png"] and not list(tmp_path.glob(".*"))


def fails(error):
    def work(*args, **kwargs):
        raise error

    return work


def test_overlays_that_fail_lose_no_mask(predict, checkpoint, tmp_path, monkeypatch):
    _, hu, target = make_volume(tmp_path)
    monkeypatch.setattr(predict, "overlay", fails(MemoryError()))
    with pytest.warns(UserWarning, match="^overlays/ is not complete .MemoryError.. Everything else is there.$"):
        assert run(predict, checkpoint, tmp_path / "out", volume_npz(tmp_path, hu, target)) == 0
    assert [file for file in files_in(tmp_path / "out") if not file.startswith("candidates")] == [
        *(f"masks/scan/{z:03d}.png" for z in range(5)),
        "slices.csv",
        "volumes/scan.npz",
    ]


def test_too_little_memory_is_one_sentence(predict, checkpoint, tmp_path, capsys, monkeypatch):
    source = as_png(tmp_path, make_grey())
    monkeypatch.setattr(predict, "predict_scan", fails(MemoryError()))
    assert_refused(predict, checkpoint, tmp_path, capsys, source, words="too little memory. Lower --batch-size.")


def test_a_name_in_bytes_that_are_no_utf8(predict, checkpoint, tmp_path):
    source = as_png(tmp_path, make_grey()).rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    assert run(predict, checkpoint, tmp_path / "out", source) == 0
    assert os.listdir(os.fsencode(tmp_path / "out/masks")) == [b"caf\xe9.png"]
    assert table_of(tmp_path / "out")[0]["id"] == r"caf\udce9"


@pytest.mark.parametrize("shell", ["| head -c 1", ">&- 2>&-"])  # one of both: tests/test_exits.py
def test_output_that_nobody_reads_is_no_error(shell, checkpoint, tmp_path):
    source = as_png(tmp_path, make_grey())
    words = [sys.executable, str(SCRIPT), str(checkpoint), str(source), "--out", "predictions"]
    ascii = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(f"{shlex.join(words)} {shell}", shell=True, cwd=tmp_path, capture_output=True, env=ascii)
    assert done.returncode == 0 and done.stderr == b""
    assert files_in(tmp_path / "predictions") == ["masks/scan.png", "overlays/scan.png", "slices.csv"]


# ---- the command ------------------------------------------------------------------------------------------------


def test_the_command_works_as_the_help_says(checkpoint, tmp_path):
    source = as_png(tmp_path, make_grey())
    words = [sys.executable, str(SCRIPT), str(checkpoint), str(source), "--out", "predictions"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines()[-1] == "Look at predictions/overlays."
    assert np.array_equal(read_png(tmp_path / "predictions/masks/scan.png"), lesion_of(make_grey()))


def test_the_help_explains_inputs_outputs_and_flags(predict, capsys):
    with pytest.raises(SystemExit, match="0"):
        predict.main(["--help"])
    text = capsys.readouterr().out
    for word in ("CHECKPOINT", ".npz", "masks/", "slices.csv", "--threshold", "--probabilities", "--rows", "--overlap"):
        assert word in text
