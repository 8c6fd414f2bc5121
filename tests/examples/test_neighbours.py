"""Crops of slices, and neighbours as channels, from the training to the files of a prediction, with tiny sizes."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image

from lungseg.checkpoint import load_checkpoint, save_checkpoint
from lungseg.data.ct import hu_to_grey
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceDataset, SliceWriter
from lungseg.data.volumes import VolumeDataset, VolumeWriter
from lungseg.predictor import load_predictor

BOTH = ["--crop-size", "8", "--crops-per-slice", "2", "--neighbours", "1", "--augment", "full"]
TINY = ["--channels", "4", "8", "--batch-size", "4", "--epochs", "2", "--lr", "0.05", "--img-size", "16"]
SPLITS = ("train",) * 3 + ("val", "test")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Balls, as a folder of volumes and as one of slices whose manifest tells their order."""
    home = tmp_path_factory.mktemp("data")
    z, y, x = np.mgrid[:4, :14, :12]
    with VolumeWriter(home / "volumes") as volumes, SliceWriter(home / "slices") as slices:
        for i, split in enumerate(SPLITS):
            target = ((z - 2) ** 2 + (y - 4 - i) ** 2 + (x - 5) ** 2 < 7).astype(np.uint8)
            hu = (np.where(target, -100, -800) + np.random.default_rng(i).normal(0, 60, target.shape)).astype(np.int16)
            volumes.add(ImageRecord(f"v{i}", f"p{i}", split, spacing_mm=0.7), hu, target, (2.0, 0.7, 0.7))
            for k in range(4):
                record = ImageRecord(f"v{i}_{k}", f"p{i}", split, spacing_mm=0.7, series=f"v{i}", slice_index=k)
                slices.add(record, hu_to_grey(hu[k]), target[k])
    return home


@pytest.fixture(scope="module")
def train_unet(example):
    return example("train_unet")


