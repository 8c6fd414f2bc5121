"""From flags to a table: what a user types, what is printed and written, and what is refused."""

import re
import sys

import numpy as np
import pytest
import torch

from lungseg.benchmark import sides
from lungseg.benchmark.limits import Limits
from lungseg.nn.unet import UNet

FEW = ["--repeats", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def script(example):
    return example("benchmark")


@pytest.fixture(autouse=True)
def _known_limits(script, monkeypatch):
    """Measuring the machine takes seconds; that is tested in tests/benchmark."""
    monkeypatch.setattr(script, "measure_limits", lambda timer, dtype: Limits(1e11, 1e11, 1e10))
    for where in (script, sides):
        monkeypatch.setattr(where, "warm_up", lambda device: None)
    monkeypatch.setattr(sides, "random_pair", lambda side: (np.zeros((side, side), np.float32),) * 2)
    monkeypatch.setattr(script, "keep_freed_memory", lambda: None)


@pytest.fixture
def peers(tmp_path, monkeypatch):
    """A module of the user in the current folder, with a network of the size of ours and one of another."""
    (tmp_path / "my_peers.py").write_text(
        "from lungseg.nn.unet import UNet\n"
        "def same(): return UNet(channels=(16, 32, 64, 128))\n"
        "def two(): return UNet(channels=(2, 4), num_classes=2)\n"
        "def flip(): return lambda image, target: (image[::-1], target[::-1])\n"
        "text = 'no factory'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("my_peers", None)


def test_every_size_has_the_same_networks_and_they_can_be_built(script):
    assert list(script.CASES["small"]) == list(script.CASES["report"])
    for cases in script.CASES.values():
        for case in cases.values():
            with torch.device("meta"):
                network = case.network(**case.arguments)
            assert sum(p.numel() for p in network.parameters()) > 1000
    defaults = script.CASES["report"]["unet"]
    assert defaults.network is UNet and defaults.arguments == {}  # the published size


def test_a_table_is_printed_and_written(script, capsys, tmp_path):
    out = tmp_path / "table.md"
    assert script.main([*FEW, "--rows", "unet forward b1", "--threads", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert out.read_text() == printed
    machine, limits, empty, head, line, *rows = printed.splitlines()
    assert machine.startswith("device CPU, 1 threads, python ") and empty == ""
    assert limits == "Limits, float32: matmul 100 GFLOP/s, convolution 100 GFLOP/s, copy 10.0 GB/s."
    assert head.startswith("| row | median ms |") and len({text.count("|") for text in (head, line, *rows)}) == 1
    assert re.fullmatch(r"\| unet forward b1 \| .* \| 1 \| .*% \|", rows[0]) and len(rows) == 1


def test_a_network_of_the_user_is_compared_with_ours(script, capsys, peers):
    assert script.main([*FEW, "--against", "my_peers:same", "--network", "unet", "--rows", "b1"]) == 0
    _, remark, _, head, _, row = capsys.readouterr().out.splitlines()
    assert remark.startswith("At equal weights the logits differ by at most 0;")
    assert "theirs / ours" in head and row.startswith("| unet forward b1 | ") and not list(peers.glob("*.md"))


def test_arguments_and_sides_change_ours(script, capsys, peers):
    flags = ["--arguments", '{"channels": [2, 4], "num_classes": 2}', "--img-size", "16", "--precision", "bf16"]
    assert script.main([*FEW, "--against", "my_peers:two", "--network", "unet", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("At equal weights the logits differ by at most 0;")
    assert [line.split(" | ")[0] for line in lines[5:]] == [
        f"| unet {kind}, bf16" for kind in ("forward b1", "forward b8", "train b4")
    ]


def test_an_augmentation_of_the_user_is_compared_with_ours(script, capsys, peers):
    assert script.main([*FEW, "--against", "my_peers:flip", "--network", "augmentation"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("| augmentation 256 x 256 | ")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--against", "my_peers:text", "--network", "unet"], "expected a function without arguments, but text is str"),
        (["--against", "my_peers:two", "--network", "unet"], r"returns \(1, 2, 64, 64\) .* ours \(1, 1, 64, 64\)"),
        (["--against", "no_peers:two", "--network", "unet"], "there is no module no_peers"),
        (["--against", "my_peers:same", "--network", "unet", "--arguments", "[2"], "--arguments .2: expected JSON"),
        (
            ["--against", "my_peers:same", "--network", "unet", "--arguments", '{"width": 2}'],
            "--arguments do not suit UNet: .*unexpected keyword argument 'width'",
        ),
        (
            ["--against", "my_peers:same", "--network", "unet", "--img-size", "8", "8", "8"],
            "The images of this unet have 2 sides, not 8 x 8 x 8. Give one or 2 numbers with --img-size.",
        ),
        (["--against", "my_peers:same", "--network", "unet", "--rows", "b9"], "--rows b9: no row has such a name"),
        (["--rows", "no such row", "b9"], "--rows no such row b9: no row has such a name"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(script, capsys, peers, flags, words):
    assert script.main([*FEW, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmark.py: ") and error.count("\n") == 1 and re.search(words, error)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--against", "my_peers:same"], "--against needs --network, one of swin, "),
        (["--against", "a:b", "--network", "net"], "--against needs --network"),
        (["--network", "unet"], "--network is for a comparison: add --against"),
        (["--as-run"], "--as-run is for a comparison"),
        (["--img-size", "8", "8"], "--img-size is for a comparison"),
        (["--against", "a:b", "--network", "unet", "--compile"], "--compile is not for a comparison"),
        (["--against", "a:b", "--network", "unet", "--slices", "5"], "--slices is not for a comparison: leave it out"),
        (["--against", "a:b", "--network", "augmentation", "--arguments", "{}"], "--arguments is not for --network"),
        (["--against", "a:b", "--network", "augmentation", "--img-size", "9"], "--img-size is not for --network aug"),
        (["--against", "a:b", "--network", "unet", "--img-size", "9", "0"], "--img-size 0 stands alone, got 9 0"),
        (["--precision", "auto", "bf16"], "--precision auto stands alone, got auto bf16"),
        (["--precision", "fp8"], "--precision must be float32, bf16 or both, got fp8"),
        (["--repeats", "0"], "repeats=0"),
        (["--seconds", "-1"], "seconds=-1.0 must be positive"),
        (["--out", __file__], "exists already"),
        (["--out", "no_folder/table.md"], "--out no_folder/table.md: there is no folder no_folder to write to"),
    ],
)
def test_flags_that_make_no_sense_are_refused(script, capsys, flags, words):
    with pytest.raises(SystemExit) as end:
        script.main(flags)
    error = capsys.readouterr().err
    assert end.value.code == 2 and words in error and error.count("\n") == 1


def test_ctrl_c_leaves_no_file(script, capsys, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "network_rows", stop)
    assert script.main([*FEW, "--out", str(tmp_path / "table.md")]) == 130
    assert "was not written." in capsys.readouterr().err and not list(tmp_path.iterdir())
