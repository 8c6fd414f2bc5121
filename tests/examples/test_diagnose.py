"""The examination as a script: folders and checkpoints, sound and broken; findings, pictures and exit codes."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from lungseg.checkpoint import load_checkpoint, save_checkpoint
from lungseg.doctor.network import output_finding
from lungseg.nn.unet import UNet


@pytest.fixture(scope="module")
def script(example):
    return example("diagnose")


@pytest.fixture
def diagnose(script, monkeypatch):
    """The script with a smaller U-Net."""
    monkeypatch.setitem(script.NETWORKS, "unet", (UNet, {"channels": (4, 8)}))
    return script


@pytest.fixture(scope="module")
def run_folder(example, discs, tmp_path_factory):
    """A small U-Net trained on the discs."""
    out = tmp_path_factory.mktemp("run") / "unet"
    flags = ["--img-size", "32", "--channels", "8", "16", "--lr", "0.01", "--warmup-epochs", "0", "--batch-size", "3"]
    flags += ["--augment", "none", "--epochs", "20"]
    example("train_unet").main(["--data", str(discs), "--out", str(out), *flags])
    return out


def findings(diagnose, capsys, *flags):
    """(exit code, name -> finding)"""
    capsys.readouterr()
    code = diagnose.main([*map(str, flags), "--json"])
    return code, {f["name"]: f for f in json.loads(capsys.readouterr().out)["findings"]}


def test_a_sound_folder_and_its_network_have_no_fault(diagnose, discs, run_folder, tmp_path, capsys):
    flags = ["--data", discs, "--checkpoint", run_folder / "best.pt", "--out", tmp_path / "out"]
    code, found = findings(diagnose, capsys, *flags)
    assert code == 0, [f for f in found.values() if f["verdict"] == "FAULT"]
    assert {"folder", "leak", "mask values", "one batch by heart", "trained: loss", "trained: logits"} <= set(found)
    assert found["learning rate"]["details"][3].endswith("<- yours")  # 0.01, from the recipe
    with Image.open(tmp_path / "out/diagnose.png") as picture:
        assert picture.width > 200
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["diagnose.png"]


def test_the_report_has_a_line_for_each_finding_and_ends_with_a_summary(diagnose, discs, capsys):
    assert diagnose.main(["--data", str(discs), "--img-size", "32", "--steps", "1", "--lr", "1000"]) == 1
    lines = capsys.readouterr().out.splitlines()
    verdicts = [line.split()[0] for line in lines if line and line[0] != " "]
    assert verdicts.count("FAULT") >= 1 and lines[-1].startswith(f"{verdicts.count('ok')} ok, ")
    assert "Mend first: " in lines[-1] and "learning rate" in lines[-1]


@pytest.mark.parametrize("network", ["swin", "unetr", "resnet", "rrc"])
def test_each_network_can_be_tried(script, discs, network, monkeypatch, capsys):
    def only_the_output(model, batches, loss_fn, **_):
        ((image, target),) = batches
        return [output_finding(model, image, target, loss_fn)]

    monkeypatch.setattr(script, "examine_network", only_the_output)
    code, found = findings(script, capsys, "--data", discs, "--network", network, "--img-size", "32")
    assert code == 0 and found["output"]["measured"].startswith("logits")
    assert ("8^2" in found["tokens per lesion"]["measured"]) == (network == "unetr")


def test_inverted_masks_are_named_and_the_rest_is_examined_nevertheless(diagnose, discs, tmp_path, capsys):
    folder = tmp_path / "inverted"
    shutil.copytree(discs, folder)
    for path in (folder / "masks").glob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    code, found = findings(diagnose, capsys, "--data", folder, "--img-size", "32", "--steps", "1")
    assert code == 1
    assert found["folder"]["verdict"] == found["mask values"]["verdict"] == "FAULT"
    assert "inverted" in found["mask values"]["cause"] and "gradients" in found


def test_a_leak_is_named(diagnose, discs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(diagnose, "examine_network", lambda *_, **__: [])
    folder = tmp_path / "leak"
    shutil.copytree(discs, folder)
    manifest = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(manifest.replace("slice10,patient10", "slice10,patient00"))
    code, found = findings(diagnose, capsys, "--data", folder, "--img-size", "32", "--steps", "1")
    assert code == 1 and "'patient00' is in train and in val" in found["leak"]["cause"]


def test_a_folder_without_a_readable_slice_is_a_fault(diagnose, discs, tmp_path, capsys):
    folder = tmp_path / "damaged"
    shutil.copytree(discs, folder)
    for path in (folder / "masks").glob("*.png"):
        path.write_bytes(b"no picture")
    code, found = findings(diagnose, capsys, "--data", folder)
    assert code == 1 and found["network"]["measured"] == "not examined"


def test_a_network_that_predicts_nothing_is_named(diagnose, discs, run_folder, tmp_path, capsys):
    saved = load_checkpoint(run_folder / "best.pt")
    saved["model"]["head.weight"].zero_()
    saved["model"]["head.bias"].fill_(-5.0)
    save_checkpoint(tmp_path / "dead.pt", saved)
    code, found = findings(diagnose, capsys, "--data", discs, "--checkpoint", tmp_path / "dead.pt", "--steps", "1")
    assert code == 1 and "predicts nothing" in found["trained: logits"]["cause"]
    assert found["trained: input is used"]["verdict"] == "FAULT"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--data", "DISCS", "--checkpoint", "nothing.pt"], "nothing.pt"),
        (["--data", "DISCS", "--out", "."], "not empty"),
        (["--lr", "-1"], "--lr must be a positive number"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--network", "unet", "--checkpoint", "x.pt"], "exclude each other"),
        (["--data", "VOLUMES"], "only slices can be examined"),
    ],
)
def test_what_cannot_be_examined_is_one_sentence_and_code_2(
    diagnose, discs, flags, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vol/volumes").mkdir(parents=True)
    flags = [{"DISCS": str(discs), "VOLUMES": "vol"}.get(flag, flag) for flag in flags]
    try:
        code = diagnose.main(flags)
    except SystemExit as end:
        code = end.code
    err = capsys.readouterr().err
    assert code == 2 and words in err and err.startswith("diagnose.py: ") and err.count("\n") == 1


def test_without_data_phantoms_are_examined_and_nothing_is_left(diagnose, monkeypatch, tmp_path, capsys):
    drawn = []

    def few(folder, **options):
        drawn.append(folder)
        write(folder, **options | {"num_patients": 6, "size": 32})

    write = diagnose.write_phantom_folder
    monkeypatch.setattr(diagnose, "write_phantom_folder", few)
    code, found = findings(diagnose, capsys, "--img-size", "32", "--steps", "1")
    assert code in (0, 1) and found["leak"]["verdict"] == "ok"
    assert not drawn[0].exists()
