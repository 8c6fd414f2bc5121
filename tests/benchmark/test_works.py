"""What is timed does what it is called, and leaves what it must not change."""

import numpy as np
import pytest
import torch

from lungseg.benchmark import works
from lungseg.checkpoint import load_checkpoint
from lungseg.nn.unet import UNet

CPU = torch.device("cpu")


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return UNet(channels=(2, 4))


def test_a_forward_pass_predicts_without_gradients_in_the_number_type_asked_for(unet):
    unet.eval()
    image = works.random_image((2, 1, 8, 8), CPU)
    logits = works.forward_work(unet, image)()
    assert not logits.requires_grad
    torch.testing.assert_close(logits, unet(image).detach())  # to rounding: the memory format may differ
    assert works.forward_work(unet, image, torch.bfloat16)().dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_step_moves_every_parameter(unet, dtype):
    image = works.random_image((2, 1, 8, 8), CPU)
    before = [p.clone() for p in unet.parameters()]
    losses = [works.train_work(unet, image, dtype)() for _ in range(2)]
    assert all(np.isfinite(losses))
    assert any(not torch.equal(a, b) for a, b in zip(before, unet.parameters(), strict=True))
    assert all(p.grad is not None for p in unet.parameters())


def test_images_are_the_same_at_each_call():
    first, second = (works.random_image((1, 2, 3, 4), CPU) for _ in range(2))
    assert torch.equal(first, second) and first.min() >= 0 and first.max() <= 1


def test_a_scan_is_predicted_slice_by_slice(unet):
    hu = np.random.default_rng(0).integers(-1000, 400, (3, 20, 24)).astype(np.int16)
    predictor = works.untrained_predictor(unet, (16, 16))
    labels, levels = works.scan_work(predictor, hu)()
    middle = works.slice_work(predictor, hu)()
    assert labels.shape == hu.shape and middle.shape == hu.shape[1:]
    assert levels[0, 1] / 65535 == pytest.approx(middle, abs=1e-5)


def test_a_phantom_chest_has_the_size_asked_for():
    assert works.phantom_hu(1, 32).shape == (1, 32, 32)


def test_the_augmentation_varies_and_the_pair_stays():
    image, target = works.random_pair(32)
    before = image.copy(), target.copy()
    work = works.augmentation_work(image, target)
    (first, lesion), (second, _) = work(), work()
    assert first.shape == image.shape and lesion.dtype == np.uint8 and not np.array_equal(first, second)
    assert np.array_equal(image, before[0]) and np.array_equal(target, before[1])


def test_an_epoch_of_the_loader_has_all_its_slices(tmp_path):
    work, number = works.loader_work(tmp_path / "slices", side=32, num_workers=0)
    assert work() == number > 8


def test_a_checkpoint_holds_network_and_optimizer(tmp_path, unet):
    work, size = works.checkpoint_work(tmp_path, unet)
    work()
    saved = load_checkpoint(tmp_path / "last.pt")
    assert saved["model"].keys() == unet.state_dict().keys() and saved["optimizer"]["state"]
    assert size == 3 * 4 * sum(p.numel() for p in unet.parameters())


def test_warming_up_leaves_nothing_behind():
    works.warm_up(CPU)
