"""The decision at the end of a run: chosen on validation, kept in best.pt, scored on test."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lungseg.checkpoint import InputSpec, load_checkpoint, save_checkpoint
from lungseg.data.ct import HU_WINDOW
from lungseg.data.manifest import ImageRecord
from lungseg.data.resampled_volumes import ResampledVolumes
from lungseg.data.samples import shown
from lungseg.data.volumes import VolumeWriter
from lungseg.decision import Decision
from lungseg.evaluation.choosing import choose, dice_grid
from lungseg.folder_prediction import choose_decision
from lungseg.predictor import Predictor
from lungseg.training.decide import decide, lesions
from lungseg.training.distributed import ALONE


class Grey(nn.Module):
    """The probability is the grey value."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, image):
        return self.gain * torch.logit(image.clamp(1e-6, 1 - 1e-6))


def batch(seed, classes=1, num=3, level=0.42):
    """Lesions of 12 pixels at `level`, single pixels at 0.8, and noise below 0.3."""
    rng = np.random.default_rng(seed)
    image, target = rng.random((num, classes, 8, 8)) * 0.3, np.zeros((num, classes, 8, 8))
    target[:, :, 1:4, 2:6] = 1
    image[target > 0] = level
    image[:, :, 6, 6] = 0.8
    ids = [f"s{seed}_{i}" for i in range(num)]
    return torch.from_numpy(image).float(), torch.from_numpy(target).float(), ids


def data_of(val, test, classes=()):
    val_set, test_set = (
        SimpleNamespace(records=[SimpleNamespace(id=i) for _, _, ids in batches for i in ids])
        for batches in (val, test)
    )
    input_ = SimpleNamespace(size=(8, 8))
    return SimpleNamespace(val=val, test=test, classes=classes, input=input_, val_set=val_set, test_set=test_set)


@pytest.fixture
def best(tmp_path):
    save_checkpoint(tmp_path / "best.pt", {"model": {"gain": torch.ones(())}, "run": {"a": 1}})
    return tmp_path / "best.pt"


def test_it_is_chosen_on_validation_kept_and_scored_on_test(best):
    model = Grey().train()
    decided = decide(model, data_of([batch(0), batch(1)], [batch(2)]), best, processes=ALONE)
    assert decided.choice.decision == Decision(0.4, 2)
    assert (decided.choice.dice, decided.choice.plain_dice) == (1, 0)
    assert decided.scores["dice"] == 1 and decided.scores["images"] == 3 and decided.scores["pooled_rmse"] == 0
    assert load_checkpoint(best) == {"model": {"gain": torch.ones(())}, "run": {"a": 1}} | {
        "decision": {"threshold": 0.4, "min_pixels": 2}
    }
    assert model.training
    assert decided.line("val").startswith(
        "Chosen on validation (Dice 1.0000, with 0.5 0.0000): lesion is where the probability is above 0.4, in "
        "components of at least 2 pixels. val: Dice 1.0000, IoU 1.0000, RMSE 0.0000, recall 1.0000"
    )
    assert decided.to_dict()["test"] == decided.scores and decided.to_dict()["threshold"] == 0.4


def test_in_resampled_volumes_the_smallest_component_is_in_the_voxels_that_the_network_saw(best, tmp_path):
    """Where the predictor counts them too: a file with slices twice as far apart holds half as many."""
    with VolumeWriter(tmp_path / "f") as out:
        for split, depth, spacing in (("val", 3, 2.5), ("test", 5, 2.5)):  # as 6 and as 10 slices of 1.25 mm
            target, hu = np.zeros((depth, 8, 8), np.uint8), np.full((depth, 8, 8), -900, np.int16)
            target[:, 1:4, 2:6] = 1
            hu[:, 1:4, 2:6] = hu[:, 6, 6] = 200  # a column of one voxel is no lesion
            out.add(ImageRecord(split, split, split), hu, target, (spacing, 1, 1))
    sets = {split: ResampledVolumes(tmp_path / "f", split, slice_mm=1.25) for split in ("val", "test")}
    batches = {split: [(image[None], y[None], [id_]) for image, y, id_ in shown(s)] for split, s in sets.items()}
    input_ = InputSpec((6, 8, 8), (1.0, 1.0, 1.0), HU_WINDOW, spacing_mm=(1.25, 1.0, 1.0), slice_mm=1.25)
    data = SimpleNamespace(classes=(), input=input_, val_set=sets["val"], test_set=sets["test"], **batches)
    decided = decide(Grey(), data, best, processes=ALONE)
    assert decided.choice == (Decision(0.5, 8), 1.0, decided.choice.plain_dice) and decided.choice.plain_dice < 1
    assert decided.scores["dice"] == pytest.approx(120 / 125)  # the column of 5 voxels is 10: large enough to stay
    predictor = Predictor(Grey(), input_)
    assert choose_decision(predictor, tmp_path / "f") == decided.choice


def test_a_finished_run_that_is_resumed_leaves_its_file_alone(best):
    data = data_of([batch(0)], [batch(2)])
    first = decide(Grey(), data, best, processes=ALONE)
    then = best.stat()
    assert decide(Grey(), data, best, processes=ALONE) == first
    assert (best.stat().st_ino, best.stat().st_mtime_ns) == (then.st_ino, then.st_mtime_ns)


def test_where_one_half_is_best_nothing_is_changed_and_that_is_said(best):
    data = data_of([batch(0, level=0.9)], [batch(2, level=0.9)])
    for image, *_ in (*data.val, *data.test):
        image[:, :, 6, 6] = 0
    decided = decide(Grey(), data, best, processes=ALONE)
    assert decided.choice.decision == Decision()
    assert (
        decided.line("test")
        == "On validation no threshold and no smallest component is better than 0.5 and none: Dice 1.0000."
    )


def test_several_classes_have_one_decision_and_scores_of_their_own(best):
    data = data_of([batch(0, classes=2)], [batch(1, classes=2)], ("solid", "cyst"))
    decided = decide(Grey(), data, best, processes=ALONE)
    assert decided.choice.decision == Decision(0.4, 2)
    assert decided.scores["dice of solid"] == decided.scores["dice of cyst"] == decided.scores["dice"] == 1


def test_without_a_validation_lesion_there_is_none(best):
    image, target, ids = batch(0)
    assert decide(Grey(), data_of([(image, 0 * target, ids)], [batch(1)]), best, processes=ALONE) is None
    assert "decision" not in load_checkpoint(best)


class FirstOfTwo:
    """The main process of two; the other one has done the validation batch of seed 1, and the test batch of seed 3."""

    is_main, size, rank = True, 2, 0

    def __init__(self):
        self.val = [dice_grid(i, x.numpy(), y.numpy(), 2) for x, y, i in zip(*batch(1, level=0.36), strict=True)]
        self.told = [self.val, []]

    def gather(self, value):
        return [value, self.told.pop(0)]


def test_every_process_has_its_share_of_the_validation_images(best):
    shares = decide(Grey(), data_of([batch(0)], [batch(2)]), best, processes=FirstOfTwo())
    assert (
        shares.choice
        == decide(Grey(), data_of([batch(0), batch(1, level=0.36)], [batch(2)]), best, processes=ALONE).choice
    )
    assert shares.choice.decision == Decision(0.35, 2)
    alone = choose(FirstOfTwo().val)
    assert alone.decision == Decision(0.35, 2)


def test_lesions_of_channels_may_overlap():
    probs = np.full((2, 4, 4), 0.7, np.float32)
    assert lesions(probs, Decision(0.5, 16), 2).sum() == 32 and lesions(probs, Decision(0.5, 17), 2).sum() == 0
