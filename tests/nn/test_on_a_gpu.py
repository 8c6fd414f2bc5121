"""Each network on a GPU: the CPU's numbers, half precision, fused attention, torch.compile.

`error` is the length of a difference as a share of the length of what was expected: of all outputs, or of the gradient
of all parameters.
"""

import copy

import pytest
import torch
from tiny_networks import NETWORKS, error, gradient, inputs_of, on, outputs
from torch.amp import GradScaler

from lungseg.nn.sam import sam_input

pytestmark = pytest.mark.gpu

# float32 has 24 bits. CPU and GPU add in another order; over some dozen layers that costs a few of them.
SAME = 1e-4
# bfloat16 has 8 bits, float16 11: a single rounding costs up to 2^-9 and 2^-12 of a number. What is rounded across 0 is
# cut off by one ReLU more or less, and batch norms over few pixels enlarge it. The largest errors of a gradient that
# were measured on a CPU, over four seeds, are 0.28 and 0.09 (ResNet50UNet), of the other networks 0.12 and 0.04. A
# scale that is not undone makes it more than 1.
HALF = {torch.bfloat16: 0.5, torch.float16: 0.2}


def loss_and_gradient(network, arguments, dtype=None, *, scaler=None):
    device = arguments[0].device.type
    network.zero_grad()
    with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
        result = outputs(network, arguments)
    loss = result.square().mean()
    (loss if scaler is None else scaler.scale(loss)).backward()
    return loss.detach(), gradient(network)


@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_gradients_are_those_of_the_cpu(name, device):
    network, arguments = NETWORKS[name]().train(), inputs_of(name)
    there = copy.deepcopy(network).to(device)
    loss, expected = loss_and_gradient(network, arguments)
    its_loss, found = loss_and_gradient(there, on(device, arguments))
    assert error(its_loss, loss) < SAME and error(found, expected) < SAME
    with torch.no_grad():
        expected, found = outputs(network.eval(), arguments), outputs(there.eval(), on(device, arguments))
    assert found.device.type == device.type and error(found, expected) < SAME


@pytest.mark.parametrize("dtype", HALF, ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_in_half_precision_is_nearly_that_of_float32(name, dtype, device):
    network = NETWORKS[name]().to(device).train()
    half, arguments = copy.deepcopy(network), on(device, inputs_of(name))
    loss, expected = loss_and_gradient(network, arguments)
    optimizer = torch.optim.AdamW(half.parameters(), lr=1e-3, fused=True)
    scaler = GradScaler(device.type, init_scale=2.0**10, enabled=dtype is torch.float16)
    its_loss, _ = loss_and_gradient(half, arguments, dtype, scaler=scaler)
    scaler.unscale_(optimizer)
    assert error(its_loss, loss) < HALF[dtype] and error(gradient(half), expected) < HALF[dtype]
    before = torch.cat([p.detach().flatten().clone() for p in half.parameters()])
    scaler.step(optimizer)
    scaler.update()
    after = torch.cat([p.detach().flatten() for p in half.parameters()])
    assert after.isfinite().all() and not torch.equal(before, after)
    assert scaler.get_scale() in (1.0, 2.0**10)  # nothing overflowed, as with 2^16 a gradient of 1 would


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_whose_gradients_overflow_is_skipped_and_the_scale_halved(name, device):
    network, arguments = NETWORKS[name]().to(device).train(), on(device, inputs_of(name))
    optimizer, scaler = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True), GradScaler(device.type)
    before = copy.deepcopy(dict(network.named_parameters()))
    with torch.autocast(device.type, dtype=torch.float16):
        loss = outputs(network, arguments).square().mean()
    scaler.scale(loss * 1e30).backward()  # 2^16 times this, and the gradient of each layer, is beyond float16
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**15
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


WITH_FUSED = ["SwinUNet", "SwinUNet, conv", "UNETR", "UNETR, 3-D", "SAM", "MedSAM", "CandidateRefiner"]


@pytest.mark.parametrize("dtype", [None, *HALF], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", WITH_FUSED)
def test_fused_attention_is_the_formula_in_values_and_gradients(name, dtype, device):
    network, arguments = NETWORKS[name]().to(device).train(), on(device, inputs_of(name))
    plain = copy.deepcopy(network)
    switched = [module for module in plain.modules() if getattr(module, "fused", False)]
    assert switched
    for module in switched:
        module.fused = False
    loss, expected = loss_and_gradient(plain, arguments, dtype)
    its_loss, found = loss_and_gradient(network, arguments, dtype)
    tolerance = SAME if dtype is None else HALF[dtype]
    assert error(its_loss, loss) < tolerance and error(found, expected) < tolerance


@pytest.mark.parametrize("name", ["SwinUNet", "UNETR", "UNet", "RRCUNet", "ResNet50UNet"])
def test_compiled_a_network_learns_and_predicts_the_same(name, device):
    """As --compile does it; on a CPU, where the compiler takes minutes, without generating code."""
    torch.compiler.reset()
    fewer = {"depths": (1, 2)} if name == "SwinUNet" else {}  # each block is compiled for itself
    network, arguments = NETWORKS[name](**fewer).to(device).train(), on(device, inputs_of(name))
    compiled = copy.deepcopy(network)
    compiled.compile(**({} if device.type == "cuda" else {"backend": "aot_eager"}))
    loss, expected = loss_and_gradient(network, arguments)
    its_loss, found = loss_and_gradient(compiled, arguments)
    assert error(its_loss, loss) < SAME and error(found, expected) < 10 * SAME
    assert compiled.state_dict().keys() == network.state_dict().keys()  # no prefix in checkpoints
    with torch.no_grad():
        assert error(outputs(compiled.eval(), arguments), outputs(network.eval(), arguments)) < SAME


def test_the_input_of_sam_is_that_of_the_cpu(device):
    image = torch.randint(256, (2, 3, 37, 50), dtype=torch.uint8)
    found, expected = sam_input(image.to(device), 32).cpu(), sam_input(image, 32)
    assert (found - expected).abs().max() < 1.01 / 57  # both round to grey levels
