"""A user's file is imported by its path; what it lacks is said in a sentence."""

import pytest
from torch import nn

from lungseg.python_file import import_file, load_network_class

NETWORK = """
from torch import nn
from dataclasses import dataclass
import neighbour

@dataclass
class Size:
    side: int

class SwinUNet(nn.Module):
    def __init__(self, in_channels=1, num_classes=1, *, embed_dim=8):
        super().__init__()
        self.embed_dim = embed_dim
        self.head = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, image):
        return self.head(image)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text, name="my_swin.py"):
        (tmp_path / "neighbour.py").write_text("x = 1\n")
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_a_file_may_import_its_neighbours_and_hide_no_library(file):
    assert import_file(file(NETWORK, "torch.py")).Size(3).side == 3
    import torch

    assert hasattr(torch, "nn")


def test_the_class_takes_those_arguments_of_a_recipe_that_it_names(file):
    network = load_network_class(str(file(NETWORK)), "SwinUNet")
    assert network.__name__ == "SwinUNet of my_swin.py" and issubclass(network, nn.Module)
    assert network(embed_dim=4, window_size=7, head_bias=True).embed_dim == 4


def test_a_class_that_takes_anything_gets_everything(file):
    text = NETWORK.replace("*, embed_dim=8)", "**rest)").replace("= embed_dim", "= rest")
    assert load_network_class(str(file(text)), "SwinUNet")(embed_dim=4, depth=2).embed_dim == {
        "embed_dim": 4,
        "depth": 2,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [("x = 1", "expected a class SwinUNet"), ("SwinUNet = 3", "expected a class SwinUNet"),
     ("import nothing_of_that_name", "cannot be imported: ModuleNotFoundError"), ("raise SystemExit(0)", "SystemExit")],
)  # fmt: skip
def test_what_a_file_lacks_is_said(file, text, message):
    with pytest.raises(ValueError, match=message):
        load_network_class(str(file(text)), "SwinUNet")


@pytest.mark.parametrize("name", ["nowhere.py", "notes.txt"])
def test_a_file_that_is_no_python_file_is_refused(name, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="expected a Python file"):
        load_network_class(str(tmp_path / name), "SwinUNet")
