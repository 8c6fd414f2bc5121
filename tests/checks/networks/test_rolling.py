"""The checks of rolling and padding accept every right way; mutants_networks.py holds the wrong ones."""

import pytest
import torch
import torch.nn.functional as F

from lungseg.checks.lessons import Wrong
from lungseg.checks.networks.rolling import check_cyclic_shift, check_pad_to_multiple
from lungseg.nn import windows


def test_ours_pass():
    check_cyclic_shift(windows.cyclic_shift)
    check_pad_to_multiple(windows.pad_to_multiple)


def test_concatenation_is_as_good_as_roll():
    def cyclic_shift(x, s):
        x = torch.cat([x[:, s:], x[:, :s]], 1)
        return torch.cat([x[:, :, s:], x[:, :, :s]], 2)

    check_cyclic_shift(cyclic_shift)


def test_a_wrong_signature_is_answered_with_the_wanted_one():
    with pytest.raises(Wrong, match=r"pad_to_multiple\(x \(B, H, W, C\), multiple\)"):
        check_pad_to_multiple(lambda x: F.pad(x, (0, 0, 0, 1)))
