"""The checks of Swin's block and stage accept every right way; mutants_networks.py holds the wrong ones."""

import pytest
import torch
from torch import nn

from lungseg.checks.lessons import Wrong
from lungseg.checks.networks.swin_block import check_swin_block, check_swin_stage
from lungseg.nn.swin_unet import SwinBlock
from lungseg.nn.windows import shifted_window_mask


def test_ours_passes():
    check_swin_block(SwinBlock)


def test_a_stage_of_ours_passes():
    def swin_stage(dim, depth, num_heads, window_size):
        shifts = [window_size // 2 * (i % 2) for i in range(depth)]
        return nn.Sequential(*(SwinBlock(dim, num_heads, window_size, s) for s in shifts))

    check_swin_stage(swin_stage)


def test_a_block_without_any_roll_passes():
    """Attention over the whole map, blocked outside of the cells of the shifted grid: slow, and the same."""

    class WholeMap(SwinBlock):
        def window_attention(self, x):
            B, H, W, C = x.shape
            ws, s = self.window_size, self.shift_size
            row, col = (t.flatten() for t in torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij"))
            cell = (row - s).div(ws, rounding_mode="floor") * 99 + (col - s).div(ws, rounding_mode="floor")
            q, k, v = self.attn.qkv(x.flatten(1, 2)).unflatten(2, (3, self.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
            dr, dc = ((t[:, None] - t).clamp(1 - ws, ws - 1) + ws - 1 for t in (row, col))
            bias = self.attn.relative_position_bias_table[dr * (2 * ws - 1) + dc].permute(2, 0, 1)
            logits = q @ k.mT / q.shape[-1] ** 0.5 + bias
            logits = logits.masked_fill(cell[:, None] != cell, -torch.inf)
            y = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
            return self.attn.proj(y).unflatten(1, (H, W))

    check_swin_block(WholeMap)


def test_a_mask_that_lets_padding_be_one_region_passes(monkeypatch):
    from lungseg.nn import swin_unet

    def mask(height, width, ws, shift, *, device=None):
        exact = shifted_window_mask(height, width, ws, shift)
        padding = ~shifted_window_mask(height, width, ws, shift).diagonal(dim1=1, dim2=2)  # all False: same shape
        return exact | padding[:, :, None]

    monkeypatch.setattr(swin_unet, "shifted_window_mask", mask)
    check_swin_block(SwinBlock)


def test_the_answer_names_the_token():
    class NoResidual(SwinBlock):
        def forward(self, x):
            return super().forward(x) - x

    with pytest.raises(Wrong, match=r"token \(row 0, column 0\) of image 0"):
        check_swin_block(NoResidual)
