"""A network from elsewhere: what is imported, what is refused and in which words, and when weights are equal."""

import sys

import pytest
import torch
from torch import nn

from lungseg.benchmark.peers import call_factory, check_output, give_weights, largest_difference, peer_network
from lungseg.nn.unet import UNet

MODULE = """
from lungseg.nn.unet import UNet
number = 3
def unet(): return UNet(channels=(2, 4))
def three(): return 3
def fails(): raise OSError("no file of weights\\nand a second line")
def leaves(): raise SystemExit(3)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with modules that a user may have written."""
    (tmp_path / "peer_a.py").write_text(MODULE)
    (tmp_path / "peer_b.py").write_text("import no_such_package")
    (tmp_path / "peer_c.py").write_text("raise RuntimeError('half written')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("peer_a", "peer_b", "peer_c"):
        sys.modules.pop(name, None)


def test_a_factory_in_the_current_folder_is_called(folder):
    assert isinstance(peer_network("peer_a:unet"), UNet)
    assert call_factory("peer_a:three") == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("peer_a", "expected MODULE:FACTORY, such as peers:unet"),
        (":unet", "expected MODULE:FACTORY"),
        ("peer_z:unet", "there is no module peer_z, neither in the current folder nor installed"),
        ("peer_z.nets:unet", "there is no module peer_z.nets"),
        ("peer_b:unet", "peer_b cannot be imported: No module named 'no_such_package'. Install that."),
        ("peer_c:unet", "cannot be imported: RuntimeError: half written"),
        ("peer_a:other", "expected a function without arguments, but other is missing"),
        ("peer_a:number", "expected a function without arguments, but number is int"),
        ("peer_a:fails", r"fails\(\) failed: OSError: no file of weights$"),
        ("peer_a:leaves", r"leaves\(\) failed: SystemExit: 3"),
        ("peer_a:three", "expected a network .an nn.Module. from the factory, got int"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(folder, name, words):
    with pytest.raises(ValueError, match=words) as error:
        peer_network(name)
    assert str(error.value).startswith(f"--against {name}: ")


class Pair(nn.Module):
    def forward(self, image):
        return image, image


class Leaves(nn.Module):
    def forward(self, image):
        raise SystemExit("for a licence")


class Extra(UNet):
    """Saves more than tensors, as quantized layers do."""

    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        pass


class Narrow(nn.Module):
    """Takes other images than ours."""

    def forward(self, image):
        return nn.functional.conv2d(image, torch.ones(1, 3, 1, 1))


def test_another_output_is_refused_with_both_shapes():
    ours, image = UNet(channels=(2, 4)), torch.rand(1, 1, 8, 8)
    check_output("p:f", UNet(channels=(3, 5)), ours, image)
    with pytest.raises(
        ValueError, match=r"returns \(1, 2, 8, 8\) for an image \(1, 1, 8, 8\), and ours \(1, 1, 8, 8\)"
    ):
        check_output("p:f", UNet(channels=(2, 4), num_classes=2), ours, image)
    with pytest.raises(ValueError, match="returns a tuple for an image"):
        check_output("p:f", Pair(), ours, image)
    with pytest.raises(ValueError, match=r"--against p:f: fails on an image \(1, 1, 8, 8\): RuntimeError"):
        check_output("p:f", Narrow(), ours, image)
    with pytest.raises(ValueError, match=r"^--against p:f: fails on an image \(1, 1, 8, 8\): SystemExit: for a lic"):
        check_output("p:f", Leaves(), ours, image)


@pytest.mark.parametrize("kind", [UNet, Extra])
def test_equal_networks_with_equal_weights_do_not_differ(kind):
    ours, theirs, image = UNet(channels=(2, 4)).eval(), kind(channels=(2, 4)).eval(), torch.rand(2, 1, 8, 8)
    assert largest_difference(ours, theirs, image)[0] > 0
    assert give_weights(ours, theirs) == (True, "")
    difference, largest = largest_difference(ours, theirs, image)
    assert difference == 0 and largest == theirs(image).abs().max()


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (UNet(channels=(3, 5)), "other sizes"),
        (nn.Conv2d(1, 1, 1), "layout"),
        (UNet(channels=(2, 4), in_channels=3), "1 tensors would have to be adapted"),
        (UNet(channels=(2, 4), num_classes=2), "2 of ours have no counterpart"),
    ],
    ids=["narrower", "unknown", "colours", "classes"],
)
def test_weights_that_do_not_all_fit_leave_ours_as_they_were(theirs, words):
    ours = UNet(channels=(2, 4))
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    fit, reason = give_weights(ours, theirs)
    assert not fit and words in reason
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.state_dict().items())
