"""The patch checks accept ours and reject the mistakes people, and libraries, have made."""

import pytest
import torch

from lungseg.checks.patches import check_patch_expanding, check_patch_merging
from lungseg.nn.patches import PatchExpanding, PatchMerging
from lungseg.nn.windows import pad_to_multiple


def test_the_check_accepts_our_merging():
    check_patch_merging(PatchMerging)


class ReadsOneNeighbourTwice(PatchMerging):
    def forward(self, x):
        x = pad_to_multiple(x, 2)
        corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 0::2]]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class CutsOddSides(PatchMerging):
    def forward(self, x):
        return super().forward(x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2])


class MixesRowsAndColumns(PatchMerging):
    def forward(self, x):
        x = pad_to_multiple(x, 2)
        B, H, W, C = x.shape
        return self.reduction(self.norm(x.reshape(B, H // 2, W // 2, 4 * C)))


@pytest.mark.parametrize("broken", [ReadsOneNeighbourTwice, CutsOddSides, MixesRowsAndColumns])
def test_the_check_rejects_a_wrong_merging(broken):
    with pytest.raises(AssertionError, match="must depend on|shape is"):
        check_patch_merging(broken)


def test_the_check_accepts_our_expanding():
    check_patch_expanding(PatchExpanding)


class RepeatsTheToken(PatchExpanding):
    def forward(self, x):
        x = self.expand(x)[..., : self.norm.normalized_shape[0]]
        return self.norm(x.repeat_interleave(self.scale, 1).repeat_interleave(self.scale, 2))


class ForgetsToTranspose(PatchExpanding):
    def forward(self, x):
        B, H, W, _ = x.shape
        return self.norm(self.expand(x).reshape(B, H * self.scale, W * self.scale, -1))


class SwapsTheSides(PatchExpanding):
    def forward(self, x):
        return super().forward(x.transpose(1, 2))


@pytest.mark.parametrize("broken", [RepeatsTheToken, ForgetsToTranspose, SwapsTheSides])
def test_the_check_rejects_a_wrong_expanding(broken):
    with pytest.raises(AssertionError, match="must come from|are equal|shape is"):
        check_patch_expanding(broken, max_examples=60)
