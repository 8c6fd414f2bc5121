"""The checks of attention accept every right way; mutants_networks.py holds the wrong ones."""

import pytest
import torch
import torch.nn.functional as F

from lungseg.checks.lessons import Wrong
from lungseg.checks.networks.attention import check_attention
from lungseg.nn.attention import attention, fused_attention


def test_ours_passes_with_its_weights():
    check_attention(attention)


def test_torchs_own_passes():
    def sdpa(q, k, v, *, bias=None):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    check_attention(sdpa)
    check_attention(lambda q, k, v, bias=None: fused_attention(q, k, v, bias=bias))


@pytest.mark.parametrize("name", ["mask", "attn_mask"])
def test_a_bool_mask_is_taken_in_place_of_a_bias(name):
    scope = {}
    exec(f"def f(q, k, v, {name}=None):\n    return sdpa(q, k, v, attn_mask={name})",
         {"sdpa": F.scaled_dot_product_attention}, scope)  # fmt: skip
    check_attention(scope["f"])


def test_a_mask_of_minus_a_large_number_is_as_good_as_infinity():
    def minus_thousand(q, k, v, mask=None):
        logits = q @ k.mT / q.shape[-1] ** 0.5
        return (logits if mask is None else logits.masked_fill(~mask, -1e3)).softmax(-1) @ v

    check_attention(minus_thousand)


def test_weights_that_do_not_sum_to_1_are_found():
    with pytest.raises(Wrong, match="must sum to 1"):
        check_attention(
            lambda q, k, v, bias=None: (attention(q, k, v, bias=bias)[0], torch.ones(*q.shape[:-1], q.shape[-2]))
        )


def test_a_mask_of_zero_and_minus_infinity_is_taken():
    def additive(q, k, v, mask=None):
        logits = q @ k.mT / q.shape[-1] ** 0.5
        weights = (logits if mask is None else logits + mask).softmax(-1)
        return weights @ v, weights

    check_attention(additive)
