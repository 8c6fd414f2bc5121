"""From a checkpoint and a folder to a table: what a user types, what is written, and what is refused."""

import csv
import importlib.util
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lungseg import predictor, trained_network
from lungseg.checkpoint import InputSpec, load_checkpoint, save_checkpoint
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceWriter
from lungseg.data.volumes import VolumeWriter
from lungseg.decision import Decision
from lungseg.evaluation.baselines import fixed_map
from lungseg.evaluation.choosing import Choice
from lungseg.nn.unet import UNet
from lungseg.predictor import Predictor

SCRIPT = Path(__file__).resolve().parents[2] / "examples/evaluate.py"
spec = importlib.util.spec_from_file_location("evaluate", SCRIPT)
evaluate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(evaluate)
main = evaluate.main

FILES = ["evaluation.csv", "evaluation.md", "slices.csv", "worst_median_best.png"]
SIDE = 24
SPLITS = ("train",) * 4 + ("val",) * 2 + ("test",) * 4


def disc(number, dims):
    """A lesion of radius 3 to 6 pixels somewhere, and an image where it is bright, with a bright stripe next to it."""
    rng = np.random.default_rng(number)
    axes = np.meshgrid(*[np.arange(SIDE)] * dims, indexing="ij")
    centre, radius = rng.integers(8, 16, dims), 3 + number % 4
    target = (sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) <= radius**2).astype(np.uint8)
    bright = target.copy()
    bright[..., :2] = 1  # the chest wall: one detection that is no lesion
    return bright, target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Slices of 1 mm pixels, two to a patient; the last one has no lesion, and nothing bright."""
    path = tmp_path_factory.mktemp("data") / "discs"
    with SliceWriter(path) as out:
        for i, split in enumerate(SPLITS):
            bright, target = disc(i, 2) if i < len(SPLITS) - 1 else np.zeros((2, SIDE, SIDE), np.uint8)
            label, image = "LR3" if target.any() else "none", 50 + 150 * bright
            image[0, 2:] = 30  # no image is the same everywhere
            out.add(ImageRecord(f"slice{i}", f"patient{i // 2}", split, label, 1.0), image, target)
    return path


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "balls"
    with VolumeWriter(path) as out:
        for i, split in enumerate(SPLITS):
            bright, target = disc(i, 3)
            hu = (-800 + 1000 * bright.astype(np.int16)).astype(np.int16)
            out.add(ImageRecord(f"volume{i}", f"patient{i}", split), hu, target, (1.0, 1.0, 1.0))
    return path


class Bright(torch.nn.Module):
    """Lesion is what is brighter than the middle of the window."""

    def forward(self, image):
        return 20 * (image - 0.5)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Whole scans of ten patients: in each a lung, a lesion in it, and as bright a spot in the wall and in the lung."""
    path = tmp_path_factory.mktemp("data") / "scans"
    with VolumeWriter(path) as out:
        for i in range(12):
            hu = np.full((4, 60, 60), -300, np.int16)
            hu[:, 15:45, 15:45] = -850
            target = np.zeros(hu.shape, np.uint8)
            target[:, 20:26, 20 + i : 26 + i] = 1
            hu[(target > 0) & (i != 11)] = 200  # the network misses one
            hu[1:3, 5:9, 5:9] = hu[1, 40, 40] = 150
            record = ImageRecord(f"scan{i}", f"patient{i}", "test" if i > 1 else ("train", "val")[i])
            out.add(record, hu, target, (2.0, 2.0, 2.0))
    return path