@pytest.fixture(scope="module", params=["volumes", "slices"])
def run(request, train_unet, scans, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / request.param
    dice = train_unet.main(["--data", str(scans / request.param), "--out", str(out), *TINY, *BOTH])
    assert dice > 0.3  # otherwise maps without a lesion would be compared
    return request.param, out, dice


def test_a_run_with_both_flags_counts_volumes_or_whole_slices(run, scans, log_of):
    kind, out, dice = run
    _, *epochs, last = log_of(out)
    assert last["best epoch"]["images"] == (1 if kind == "volumes" else 4) and last["best epoch"]["dice"] == dice
    best = load_checkpoint(out / "best.pt")
    assert best["network"]["arguments"]["in_channels"] == 3 and best["input"]["neighbours"] == 1
    assert best["input"]["size"] == [8, 8] and best["input"]["whole_size"] == [14, 12]
    assert (out / "predictions.png").is_file()


def test_stopped_and_resumed_it_is_the_same_run(run, train_unet, tmp_path, monkeypatch, log_of, scans):
    kind, out, dice = run
    copy, once, calls = tmp_path / "copy", train_unet.train_one_epoch, []

    def stop_in_the_second(*args, **options):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return once(*args, **options)

    monkeypatch.setattr(train_unet, "train_one_epoch", stop_in_the_second)
    argv = ["--data", str(scans / kind), "--out", str(copy), *TINY, *BOTH]
    assert train_unet.main([*argv, "--num-workers", "1"]) == 130
    monkeypatch.setattr(train_unet, "train_one_epoch", once)
    assert train_unet.main(["--out", str(copy), "--resume", "--num-workers", "0"]) == dice
    assert log_of(copy) == log_of(out)
    one, two = (load_checkpoint(path / "last.pt")["model"] for path in (out, copy))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_evaluate_py_scores_what_the_run_has_scored(run, example, scans, tmp_path):
    kind, out, dice = run
    evaluate = example("evaluate")
    argv = [str(out / "best.pt"), "--data", str(scans / kind), "--out", str(tmp_path / "e"), "--device", "cpu"]
    assert evaluate.main([*argv, "--threshold", "0.5"]) == pytest.approx(dice, abs=1e-6)
    assert (tmp_path / "e/worst_median_best.png").is_file()
    assert "expects 1 slices" not in (tmp_path / "e/evaluation.md").read_text()


def test_predict_py_knows_the_neighbours_of_volumes_and_of_such_folders_and_warns_about_a_lone_slice(
    run, example, scans, tmp_path, capsys
):
    kind, out, _ = run
    predict = example("predict")
    inputs = {"volumes": "volumes/volumes/v4.npz", "slices": "slices", "lone": "slices/images/v4_1.png"}
    for name, path in inputs.items():
        argv = [str(out / "best.pt"), str(scans / path), "--out", str(tmp_path / name), "--device", "cpu"]
        assert predict.main([*argv, "--threshold", "0.5"]) == 0
        assert ("expects 1 slices below and above" in capsys.readouterr().err) == (name == "lone")
    whole = [np.array(Image.open(tmp_path / f"volumes/masks/v4/{k:03d}.png")) for k in range(4)]
    single = [np.array(Image.open(tmp_path / f"slices/masks/v4_{k}.png")) for k in range(4)]
    assert np.mean(np.equal(whole, single)) > 0.99  # but for HU rounded to 256 grey levels
    predictor = load_predictor(out / "best.pt")
    grey = VolumeDataset(scans / "volumes", "test")[0][0][0].numpy()
    mask = np.load(tmp_path / "volumes/volumes/v4.npz")["pred"]
    assert np.array_equal(mask, predictor.labels(predictor.probs(grey, (1.0, 1.0))))
    stack = SliceDataset(scans / "slices", "test", neighbours=1)[1][0].numpy()
    assert np.array_equal(single[1] > 0, predictor.probs(stack, (1.0, 1.0), is_stack=True) > 0.5)


def test_each_flag_makes_another_run(scans, train_unet, tmp_path, log_of):
    logs = []
    for i, flags in enumerate(([], ["--crop-size", "8"], ["--neighbours", "1"])):
        argv = ["--data", str(scans / "volumes"), "--out", str(tmp_path / str(i)), *TINY, "--epochs", "1"]
        train_unet.main([*argv, *flags])
        logs.append(log_of(tmp_path / str(i))[1]["train_loss"])
    assert len(set(logs)) == 3


def test_a_network_of_one_slice_starts_one_with_neighbours_that_says_the_same_of_equal_slices(
    scans, train_unet, tmp_path
):
    argv = ["--data", str(scans / "volumes"), *TINY, "--epochs", "1"]
    train_unet.main([*argv, "--out", str(tmp_path / "one")])
    still = ["--lr", "1e-12", "--weight-decay", "0", "--warmup-epochs", "0", "--neighbours", "1"]
    train_unet.main([*argv, *still, "--weights", str(tmp_path / "one/best.pt"), "--out", str(tmp_path / "three")])
    one, three = (load_checkpoint(tmp_path / name)["model"] for name in ("one/best.pt", "three/last.pt"))
    kernels = [next(m[k] for k in m if k.startswith("encoder.0") and m[k].dim() == 4) for m in (one, three)]
    assert kernels[1].shape[1] == 3 and torch.allclose(kernels[1].sum(1, keepdim=True), kernels[0], atol=1e-6)


def test_what_cannot_be_is_refused_in_one_sentence(train_unet, discs, tmp_path, capsys):
    for flags, words in (
        (["--neighbours", "1", "--data", str(discs)], "columns series and slice_index into manifest.csv"),
        (["--neighbours", "1"], "--neighbours needs --data"),
        (["--neighbours", "1", "--recipe", "volumes"], "--neighbours is for 2-D networks"),
        (["--crop-size", "8", "8", "--data", str(discs)], "three sides: slices, rows and columns; or, for slices, one"),
    ):
        with pytest.raises(SystemExit) if "--recipe" in flags or "8" in flags else nullcontext():
            assert train_unet.main([*flags, "--out", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1


def test_a_slices_run_of_an_older_version_still_trains_on_whole_slices(scans, train_unet, tmp_path, log_of):
    """Its crop has three sides, the default for volumes, and none of the fields that were added since."""
    out, argv = tmp_path / "run", ["--data", str(scans / "slices"), *TINY]
    dice = train_unet.main([*argv, "--out", str(out)])
    state = load_checkpoint(out / "last.prev.pt")
    assert state["recipe"]["crop_size"] == (16, 32, 32) and "neighbours" not in state["input"]
    for part in ("recipe", "run"):
        for name in ("crops_per_slice", "neighbours"):
            del state[part][name]
    before = log_of(out)
    save_checkpoint(out / "last.pt", state)
    assert train_unet.main(["--out", str(out), "--resume"]) == dice and log_of(out) == before
