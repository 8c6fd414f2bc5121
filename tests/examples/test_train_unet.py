"""The training of a U-Net, with tiny sizes, on slices and on volumes."""

import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lungseg.checkpoint import load_checkpoint
from lungseg.data.manifest import ImageRecord, read_manifest, write_manifest
from lungseg.data.slices import SliceDataset
from lungseg.data.volumes import VolumeDataset, VolumeWriter
from lungseg.evaluation.scores import score_all, scores_per_image
from lungseg.nn.unet import UNet
from lungseg.predictor import load_predictor

TINY = ["--img-size", "16", "--channels", "4", "8", "--batch-size", "4", "--epochs", "2", "--lr", "0.01"]
SOLID = [
    "--recipe", "volumes", "--channels", "4", "8", "--phantom-volumes", "4", "--phantom-shape", "6", "20", "24",
    "--crop-size", "4", "16", "16", "--crops-per-volume", "3", "--batch-size", "2", "--epochs", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def train_unet(example):
    return example("train_unet")


@pytest.fixture(scope="module")
def reference(train_unet, discs, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "reference"
    return out, train_unet.main(["--data", str(discs), "--out", str(out), *TINY])


@pytest.fixture(scope="module")
def solid(train_unet, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "solid"
    return out, train_unet.main(["--out", str(out), *SOLID])


@pytest.mark.parametrize("kind", ["reference", "solid"])
def test_the_best_network_can_be_built_from_its_file_alone(request, kind):
    out, dice = request.getfixturevalue(kind)
    assert 0 <= dice <= 1
    best = load_checkpoint(out / "best.pt")
    network = UNet(**best["network"]["arguments"])
    network.load_state_dict(best["model"])
    assert len(best["input"]["size"]) == network.spatial_dims == (2 if kind == "reference" else 3)
    for name in ("curves.png", "predictions.png", "recipe.json", "last.pt"):
        assert (out / name).is_file()


@pytest.mark.parametrize("kind", ["reference", "solid"])
def test_stopped_and_resumed_it_is_the_same_run(request, kind, train_unet, tmp_path, monkeypatch, log_of):
    out, dice = request.getfixturevalue(kind)
    whole = load_checkpoint(out / "last.pt")
    copy, once = tmp_path / "copy", train_unet.train_one_epoch
    if kind == "solid":  # its phantoms are in its folder
        copy.mkdir()
        shutil.copytree(next(out.glob("phantoms*")), copy / next(out.glob("phantoms*")).name)
    argv = ["--out", str(copy), *(SOLID if kind == "solid" else [*TINY, "--data", whole["data"]])]
    calls = []

    def then_interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return once(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(train_unet, "train_one_epoch", then_interrupted)
        assert train_unet.main(argv) == 130
    assert train_unet.main(["--out", str(copy), "--resume"]) == dice
    assert log_of(copy)[1:] == log_of(out)[1:]
    again = load_checkpoint(copy / "last.pt")
    assert all(torch.equal(again["model"][name], tensor) for name, tensor in whole["model"].items())


@pytest.mark.parametrize("kind", ["reference", "solid"])
def test_ones_own_weights_are_a_start(request, kind, train_unet, discs, tmp_path, starts_from, capsys):
    """From slices of 16 pixels to slices of 32, and from volumes to volumes."""
    argv = SOLID if kind == "solid" else [*TINY, "--data", str(discs), "--img-size", "32"]
    starts_from(train_unet.main, argv, request.getfixturevalue(kind)[0] / "best.pt", tmp_path / "run")
    assert "lungseg: " in capsys.readouterr().out


def test_weights_of_another_size_are_refused_with_the_flags_to_give(reference, train_unet, discs, tmp_path, capsys):
    argv = ["--data", str(discs), "--weights", str(reference[0] / "best.pt"), "--out", str(tmp_path / "run")]
    assert train_unet.main(argv) == 2
    error = capsys.readouterr().err
    assert "with channels (4, 8), and this one has channels (16, 32, 64, 128). Give --channels 4 8" in error
    assert error.startswith("train_unet.py: ") and error.count("\n") == 1 and not (tmp_path / "run").exists()


FROZEN = ["--freeze-encoder", "2", "--epochs", "4"]
AVERAGED = ["--freeze-encoder", "1", "--epochs", "3", "--ema", "0.9"]
WAYS = [(["--amp", "bf16"], [2]), (FROZEN, [2, 3, 4]), (AVERAGED, [2, 3])]


@pytest.mark.parametrize(("flags", "stops"), WAYS, ids=["bf16", "frozen", "averaged"])
def test_half_precision_a_frozen_encoder_and_averaged_weights_are_resumed_bit_by_bit(
    reference, train_unet, discs, tmp_path, monkeypatch, log_of, flags, stops
):
    """Stopped while it is frozen, at its first epoch of learning, and after that."""
    argv = ["--data", str(discs), *TINY, "--weights", str(reference[0] / "best.pt"), *flags]
    dice, once = train_unet.main([*argv, "--out", str(tmp_path / "whole")]), train_unet.train_one_epoch
    whole = load_checkpoint(tmp_path / "whole/last.pt")
    for stop in stops:
        out, calls = tmp_path / str(stop), []

        def then_interrupted(*args, calls=calls, stop=stop, **kwargs):
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return once(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(train_unet, "train_one_epoch", then_interrupted)
            assert train_unet.main([*argv, "--out", str(out)]) == 130
        assert train_unet.main(["--out", str(out), "--resume"]) == dice
        assert log_of(out)[1:] == log_of(tmp_path / "whole")[1:]
        again = load_checkpoint(out / "last.pt")
        assert all(torch.equal(again["model"][name], tensor) for name, tensor in whole["model"].items())
        if "--ema" in flags:
            assert again["ema"]["steps"] == whole["ema"]["steps"] == 9  # 3 of each epoch
            average = whole["ema"]["weights"]
            assert all(torch.equal(again["ema"]["weights"][name], tensor) for name, tensor in average.items())
    if "bf16" in flags:
        plain = [*argv, "--amp", "none", "--out", str(tmp_path / "plain")]
        assert train_unet.main(plain) >= 0 and log_of(tmp_path / "plain")[1:] != log_of(tmp_path / "whole")[1:]


def test_what_is_validated_saved_as_best_and_tested_are_the_averaged_weights(train_unet, discs, tmp_path, log_of):
    out, flags = tmp_path / "run", [*TINY, "--ema", "0.6", "--epochs", "1"]
    dice = train_unet.main(["--data", str(discs), "--out", str(out), *flags])
    best, last = load_checkpoint(out / "best.pt"), load_checkpoint(out / "last.pt")
    assert "ema" not in best
    for name, tensor in last["ema"]["weights"].items():
        assert torch.equal(best["model"][name], tensor)
    assert not torch.equal(best["model"]["head.weight"], last["model"]["head.weight"])
    network = UNet(**best["network"]["arguments"]).eval()
    network.load_state_dict(best["model"])
    for split, expected in (("val", log_of(out)[1]["val"]["dice"]), ("test", dice)):
        scores = []
        for image, target, _ in SliceDataset(discs, split, size=16):
            with torch.no_grad():
                pred = network(image[None])[0] > 0
            scores.append((2 * (pred * target).sum() / (pred.sum() + target.sum())).item())
        assert sum(scores) / len(scores) == pytest.approx(expected, abs=1e-6)
    starts = ["--data", str(discs), "--weights", str(out / "last.pt"), "--out", str(tmp_path / "next"), *TINY]
    still = ["--epochs", "1", "--lr", "1e-12", "--weight-decay", "0", "--warmup-epochs", "0"]
    train_unet.main([*starts, *still])  # --weights takes the average too, also from last.pt
    begun = load_checkpoint(tmp_path / "next/last.pt")["model"]["head.weight"]
    assert torch.allclose(begun, best["model"]["head.weight"], atol=1e-6)


def test_the_decision_is_in_the_best_checkpoint_and_beside_the_scores_at_one_half(reference, discs, log_of, capsys):
    out, dice = reference
    best, last = load_checkpoint(out / "best.pt"), log_of(out)[-1]
    assert best["decision"].keys() == {"threshold", "min_pixels"} and "decision" not in load_checkpoint(out / "last.pt")
    decided = last["decision"]
    assert {name: decided[name] for name in best["decision"]} == best["decision"]
    val = [line["val"]["dice"] for line in log_of(out) if line.get("is_best")][-1]
    assert decided["val_dice_with_0.5"] == pytest.approx(val) and decided["val_dice"] >= val
    predictor = load_predictor(out / "best.pt")
    scores = []
    for image, target, _ in SliceDataset(discs, "test", size=16):
        lesion = predictor.lesions(predictor.probs(image[0].numpy(), (1.0, 1.0)), predictor.decision, (1.0, 1.0))
        scores.append(2 * (lesion * target[0].numpy()).sum() / (lesion.sum() + target[0].numpy().sum()))
    assert np.mean(scores) == pytest.approx(decided["test"]["dice"], abs=1e-6)
    assert last["best epoch"]["dice"] == dice  # the headline stays that above 1/2


def test_a_frozen_encoder_is_as_it_was_loaded_and_the_rest_learns(reference, train_unet, discs, tmp_path, capsys):
    argv = ["--data", str(discs), *TINY, "--freeze-encoder", "2", "--out", str(tmp_path / "run")]
    train_unet.main([*argv, "--weights", str(reference[0] / "best.pt")])
    assert "at random" not in capsys.readouterr().out
    before, after = (load_checkpoint(p)["model"] for p in (reference[0] / "best.pt", tmp_path / "run/last.pt"))
    for name, tensor in before.items():
        still = name.startswith(("encoder.", "bottleneck."))
        assert torch.equal(tensor, after[name]) == still or name.endswith("bias"), name
    train_unet.main([*argv[:-1], str(tmp_path / "other"), "--epochs", "1"])
    assert "freezes an encoder of random numbers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("reference", ["--channels", "4", "4"]),
        ("reference", ["--norm", "instance"]),
        ("solid", ["--crop-size", "4", "16", "8"]),
        ("solid", ["--crops-per-volume", "4"]),
        ("solid", ["--foreground", "0"]),
        ("solid", ["--phantom-shape", "6", "20", "28"]),
        ("solid", ["--augment", "none"]),
        ("solid", ["--augment", "full"]),
        ("solid", ["--slice-mm", "3"]),
    ],
)
def test_no_knob_is_dead(request, kind, flags, train_unet, discs, tmp_path, log_of, epochs_of):
    out, _ = request.getfixturevalue(kind)
    argv = SOLID if kind == "solid" else [*TINY, "--data", str(discs)]
    assert epochs_of(train_unet.main, *argv, *flags, out=tmp_path / "run") != log_of(out)[1:-1]


def test_a_network_of_resampled_slices_is_judged_on_the_voxels_of_the_files(train_unet, tmp_path, log_of, solid):
    """Tested while training, and with `Predictor` from its checkpoint: the same scores."""
    out = tmp_path / "run"
    dice = train_unet.main(["--out", str(out), *SOLID, "--slice-mm", "1", "--augment", "full"])
    predictor = load_predictor(out / "best.pt")
    test = VolumeDataset(next(out.glob("phantoms*")), "test")
    spacings = [test.spacing_mm(i) for i in range(len(test))]

    def predict(image, record):
        index = [r.id for r in test.records].index(record.id)
        scale, said = predictor.scale_for(image.shape, spacings[index])
        assert scale == (2.0, 1.0, 1.0) and said is None
        return predictor.probs(image, scale) > 0.5

    assert scores_per_image(score_all(test, predict))["dice"].mean() == pytest.approx(dice, abs=1e-6)
    assert (out / "predictions.png").is_file() and load_checkpoint(out / "best.pt")["input"]["slice_mm"] == 1
    assert train_unet.main(["--out", str(out), "--resume"]) == dice


def test_the_rate_falls_on_a_plateau_and_the_checkpoint_knows_it(train_unet, discs, tmp_path, log_of):
    """Nothing is learned at this rate, so that each epoch after the first is one without improvement."""
    out = tmp_path / "run"
    plateau = ["--schedule", "plateau", "--warmup-epochs", "0", "--plateau-patience", "1", "--lr", "1e-7"]
    argv = ["--data", str(discs), *TINY, *plateau, "--min-lr", "1e-9", "--monitor", "iou", "--epochs", "5"]
    train_unet.main([*argv, "--out", str(out)])
    rates = [line["lr"] for line in log_of(out) if "epoch" in line]
    assert rates == pytest.approx([1e-7, 1e-7, 1e-8, 1e-9, 1e-9])
    state = load_checkpoint(out / "last.prev.pt")["optimizer"]["param_groups"][0]
    assert state["lr"] == pytest.approx(1e-9)  # of the epoch that follows


PLATEAU = ["--schedule", "plateau", "--warmup-epochs", "0", "--plateau-patience", "1", "--monitor", "iou"]


@pytest.mark.parametrize("schedule", [["--schedule", "constant", "--warmup-epochs", "1"], PLATEAU])
def test_more_epochs_of_a_rate_without_an_end_are_the_run_that_was_started_so(
    train_unet, discs, tmp_path, schedule, log_of, capsys
):
    argv = ["--data", str(discs), *TINY, *schedule]
    train_unet.main([*argv, "--out", str(tmp_path / "short")])
    capsys.readouterr()
    longer = train_unet.main(["--out", str(tmp_path / "short"), "--resume", "--epochs", "4"])
    assert "continues to epoch 4" in capsys.readouterr().out
    assert longer == train_unet.main([*argv, "--epochs", "4", "--out", str(tmp_path / "long")])
    assert log_of(tmp_path / "short")[1:] == log_of(tmp_path / "long")[1:]
    short, long = (load_checkpoint(tmp_path / name / "last.pt") for name in ("short", "long"))
    assert all(torch.equal(short["model"][name], tensor) for name, tensor in long["model"].items())
    assert short["recipe"] == long["recipe"] and short["run"] == long["run"]
    assert train_unet.main(["--out", str(tmp_path / "short"), "--resume"]) == longer  # it remembers


def test_more_epochs_of_a_cosine_are_refused_with_a_command_that_trains_them(
    reference, train_unet, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "my run"
    shutil.copytree(reference[0], out)
    monkeypatch.setattr("sys.argv", ["examples/train_unet.py"])
    assert train_unet.main(["--out", str(out), "--resume", "--epochs", "3"]) == 2
    error = capsys.readouterr().err
    assert "started with epochs 2" in error and error.count("\n") == 1
    python, script, *argv = shlex.split(error.split("best weights: ")[1])
    assert (python, script) == ("python", "examples/train_unet.py")
    assert isinstance(train_unet.main(argv), float)
    text = capsys.readouterr().out
    assert "0 left at their initial values" in text and "epoch   1/1" in text
    for flags in (["--epochs", "1"], ["--epochs", "3", "--lr", "0.5"]):  # fewer; or something else besides
        assert train_unet.main(["--out", str(out), "--resume", *flags]) == 2
        assert "was started with" in capsys.readouterr().err


def test_slices_and_volumes_are_not_taken_for_each_other(train_unet, discs, tmp_path, capsys):
    assert (
        train_unet.main(["--data", str(discs), "--spatial-dims", "3", "--augment", "none", "--out", str(tmp_path)]) == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("train_unet.py: ") and error.count("\n") == 1 and "volumes" in error


def test_every_recipe_describes_a_network_that_can_be_built(train_unet):
    for recipe in train_unet.RECIPES.values():
        with torch.device("meta"):
            UNet(**train_unet.network_arguments(recipe))


# ---- lesion classes ---------------------------------------------------------------------------------------------


def test_the_data_decide_how_many_classes_the_network_has(train_unet, learns_two_classes, capsys):
    learns_two_classes(train_unet.main, *TINY)
    assert "Dice of each class: solid " in capsys.readouterr().out


def test_each_class_begins_at_its_own_share_of_the_pixels(train_unet, two_classes, tmp_path):
    """With a rate of nearly 0, the bias of the head is still the prior."""
    out = tmp_path / "run"
    train_unet.main(["--data", str(two_classes), "--out", str(out), *TINY, "--augment", "none", "--lr", "1e-12"])
    shares = load_checkpoint(out / "best.pt")["model"]["head.bias"].sigmoid()
    targets = torch.stack([target for _, target, _ in SliceDataset(two_classes, "train", size=16)])
    torch.testing.assert_close(shares, targets.mean((0, 2, 3)), rtol=1e-4, atol=0)


def test_a_run_with_classes_is_resumed_and_not_with_others(train_unet, two_classes, tmp_path, capsys):
    data = shutil.copytree(two_classes, tmp_path / "data")
    out, flags = tmp_path / "run", ["--data", str(data), *TINY]
    train_unet.main(["--out", str(out), *flags])
    with (data / "classes.txt").open("w") as file:
        file.write("solid\nother\n")
    assert train_unet.main(["--out", str(out), "--resume", "--data", str(data)]) == 2
    assert "was started with slices" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("solid\n", "holds the values 0, 1, 2"),
        (None, "Masks of lesion classes 1 to K need a classes.txt"),
        ("solid\ncyst\nrare\n", "no mask holds the value 3, which classes.txt calls 'rare'"),
        ("solid\nsolid\n", "line 2 is 'solid', and so is line 1"),
    ],
)
def test_masks_that_do_not_fit_the_classes_end_in_a_sentence(train_unet, two_classes, tmp_path, capsys, names, message):
    data, out = shutil.copytree(two_classes, tmp_path / "data"), tmp_path / "run"
    (data / "classes.txt").unlink() if names is None else (data / "classes.txt").write_text(names)
    assert train_unet.main(["--data", str(data), "--out", str(out), *TINY]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize("lacking", ["train", "val"])
def test_a_class_may_be_missing_in_validation_but_not_in_training(
    train_unet, two_classes, tmp_path, capsys, log_of, lacking
):
    data, out = shutil.copytree(two_classes, tmp_path / "data"), tmp_path / "run"
    records, other = read_manifest(data), {"train": "val", "val": "train"}[lacking]
    without_cysts = ("slice00", "slice04", "slice08")
    records = [replace(r, split=lacking if r.id in without_cysts else other) for r in records]
    write_manifest(data / "manifest.csv", records)
    outcome = train_unet.main(["--data", str(data), "--out", str(out), *TINY])
    printed = capsys.readouterr()
    if lacking == "train":
        assert outcome == 2 and not out.exists()
        assert f"No training image of {data} holds a lesion of cyst, so the network could not learn it" in printed.err
    else:
        assert isinstance(outcome, float)
        assert "No validation image holds a lesion of cyst: it has no score, and no part in the mean" in printed.out
        val = log_of(out)[1]["val"]
        assert val["dice of cyst"] is None and val["dice"] == val["dice of solid"]


def test_volumes_with_classes_are_trained_end_to_end(train_unet, tmp_path, log_of):
    with VolumeWriter(tmp_path / "scans", classes=("solid", "cyst")) as data:
        for i, split in enumerate(("train", "train", "val", "test")):
            target = np.zeros((6, 20, 24), np.uint8)
            target[2:4, 3:9, 3 + i : 9 + i], target[3:5, 13:18, 12:17] = 1, 2
            hu = -700 + 800 * (target == 1) - 250 * (target == 2)
            data.add(ImageRecord(f"v{i}", f"p{i}", split), hu.astype(np.int16), target, 1.0)
    out = tmp_path / "run"
    dice = train_unet.main(["--data", str(tmp_path / "scans"), "--out", str(out), *SOLID])
    best = load_checkpoint(out / "best.pt")
    assert best["network"]["arguments"]["num_classes"] == 2 and best["input"]["classes"] == ["solid", "cyst"]
    last = log_of(out)[-1]["best epoch"]
    assert dice == last["dice"] == (last["dice of solid"] + last["dice of cyst"]) / 2


# ---- soft targets -----------------------------------------------------------------------------------------------


@pytest.fixture
def outlined(discs, tmp_path):
    """The discs, of which one reader of two sees a smaller one."""
    folder = shutil.copytree(discs, tmp_path / "outlined")
    (folder / "readers").mkdir()
    for file in (folder / "masks").iterdir():
        mask = np.asarray(Image.open(file)) > 0
        both = 2 * mask.astype(np.uint8) + (mask & np.roll(mask, 4, axis=0))
        Image.fromarray(both).save(folder / "readers" / file.name)
    return folder


def test_soft_targets_change_what_is_trained_on_and_not_what_is_scored(train_unet, outlined, tmp_path, log_of):
    """Also resumed; and an outline that was changed since is noticed."""
    argv = ["--data", str(outlined), *TINY, "--lr", "1e-9", "--no-prior-bias"]  # it stays as it began
    train_unet.main([*argv, "--out", str(tmp_path / "hard")])
    dice = train_unet.main([*argv, "--out", str(tmp_path / "soft"), "--soft-targets"])
    hard, soft = (log_of(tmp_path / name)[1] for name in ("hard", "soft"))
    assert abs(hard["train_loss"] - soft["train_loss"]) > 1e-3
    assert soft["val"]["loss"] == pytest.approx(hard["val"]["loss"], abs=1e-5)
    assert train_unet.main(["--out", str(tmp_path / "soft"), "--resume"]) == dice
    Image.fromarray(np.full((32, 32), 3, np.uint8)).save(outlined / "readers/slice00.png")
    assert train_unet.main(["--out", str(tmp_path / "hard"), "--resume"]) != 2
    assert train_unet.main(["--out", str(tmp_path / "soft"), "--resume"]) == 2


def test_soft_targets_that_are_not_there_are_asked_for_in_one_sentence(train_unet, discs, tmp_path, capsys):
    for argv, words in (
        (["--data", str(discs)], "holds no folder readers/, which --soft-targets needs"),
        ([], "--soft-targets needs the outlines of several readers, and phantoms have none"),
        (SOLID[:2], "phantoms have none. Give --data"),
        (["--loss", "dice", "--pos-weight", "2"], "--pos-weight 2.0 does nothing with --loss dice"),
    ):
        try:
            code = train_unet.main([*argv, "--out", str(tmp_path / "run"), "--soft-targets"])
        except SystemExit as exit_:
            code = exit_.code
        error = capsys.readouterr().err
        assert code == 2 and words in error and error.count("\n") == 1 and not (tmp_path / "run").exists()