@pytest.fixture
def bright(monkeypatch):
    """In place of the network of a checkpoint, so that its scores are known."""

    def use(**changes):
        size = changes.pop("size", [SIDE, SIDE])
        about = {"size": size, "scale": [1.0] * len(size), "hu_window": [-1000.0, 400.0], "spacing_mm": 1.0}
        network = Predictor(Bright(), InputSpec.from_dict(about | changes))
        monkeypatch.setattr(evaluate, "load_predictor", lambda *args, **kwargs: network)

    use()
    return use


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network that has learned nothing, for slices of half the size of the files."""
    torch.manual_seed(0)
    arguments = {"channels": (4, 8)}
    about = {"size": [12, 12], "scale": [0.5, 0.5], "hu_window": [-1000.0, 400.0], "spacing_mm": None}
    path = tmp_path_factory.mktemp("run") / "best.pt"
    network = {"name": "UNet", "arguments": arguments}
    save_checkpoint(path, {"network": network, "input": about, "model": UNet(**arguments).state_dict()})
    return path


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---- what is written ----------------------------------------------------------------------------------------


def test_a_checkpoint_is_evaluated_in_the_pixels_of_the_files(checkpoint, folder, capsys):
    dice = main([str(checkpoint), "--data", str(folder)])
    out = checkpoint.parent / "evaluation_test"
    printed = capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == FILES
    assert printed.startswith((out / "evaluation.md").read_text()) and printed.endswith(f"Written to {out}.\n")
    rows = table(out / "slices.csv")
    assert [row["id"] for row in rows] == ["slice6", "slice7", "slice8", "slice9"]
    assert {sum(int(row[name]) for name in ("tp", "fp", "fn", "tn")) for row in rows} == {SIDE**2}
    assert isinstance(dice, float) and f"{dice:.6g}" == table(out / "evaluation.csv")[0]["dice"]
    with Image.open(out / "worst_median_best.png") as picture:
        assert min(picture.size) > 3 * 192
    assert [p.name for p in sorted(checkpoint.parent.iterdir())] == ["best.pt", "evaluation_test"]


def test_the_numbers_are_those_of_a_network_that_sees_what_is_bright(bright, folder, tmp_path):
    dice = main(["any.pt", "--data", str(folder), "--out", str(tmp_path / "out")])
    want = []
    for i in (6, 7, 8):  # slice9 is rightly silent, and has no Dice
        seen, target = disc(i, 2)
        want.append(2 * (seen * target).sum() / (seen.sum() + target.sum()))
    assert dice == pytest.approx(np.mean(want))
    rows = {row["stratum"]: row for row in table(tmp_path / "out/evaluation.csv") if row["method"] == "Bright"}
    assert list(rows) == ["all", "5-10 mm", "10-20 mm", "no lesion", "label LR3", "label none"]
    everything = rows["all"]
    assert (everything["slices"], everything["patients"], everything["lesions"]) == ("4", "2", "3")
    assert everything["lesion_recall"] == "1" and everything["false_positives_per_slice"] == "0.75"
    assert everything["recall"] == "1" and everything["empty_targets"] == "1" and everything["false_alarms"] == "0"


def test_baselines_are_shown_next_to_the_network(bright, folder, tmp_path):
    main(["any.pt", "--data", str(folder), "--out", str(tmp_path / "out")])
    rows = {row["method"]: row for row in table(tmp_path / "out/evaluation.csv") if row["stratum"] == "all"}
    assert list(rows) == ["Bright", "all background", "best grey threshold", "best fixed map"]
    assert rows["best grey threshold"]["dice"] == rows["Bright"]["dice"]  # it is one
    assert float(rows["all background"]["dice"]) == 0 and rows["all background"]["precision"] == ""
    fixed = fixed_map([(None, torch.from_numpy(disc(i, 2)[1])[None], i) for i in range(4)])[0].numpy()  # of train
    targets = [disc(i, 2)[1] for i in (6, 7, 8)]
    dice = [2 * (fixed & (t > 0)).sum() / (fixed.sum() + t.sum()) for t in targets]
    assert float(rows["best fixed map"]["dice"]) == pytest.approx(sum(dice) / 4, rel=1e-5)  # a false alarm in slice9
    share = np.mean([disc(i, 2)[1] for i in (6, 7, 8)]) * 3 / 4
    text = (tmp_path / "out/evaluation.md").read_text()
    assert f"lesions cover {share:.2%} of these pixels" in text
    assert f"= {np.sqrt(share):.4f}; the network has {float(rows['Bright']['pooled_rmse']):.4f}." in text
    assert float(rows["all background"]["pooled_rmse"]) == pytest.approx(np.sqrt(share), rel=1e-5)


def test_volumes_are_evaluated_whole_by_a_network_for_slices_and_one_for_volumes(bright, volumes, tmp_path):
    dice = []
    for size in ([SIDE, SIDE], [SIDE, SIDE, SIDE]):
        bright(size=size)
        out = tmp_path / str(len(size))
        dice.append(main(["any.pt", "--data", str(volumes), "--out", str(out)]))
        rows = table(out / "evaluation.csv")
        assert {row["method"] for row in rows} == {
            "Bright", "all background", "best grey threshold", "best fixed map"
        }  # fmt: skip
        bright_rows = [row for row in rows if row["method"] in ("Bright", "best grey threshold")]
        assert len({row["dice"] for row in bright_rows if row["stratum"] == "all"}) == 1  # it is one
        assert (rows[0]["slices"], rows[0]["lesions_found"], rows[0]["false_positives"]) == ("4", "4", "4")
        assert sorted(p.name for p in out.iterdir()) == FILES
    assert dice[0] == pytest.approx(dice[1]) and dice[0] > 0.1


# ---- what it says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        ("test", None),
        ("val", "These slices were used to choose the epoch"),
        ("train", "The network was trained on these slices"),
    ],
)
def test_scores_that_flatter_are_called_so(bright, folder, tmp_path, split, sentence):
    main(["any.pt", "--data", str(folder), "--split", split, "--out", str(tmp_path / "out")])
    text = (tmp_path / "out/evaluation.md").read_text()
    assert ("so the scores are too high" in text) == (sentence is not None) and (sentence or "") in text


def test_pixels_of_another_size_than_in_the_training_are_resampled_and_remarked(bright, folder, tmp_path):
    bright(spacing_mm=0.5)
    main(["any.pt", "--data", str(folder), "--out", str(tmp_path / "out")])
    sentence = "4 of 4 may differ in pixel size from the training. slice6: a pixel is 1 x 1 mm, and was 0.5 x 0.5 mm"
    assert f"{sentence} in the training: resampled" in (tmp_path / "out/evaluation.md").read_text()


def test_pixels_of_an_unknown_scale_are_remarked(bright, folder, tmp_path):
    bright(size=[12, 12], spacing_mm=None)
    main(["any.pt", "--data", str(folder), "--out", str(tmp_path / "out")])
    sentence = "4 of 4 may differ in pixel size from the training. slice6: its 24 x 24 pixels are treated as pixels"
    assert sentence in (tmp_path / "out/evaluation.md").read_text()


def test_slices_and_volumes_are_shown_at_the_scale_of_the_training(volumes, folder, tmp_path, monkeypatch):
    """Trained on files of half the size of their sources; these are sources, by their kind and by their manifest."""
    about = {"size": [30, 30], "scale": [1.0, 1.0], "source_scale": [0.5, 0.5], "hu_window": [-1000.0, 400.0]}
    shutil.copytree(folder, tmp_path / "data")
    manifest = (tmp_path / "data/manifest.csv").read_text()
    assert ",8,,\n" in manifest  # bits, and no size of a source
    (tmp_path / "data/manifest.csv").write_text(manifest.replace(",8,,\n", f",8,{SIDE},{SIDE}\n"))
    for data in (volumes, tmp_path / "data"):
        network = Bright()
        seen = []
        network.register_forward_hook(lambda _, images, __, seen=seen: seen.append(tuple(images[0].shape[2:])))
        predictor = Predictor(network, InputSpec.from_dict(about | {"spacing_mm": None}))
        monkeypatch.setattr(evaluate, "load_predictor", lambda *args, p=predictor, **kwargs: p)
        main(["any.pt", "--data", str(data), "--out", str(tmp_path / f"out{data.name}")])
        assert set(seen) == {(SIDE // 2, SIDE // 2)}


@pytest.mark.parametrize(
    ("size", "flags", "positives"),
    [
        ([SIDE, SIDE], [], 2),
        ([SIDE, SIDE], ["--lungs"], 1),
        ([4, SIDE, SIDE], ["--min-diameter-mm", "5"], 1),
        ([4, SIDE, SIDE], ["--lungs", "--min-diameter-mm", "5"], 0),
    ],
)
def test_whole_scans_have_a_froc_curve_of_their_candidates(size, flags, positives, bright, scans, tmp_path, capsys):
    bright(size=size, spacing_mm=2.0 if len(size) == 2 else [2.0, 2.0, 2.0])
    main(["best.pt", "--data", str(scans), "--out", str(tmp_path / "out"), "--froc", "--device", "cpu", *flags])
    rows = table(tmp_path / "out/froc.csv")
    assert [row["fp_per_scan"] for row in rows] == ["0.125", "0.25", "0.5", "1", "2", "4", "8", "mean"]
    assert [float(row["sensitivity"]) for row in rows] == pytest.approx([0.9] * 8)  # lesions score higher
    assert 0 < float(rows[0]["sensitivity_low"]) < 0.9 < float(rows[0]["sensitivity_high"]) <= 1
    report = capsys.readouterr().out
    assert f"9 of 10 lesions found, {positives:.2f} FP per scan" in report and "cannot show" not in report
    (everything, *_) = table(tmp_path / "out/evaluation.csv")
    assert int(everything["false_positives"]) == 10 * positives  # the other scores are of the same candidates
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*FILES, "froc.csv", "froc.png"])


@pytest.mark.parametrize("without", ["all", "one"])
def test_without_a_spacing_sizes_and_distances_are_in_pixels_and_said_to_be(bright, folder, tmp_path, without):
    shutil.copytree(folder, tmp_path / "data")
    manifest = tmp_path / "data/manifest.csv"
    text = manifest.read_text()
    manifest.write_text(re.sub(r"(slice9.*?),1,", r"\1,,", text) if without == "one" else text.replace(",1,", ",,"))
    main(["any.pt", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out/evaluation.md").read_text()
    assert "| HD95 px |" in text and "HD95 mm" not in text and "| 7-14 px |" in text and "-10 mm" not in text
    why = "The spacing is unknown" if without == "all" else "The spacing of 1 of 4 images is unknown"
    assert f"{why}, so all sizes and distances are in pixels (px)" in text
    in_mm = tmp_path / "mm"
    main(["any.pt", "--data", str(folder), "--out", str(in_mm)])  # its pixels are 1 mm
    assert "HD95 px" not in (in_mm / "evaluation.md").read_text()
    for px, mm in zip(table(tmp_path / "out/slices.csv"), table(in_mm / "slices.csv"), strict=True):
        for name in ("hd95", "diameter"):
            assert px[f"{name}_px"] == mm[f"{name}_mm"] and px[f"{name}_mm"] == mm[f"{name}_px"] == ""


def test_without_any_lesion_nothing_is_said_of_their_share(bright, tmp_path):
    with SliceWriter(tmp_path / "data") as out:
        for i, split in enumerate(("train", "test")):
            image = np.random.default_rng(i).integers(30, 80, (SIDE, SIDE), dtype=np.uint8)
            out.add(ImageRecord(f"s{i}", f"p{i}", split), image, np.zeros((SIDE, SIDE)))
    with pytest.warns(UserWarning, match="no mask holds a lesion"):
        main(["any.pt", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    assert "RMSE says little" not in (tmp_path / "out/evaluation.md").read_text()


def test_files_in_another_hu_window_are_brought_to_that_of_the_network(bright, folder, tmp_path):
    bright(hu_window=[-1000.0, 1800.0])  # its middle is the white of the files: nothing is brighter
    assert main(["any.pt", "--data", str(folder), "--out", str(tmp_path / "out")]) == 0.0


def test_the_threshold_is_a_probability(bright, folder, tmp_path):
    args = ["any.pt", "--data", str(folder), "--out"]
    low = main(
        [*args, str(tmp_path / "low"), "--threshold", "0.001"]
    )  # the dark too is lesion: 20 * (50 / 255 - 0.5) = -6.1
    assert 0 < low < main([*args, str(tmp_path / "middle")])


def test_slices_of_several_sizes_have_no_fixed_map(bright, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    for kind in ("images", "masks"):
        path = tmp_path / f"data/{kind}/slice1.png"
        Image.open(path).crop((0, 0, 20, 24)).save(path)
    main(["any.pt", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out/evaluation.md").read_text()
    assert "No best fixed map, which needs images of the same size: image slice1 is 24 x 20 pixels" in text
    assert "| best grey threshold |" in text and "| best fixed map |" not in text


def test_a_folder_without_training_slices_is_evaluated_with_what_is_there(bright, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    manifest = tmp_path / "data/manifest.csv"
    manifest.write_text(re.sub(r",train,", ",val,", manifest.read_text()))
    main(["any.pt", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out/evaluation.md").read_text()
    assert "No other baseline: " in text and "has no slice in the split 'train'" in text
    assert "| all background |" in text and "| best grey threshold |" not in text


# ---- a decision ---------------------------------------------------------------------------------------------


@pytest.fixture
def decided(bright, monkeypatch):
    """The bright network, with a decision in its checkpoint: above 0.9, and at least 60 pixels."""
    network = evaluate.load_predictor()
    network.decision = Decision(0.9, 60)  # the stripe at the edge has 48, lesions 29 to 113
    monkeypatch.setattr(evaluate, "load_predictor", lambda *args, **kwargs: network)
    return network


def test_the_decision_of_the_checkpoint_is_used_and_one_half_stands_beside_it(decided, folder, tmp_path):
    passes = []
    decided.network.register_forward_hook(lambda *_: passes.append(1))
    chosen = main(["any.pt", "--data", str(folder), "--out", str(tmp_path / "out")])
    assert len(passes) == 4 + 3  # each image once, and three pictures
    half = main(["any.pt", "--data", str(folder), "--out", str(tmp_path / "half"), "--threshold", "0.5"])
    rows = {row["method"]: row for row in table(tmp_path / "out/evaluation.csv") if row["stratum"] == "all"}
    assert list(rows)[:2] == ["Bright", "Bright, above 0.5"]
    plain = {row["method"]: row for row in table(tmp_path / "half/evaluation.csv") if row["stratum"] == "all"}
    assert list(plain)[:2] == ["Bright", "all background"]
    assert chosen != half and float(rows["Bright"]["dice"]) == pytest.approx(chosen)
    assert {**rows["Bright, above 0.5"], "method": ""} == {**plain["Bright"], "method": ""}
    want = []
    for i in (6, 7, 8):
        target = disc(i, 2)[1]
        want.append(float(target.sum() >= 60))
    assert chosen == pytest.approx(np.mean(want)) and 0 < sum(want) < 3
    text = (tmp_path / "out/evaluation.md").read_text()
    assert "Lesion is where the probability is above 0.9, in components of at least 60 pixels." in text


def test_a_decision_can_be_chosen_for_any_checkpoints(bright, folder, tmp_path, monkeypatch):
    asked = []
    choice = Choice(Decision(0.9, 60), 0.8, 0.7)  # tests/test_folder_prediction.py chooses
    monkeypatch.setattr(evaluate, "choose_decision", lambda _, folder: asked.append(folder) or choice)
    main(["any.pt", "--data", str(folder), "--out", str(tmp_path / "out"), "--choose"])
    text = (tmp_path / "out/evaluation.md").read_text()
    assert asked == [folder] and "| Bright, above 0.5 |" in text
    assert "Lesion is where the probability is above 0.9, in components of at least 60 pixels." in text
    said = "Chosen on validation (--choose), where the mean Dice with it is 0.8000, and 0.7000 above 0.5: "
    assert f"{said}--threshold 0.9 --min-pixels 60." in text


def test_checkpoints_and_variations_reach_the_predictor(folder, tmp_path, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(
        evaluate, "load_predictor", lambda *a, **options: given.append((a, options)) or fails(KeyboardInterrupt)()
    )
    argv = [str(tmp_path / "a.pt"), "b.pt", "--data", str(folder), "--tta", "turns"]
    assert main(argv) == 130
    ((paths, _), options) = given[0]
    assert paths == [tmp_path / "a.pt", Path("b.pt")] and options["tta"] == "turns"
    assert f"{tmp_path / 'evaluation_test'} was not written" in capsys.readouterr().err  # next to the first


# ---- what is refused ---------------------------------------------------------------------------------------


def refused(capsys, argv, sentence, out):
    """Exit code 2, one sentence, and nothing written."""
    try:
        assert main(argv) == 2
    except SystemExit as end:  # of argparse
        assert end.code == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"evaluate\.py: [^\n]+\n", error) and sentence in error
    assert not out.exists() and not list(out.parent.glob(".*partial*"))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--threshold", "1"], "--threshold must be between 0 and 1, got 1.0"),
        (["--min-pixels", "-1"], "--min-pixels must be at least 0, got -1"),
        (["--choose", "--min-pixels", "4"], "Give the one or the other"),
        (["--tta", "all"], "invalid choice: 'all'"),
        (["--overlap", "1"], "--overlap must be at least 0 and below 1"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--split", "holdout"], "invalid choice: 'holdout'"),
        (["--thresh", "0.4"], "unrecognized arguments"),
        (["--data", ""], "the path is empty"),
        (["--froc"], "--froc is for volumes that are whole scans, and"),
        (["--min-diameter-mm", "nan"], "--min-diameter-mm must be a number of at least 0, got nan"),
        (["--lungs"], "slice6: --lungs and --min-diameter-mm are for volumes, and this is a slice"),
    ],
)
def test_bad_flags_are_refused(checkpoint, folder, tmp_path, capsys, flags, sentence):
    out = tmp_path / "out"
    refused(capsys, [str(checkpoint), "--data", str(folder), "--out", str(out), *flags], sentence, out)


def test_a_folder_that_holds_something_is_left_alone(checkpoint, folder, tmp_path, capsys):
    (tmp_path / "note.txt").write_text("mine")
    assert main([str(checkpoint), "--data", str(folder), "--out", str(tmp_path)]) == 2
    assert "is not empty. Choose another folder with --out." in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_bad_input_ends_in_one_sentence_that_names_it(checkpoint, folder, volumes, tmp_path, capsys, bright):
    out = tmp_path / "out"
    to = ["--out", str(out), "--data"]
    refused(capsys, ["any.pt", *to, str(tmp_path / "nowhere")], "nowhere does not exist.", out)
    shutil.copytree(folder, tmp_path / "data")
    mask = tmp_path / "data/masks/slice8.png"
    mask.write_bytes(mask.read_bytes()[:-20])
    refused(capsys, ["any.pt", *to, str(tmp_path / "data")], "slice8.png is damaged or cut short", out)
    bright(size=[SIDE] * 3)
    refused(capsys, ["any.pt", *to, str(folder)], "slice6: the network was trained on volumes", out)


def hardly_meant(kind, folder, odd, out):
    """A folder of slices or volumes of which `odd` are not what they should be."""
    with kind(folder) as writer:
        for i, split in enumerate(SPLITS):
            bright, target = disc(i, 2 if kind is SliceWriter else 3)
            noise = np.random.default_rng(i).integers(0, 50, bright.shape)
            record = ImageRecord(f"s{i}", f"p{i}", split, spacing_mm=1.0)
            if kind is SliceWriter:
                writer.add(record, (50 + 100 * bright + noise).astype(np.uint8), target ^ (i in odd))
            else:
                hu = (-800 + 1000 * bright.astype(int) + noise).astype(np.int16)
                writer.add(record, hu, target ^ (i in odd), (1.0, 1.0, 1.0))
    return ["any.pt", "--data", str(folder), "--out", str(out)]


@pytest.mark.parametrize("kind", [SliceWriter, VolumeWriter])
def test_what_a_training_would_refuse_is_not_evaluated(kind, bright, tmp_path, capsys):
    """Exchanged masks are found all over the folder, and a network that calls everything lesion has a Dice of 0.9."""
    argv = hardly_meant(kind, tmp_path / "data", range(len(SPLITS)), tmp_path / "out")
    refused(capsys, argv, "10 of 10 ", tmp_path / "out")
    assert main(argv) == 2 and "lesion and background look swapped" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [SliceWriter, VolumeWriter])
def test_what_a_training_would_warn_of_is_evaluated_with_a_warning(kind, bright, tmp_path):
    argv = hardly_meant(kind, tmp_path / "data", [7], tmp_path / "out")
    with pytest.warns(UserWarning, match="1 of 10 .*, such as s7: lesion and background look swapped"):
        assert isinstance(main(argv), float)


def test_raw_ct_is_not_evaluated(bright, tmp_path, capsys):
    (tmp_path / "data/volumes").mkdir(parents=True)
    (tmp_path / "data/manifest.csv").write_text("id,group,split\na,a,test\n")
    bright_, target = disc(0, 3)
    hu = (200 + 1000 * bright_.astype(np.int16)).astype(np.int16)  # stored values: the intercept was not applied
    np.savez(tmp_path / "data/volumes/a.npz", hu=hu, target=target)
    argv = ["any.pt", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    refused(capsys, argv, "Apply the rescale slope and intercept", tmp_path / "out")


def test_a_bad_checkpoint_ends_in_one_sentence(folder, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--data", str(folder), "--out", str(out)]
    refused(capsys, [str(tmp_path / "no.pt"), *flags], "no.pt cannot be read", out)
    (tmp_path / "text.pt").write_text("hello")
    refused(capsys, [str(tmp_path / "text.pt"), *flags], "text.pt is not a checkpoint of lungseg", out)


def fails(error):
    def work(*args, **kwargs):
        raise error

    return work


def test_an_error_while_writing_leaves_nothing(bright, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "write_csv", fails(OSError(28, "No space left on device")))
    out = tmp_path / "out"
    refused(capsys, ["any.pt", "--data", str(folder), "--out", str(out)], "No space left on device", out)


def test_a_network_of_a_fold_is_not_validated_on_patients_it_was_trained_on(checkpoint, folder, tmp_path, capsys):
    of_fold, out = tmp_path / "fold.pt", tmp_path / "out"
    save_checkpoint(of_fold, load_checkpoint(checkpoint) | {"recipe": {"folds": 5, "fold": 2}})
    argv = [str(of_fold), "--data", str(folder), "--out", str(out)]
    for flags in (["--split", "val"], ["--choose"]):
        refused(capsys, [*argv, *flags], "fold.pt was trained with --folds 5 --fold 2", out)
    assert isinstance(main(argv), float)


def test_a_checkpoint_is_read_once(checkpoint, folder, tmp_path, monkeypatch):
    read = []
    for module in (predictor, trained_network):
        monkeypatch.setattr(module, "load_checkpoint", lambda path: read.append(path) or load_checkpoint(path))
    assert not hasattr(evaluate, "load_checkpoint")
    flags = ["--data", str(folder), "--out", str(tmp_path / "out"), "--split", "val", "--choose"]
    assert isinstance(main([str(checkpoint), *flags]), float) and read == [checkpoint]


def test_wrong_votes_are_refused_before_the_first_prediction(scans, tmp_path, capsys, bright, monkeypatch):
    shutil.copytree(scans, tmp_path / "data")
    path = tmp_path / "data/volumes/scan11.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays, votes=np.zeros((1, 2, 3), np.uint8))
    monkeypatch.setattr(evaluate, "predict_probs", fails(AssertionError()))
    flags = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--froc"]
    refused(capsys, ["any.pt", *flags], "scan11.npz: votes of shape (1, 2, 3), expected", tmp_path / "out")


def test_a_picture_that_fails_loses_no_score(bright, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "draw_three_predictions", fails(MemoryError()))
    with pytest.warns(UserWarning, match="^worst_median_best.png was not drawn"):
        assert main(["any.pt", "--data", str(folder), "--out", str(tmp_path / "out")]) > 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES[:-1]
    assert capsys.readouterr().out.endswith(f"Written to {tmp_path / 'out'}.\n")


@pytest.mark.parametrize(("where", "words"), [
    ("score_all", "out was not written."), ("draw_three_predictions", "out holds the scores, but no picture."),
])  # fmt: skip
def test_ctrl_c_says_what_there_is(bright, folder, tmp_path, capsys, monkeypatch, where, words):
    monkeypatch.setattr(evaluate, where, fails(KeyboardInterrupt()))
    assert main(["any.pt", "--data", str(folder), "--out", str(tmp_path / "out")]) == 130
    said = capsys.readouterr().err
    assert said.startswith("evaluate.py: stopped. ") and said.endswith(f"{words}\n") and said.count("\n") == 1


def test_too_little_memory_is_one_sentence(bright, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "score_all", fails(RuntimeError("DefaultCPUAllocator: can't allocate memory")))
    out = tmp_path / "out"
    refused(capsys, ["any.pt", "--data", str(folder), "--out", str(out)], "Lower --batch-size.", out)


def test_a_path_and_ids_in_bytes_that_are_no_utf8(bright, folder, tmp_path):
    odd = tmp_path / os.fsdecode(b"d\xe9")  # Latin-1
    shutil.copytree(folder, odd)
    (odd / "manifest.csv").unlink()  # so that ids are names of files
    for kind in ("images", "masks"):
        for n in range(4):
            (odd / kind / f"slice{n}.png").rename(odd / kind / os.fsdecode(b"\xe9%d.png" % n))
    with pytest.warns(UserWarning, match="leakage"):
        main(["any.pt", "--data", str(odd), "--out", str(tmp_path / "out")])
    assert "data" in (tmp_path / "out/evaluation.md").read_text("utf-8")
    assert table(tmp_path / "out/slices.csv")


def test_the_picture_of_a_volume_does_not_keep_the_volume(bright, volumes, tmp_path, monkeypatch):
    """Three large ones at once would not fit into memory; a slice that is a view keeps all of its volume."""
    shown = []
    monkeypatch.setattr(evaluate, "prediction_sheet", lambda rows, **_: shown.extend(rows) or Image.new("L", (1, 1)))
    main(["any.pt", "--data", str(volumes), "--out", str(tmp_path / "out")])
    assert len(shown) == 3
    for _, *pictures in shown:
        assert all(p.shape == (SIDE, SIDE) and p.base is None for p in pictures)
