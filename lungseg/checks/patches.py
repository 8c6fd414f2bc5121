"""Checks of patch merging and expanding: what goes where, seen through gradients."""

from collections.abc import Callable

import torch
from hypothesis import given, strategies as st
from torch import nn

from lungseg.checks.running import learner_settings


def check_patch_merging(build: Callable[[int], nn.Module], *, max_examples: int = 15) -> None:
    """Fail unless each token feeds exactly the merged token of its own 2 x 2 neighbourhood, in every channel.

    A well-known library read two of the eight neighbours of a volume twice and two never, for years; every
    shape was right. This check would have seen it.

    Args:
        build: dim -> a module with (B, H, W, dim) -> (B, ceil(H/2), ceil(W/2), 2*dim).
    """

    @learner_settings(max_examples)
    @given(H=st.integers(1, 5), W=st.integers(1, 5), C=st.integers(1, 3))
    def property_holds(H, W, C):
        torch.manual_seed(0)
        module = build(C).double().eval()
        x = torch.randn(1, H, W, C, dtype=torch.double, requires_grad=True)
        merged = module(x)
        expected_shape = (1, -(-H // 2), -(-W // 2), 2 * C)
        assert merged.shape == expected_shape, f"shape is {tuple(merged.shape)}, not {expected_shape}"
        for r in range(merged.shape[1]):
            for c in range(merged.shape[2]):
                weight = torch.randn(2 * C, dtype=torch.double)  # a plain sum could cancel after a LayerNorm
                grad = torch.autograd.grad((merged[0, r, c] * weight).sum(), x, retain_graph=True)[0][0]
                inside = torch.zeros(H, W, C, dtype=torch.bool)
                inside[2 * r : 2 * r + 2, 2 * c : 2 * c + 2] = True
                used = grad != 0
                assert torch.equal(used, inside), (
                    f"merged token ({r}, {c}) must depend on every channel of tokens "
                    f"{inside.any(-1).nonzero().tolist()} and no other, but "
                    f"(token row, token column, channel) {(used != inside).nonzero().tolist()} is wrong"
                )

    property_holds()


def check_patch_expanding(build: Callable[[int, int, int], nn.Module], *, max_examples: int = 15) -> None:
    """Fail unless each token feeds exactly its own scale x scale square, and its parts are all different.

    Args:
        build: (dim, out_dim, scale) -> a module with (B, H, W, dim) -> (B, scale*H, scale*W, out_dim).
    """

    @learner_settings(max_examples)
    @given(
        H=st.integers(1, 3), W=st.integers(1, 3), C=st.integers(1, 3), out=st.integers(2, 3), scale=st.integers(1, 4)
    )
    def property_holds(H, W, C, out, scale):
        torch.manual_seed(0)
        module = build(C, out, scale).double().eval()
        x = torch.randn(1, H, W, C, dtype=torch.double, requires_grad=True)
        fine = module(x)
        expected_shape = (1, scale * H, scale * W, out)
        assert fine.shape == expected_shape, f"shape is {tuple(fine.shape)}, not {expected_shape}"
        for r in range(scale * H):
            for c in range(scale * W):
                weight = torch.randn(out, dtype=torch.double)
                grad = torch.autograd.grad((fine[0, r, c] * weight).sum(), x, retain_graph=True)[0][0]
                from_tokens = grad.abs().sum(-1).nonzero().tolist()
                assert from_tokens == [[r // scale, c // scale]], (
                    f"fine token ({r}, {c}) must come from token ({r // scale}, {c // scale}), "
                    f"but comes from {from_tokens}"
                )
        square = fine[0, :scale, :scale].flatten(0, 1)  # what token (0, 0) became
        same = torch.cdist(square, square) + torch.eye(len(square), dtype=torch.double) < 1e-12
        assert out == 2 or not same.any(), "two fine tokens of one square are equal: the parts were not dealt out"

    property_holds()
