"""The running average of the weights: what it is, what it leaves alone, and that a resumed one goes on bit by bit."""

import copy

import pytest
import torch
from torch import nn

from lungseg.losses import bce_loss
from lungseg.training.distributed import ALONE, Processes
from lungseg.training.ema import WeightAverage, averaged_weights
from lungseg.training.step import train_one_epoch


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1))


def batches(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num):
        image = torch.randn(2, 1, 6, 6, generator=generator)
        yield image, (image > 0.5).float(), ["a", "b"]


def trained(model, average, num=7, seed=0, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    train_one_epoch(model, list(batches(num, seed)), bce_loss, optimizer, ema=average)
    return optimizer


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_it_is_the_sum_of_all_weights_each_with_its_share(decay, monkeypatch):
    """Unrolled in float64: step t has the share (1 - d_t) d_{t+1} ... d_n, the start what is left."""
    model = network()
    average = WeightAverage(model, decay)
    history, update = [], average.update

    def noted():
        update()
        history.append({name: value.double() for name, value in copy.deepcopy(model.state_dict()).items()})

    monkeypatch.setattr(average, "update", noted)
    start = {name: value.double() for name, value in copy.deepcopy(model.state_dict()).items()}
    trained(model, average)
    decays = [min(decay, (1 + t) / (10 + t)) for t in range(7)]
    for name, value in average.weights.items():
        shares, rest = [], 1.0
        for d in reversed(decays):
            shares.insert(0, (1 - d) * rest)
            rest *= d
        expected = rest * start[name] + sum(s * then[name] for s, then in zip(shares, history, strict=True))
        if name.endswith("num_batches_tracked"):
            assert value == 7
        else:
            assert torch.allclose(value.double(), expected, rtol=0, atol=1e-6), name
    assert not torch.allclose(average.weights["3.weight"], model.state_dict()["3.weight"], atol=1e-3)


def test_the_training_does_not_notice_it():
    one, two = network(), network()
    average = WeightAverage(two, 0.9)
    trained(one, None)
    optimizer = trained(two, average, num=7)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert all(
        p.data_ptr() == q.data_ptr() for p, q in zip(optimizer.param_groups[0]["params"], two.parameters(), strict=True)
    )


def test_inside_the_block_the_network_has_it_and_afterwards_its_own_also_after_an_error():
    model = network()
    average = WeightAverage(model, 0.9)
    trained(model, average)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError), averaged_weights(average):
        assert all(torch.equal(model.state_dict()[name], value) for name, value in average.weights.items())
        raise KeyError
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    with averaged_weights(None):
        pass


def test_a_resumed_average_goes_on_bit_by_bit():
    model = network()
    average = WeightAverage(model, 0.99)
    optimizer = trained(model, average)
    saved = copy.deepcopy([part.state_dict() for part in (model, average, optimizer)])
    trained(model, average, seed=1, optimizer=optimizer)
    model_2 = network()
    average_2, optimizer_2 = WeightAverage(model_2, 0.99), torch.optim.SGD(model_2.parameters(), lr=0.5, momentum=0.9)
    for part, state in zip((model_2, average_2, optimizer_2), saved, strict=True):
        part.load_state_dict(state)
    trained(model_2, average_2, seed=1, optimizer=optimizer_2)
    assert average_2.steps == average.steps == 14
    assert all(torch.equal(average_2.weights[name], value) for name, value in average.weights.items())


def test_what_does_not_change_is_its_own_average_exactly():
    """A frozen encoder."""
    model = network()
    model.register_buffer("grid", torch.tensor([0.1, -3.7, 1e-30]))
    average = WeightAverage(model, 0.7)
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    trained(model, average)
    for name in ("0.weight", "0.bias", "grid"):
        assert torch.equal(average.weights[name], model.state_dict()[name])


class SecondOfTwo(Processes):
    """Processes in which another one is the main process, whose running statistics are all 5."""

    def gather(self, value):
        if not isinstance(value, dict):
            return [value]
        return [{name: torch.full_like(each, 5) for name, each in value.items()}, value]


def test_the_statistics_are_those_of_the_main_process_which_the_checkpoint_has():
    model = network()
    average = WeightAverage(model, 0.9)
    trained(model, average)
    weight = average.weights["0.weight"].clone()
    average.share(ALONE)
    assert average.weights["1.running_mean"].unique().numel() > 1
    assert torch.equal(average.weights["0.weight"], weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    train_one_epoch(model, list(batches(1)), bce_loss, optimizer, ema=average, processes=SecondOfTwo())
    assert average.weights["1.running_mean"].unique().item() == 5 and average.weights["1.num_batches_tracked"] == 5
    assert average.weights["0.weight"].unique().numel() > 1


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_an_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        WeightAverage(network(), decay)
