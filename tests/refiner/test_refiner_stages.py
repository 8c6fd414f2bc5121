"""MedSAM, the refiner and the judge: what each begins with, and what it learns from."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lungseg.checkpoint import load_checkpoint
from lungseg.decision import Decision
from lungseg.evaluation.choosing import Choice
from lungseg.nn.refiner import Refined
from lungseg.predictor import load_predictor
from lungseg.refiner import refiner_stages
from lungseg.refiner.clip_stage import train_clip
from lungseg.refiner.judge import Judge
from lungseg.refiner.proposer_stage import train_proposer
from lungseg.refiner.refiner_stages import finish, fit_judge_on, medsam_spec, refiner_loss, train_medsam, train_refiner
from lungseg.refiner.stages import Stages
from lungseg.refiner.training_crops import TrainingPlaces


def places_of(c):
    return TrainingPlaces.find(c.slices("train"), c.settings, lambda i: np.full((16, 16), 0.9, np.float32))


def test_the_refiner_begins_as_medsam_and_with_all_of_biomedclip(context, spec, monkeypatch):
    c = context(rank=1)
    train_medsam(c)
    medsam = load_checkpoint(c.stages.path("medsam"))
    clip = {n[5:]: t for n, t in spec.build().state_dict().items() if n.startswith("clip.")}
    texts = torch.nn.functional.normalize(torch.rand(2, 4), dim=-1)
    monkeypatch.setattr(refiner_stages, "read_clip", lambda _: (spec.clip, clip, texts))
    still = replace(c, recipe=replace(c.recipe, refiner_lr=1e-12, weight_decay=0.0))
    train_refiner(still, lambda: places_of(c))
    after = load_checkpoint(c.stages.path("refiner"))["model"]
    for name, tensor in medsam["model"].items():
        assert torch.allclose(after[name], tensor, atol=1e-6), name
    assert all(torch.equal(after[f"clip.{name}"], tensor) for name, tensor in clip.items())
    assert torch.equal(after["text_features"], texts) and after["add_vector.weight"].abs().max() < 1e-6


def test_without_biomedclip_there_is_none(context):
    c = context(use_clip=False)
    train_medsam(c)
    assert train_refiner(c, lambda: places_of(c)).clip is None


def test_the_shares_of_the_recipe_reach_the_batches(context, monkeypatch):
    c = context(use_clip=False, false_alarms=0.9, proposed=0.1, jitter=0.05, prior_dropped=0.7, sam_steps=1)
    asked, real = [], TrainingPlaces.batch
    monkeypatch.setattr(
        TrainingPlaces,
        "batch",
        lambda self, net, rng, num, **how: asked.append((num, how)) or real(self, net, rng, num, **how),
    )
    train_medsam(c)
    train_refiner(c, lambda: places_of(c))
    assert asked == [
        (2, {"jitter": 0.05}),
        (2, {"prior_dropped": 0.7, "false_alarms": 0.9, "proposed": 0.1, "jitter": 0.05}),
    ]


@pytest.mark.parametrize("empty_targets", [False, True])
def test_only_the_refiner_has_a_smooth_of_one_pixel_and_may_leave_empty_targets_out(
    context, monkeypatch, empty_targets
):
    asked = []

    def spy(out, target, **how):
        asked.append(how)
        return out.mask_logits.mean()

    monkeypatch.setattr(refiner_stages, "refiner_loss", spy)
    c = context(use_clip=False, empty_targets=empty_targets)
    train_medsam(c)
    train_refiner(c, lambda: places_of(c))
    assert asked == [{"smooth": 1e-5}, {"smooth": 1.0, "empty_targets": empty_targets}]


def test_the_mask_of_a_false_alarm_counts_only_with_empty_targets_and_its_iou_always():
    target = torch.zeros(2, 1, 8, 8)
    target[1, :, 2:5, 3:6] = 1
    logits = torch.full((2, 1, 8, 8), 0.3, requires_grad=True)
    for empty_targets in (False, True):
        iou = torch.tensor([0.7, 0.2], requires_grad=True)
        loss = refiner_loss(Refined(logits, iou, torch.zeros(2)), target, smooth=1.0, empty_targets=empty_targets)
        of_logits, of_iou = torch.autograd.grad(loss, (logits, iou))
        assert bool(of_logits[0].any()) == empty_targets and of_logits[1].any() and of_iou.all()
    alone = refiner_loss(Refined(logits[1:], iou[1:], torch.zeros(1)), target[1:], smooth=1.0)
    of_alone = torch.autograd.grad(alone, logits)[0]
    both = refiner_loss(Refined(logits, iou, torch.zeros(2)), target, smooth=1.0, empty_targets=False)
    assert torch.allclose(torch.autograd.grad(both, logits)[0], of_alone)


def test_false_alarms_alone_teach_the_mask_nothing():
    logits, iou = (torch.rand(2, 1, 4, 4, requires_grad=True), torch.tensor([0.5, 0.1], requires_grad=True))
    loss = refiner_loss(Refined(logits, iou, iou), torch.zeros(2, 1, 4, 4), smooth=1.0, empty_targets=False)
    of_logits, of_iou = torch.autograd.grad(loss, (logits, iou))
    assert loss.item() == pytest.approx((0.5**2 + 0.1**2) / 2) and not of_logits.any() and of_iou.all()


def test_steps_rates_and_sizes_are_those_of_the_recipe(context, monkeypatch):
    asked, real = {}, Stages.train

    def spy(self, name, build, loss_of, *, steps, lr, **how):
        asked[name] = steps, lr
        return real(self, name, build, loss_of, steps=steps, lr=lr, **how)

    monkeypatch.setattr(Stages, "train", spy)
    c = context(
        proposer_steps=3, proposer_lr=0.01, clip_steps=2, clip_lr=0.02, sam_steps=0, sam_lr=0.03, refiner_steps=1,
        refiner_lr=0.04, sam_dim=9, sam_depth=4, clip_dim=8, clip_depth=2,
    )  # fmt: skip
    train_proposer(c)
    train_clip(c)
    train_medsam(c)
    spec = train_refiner(c, lambda: places_of(c))
    assert asked == {"proposer": (3, 0.01), "clip": (2, 0.02), "medsam": (0, 0.03), "refiner": (1, 0.04)}
    assert (spec.sam["embed_dim"], spec.sam["depth"], spec.sam["global_blocks"]) == (9, 4, [1, 3])
    assert (spec.clip["vision_dim"], spec.clip["vision_depth"]) == (8, 2) and spec.sam["img_size"] == 16


def test_best_pt_holds_the_judge_and_the_decision_that_were_found(context, monkeypatch):
    c = context(use_clip=False)
    proposer, spec = train_proposer(c), train_medsam(c)
    train_refiner(c, lambda: places_of(c))
    monkeypatch.setattr(refiner_stages, "fit_judge_on", lambda *_: (Judge(1, 2, 3, 4), 9, 5))
    choice = Choice(Decision(0.35, 3), 0.5, 0.4)
    monkeypatch.setattr(refiner_stages, "choose_decision", lambda *_: choice)
    dice = finish(c, proposer, spec)
    predictor = load_predictor(c.stages.out / "best.pt")
    assert predictor.judge == Judge(1, 2, 3, 4) and predictor.decision == Decision(0.35, 3)
    assert predictor.settings == c.settings and 0 <= dice <= 1


def test_empty_targets_teach_because_of_the_smooth():
    """With MedSAM's own 1e-5 the Dice of an empty target is 1 and flat; with 1 pixel it falls with what is drawn."""
    slopes = {}
    for smooth in (1e-5, 1.0):
        logits = torch.full((1, 1, 4, 4), -3.0, requires_grad=True)
        target = torch.zeros(1, 1, 4, 4)
        loss = refiner_loss(Refined(logits, torch.zeros(1), torch.zeros(1)), target, smooth=smooth)
        loss = loss - torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
        slopes[smooth] = torch.autograd.grad(loss, logits)[0].abs().sum().item()
    assert slopes[1.0] > 100 * slopes[1e-5]


def test_the_estimate_of_the_iou_is_compared_with_the_iou():
    logits = torch.full((2, 1, 4, 4), -9.0)
    logits[0, 0, :2], target = 9.0, torch.zeros(2, 1, 4, 4)
    target[0, 0, :1] = 1  # IoU 1/2; and nothing on nothing, 0
    loss = [refiner_loss(Refined(logits, torch.tensor(iou), torch.zeros(2)), target, smooth=1.0) for iou in
            ([0.5, 0.0], [0.7, 0.4])]  # fmt: skip
    assert (loss[1] - loss[0]).item() == pytest.approx((0.2**2 + 0.4**2) / 2, abs=1e-6)


def test_weights_of_another_run_are_taken_as_they_are(context, tmp_path):
    first = context(tmp_path / "first", sam_dim=12)
    train_medsam(first)
    file = first.stages.path("medsam")
    second = context(tmp_path / "second", sam=str(file), sam_steps=0)
    train_medsam(second)
    one, other = load_checkpoint(file), load_checkpoint(second.stages.path("medsam"))
    assert one["spec"] == other["spec"] and all(torch.equal(one["model"][n], t) for n, t in other["model"].items())
    with pytest.raises(ValueError, match="expected medsam.pt of a run with --rank 2"):
        medsam_spec(context(tmp_path / "third", sam=str(file), rank=2))


def test_a_finished_stage_needs_neither_its_file_nor_its_candidates(context, tmp_path, capsys):
    c = context(use_clip=False)
    specs = train_medsam(c), train_refiner(c, lambda: places_of(c))
    lines = capsys.readouterr().out
    moved = replace(c, recipe=replace(c.recipe, sam=str(tmp_path / "moved.pth")), folder=tmp_path / "moved")
    assert (train_medsam(moved), train_refiner(moved, lambda: pytest.fail("looked for candidates"))) == specs
    assert capsys.readouterr().out == lines


def test_a_test_split_without_a_dice_is_told_of(context, monkeypatch, capsys):
    monkeypatch.setattr(refiner_stages, "scores_per_image", lambda _: {"dice": np.array([np.nan, np.nan])})
    monkeypatch.setattr(refiner_stages, "score_all", lambda *_, **__: [])
    monkeypatch.setattr(refiner_stages, "choose_decision", lambda *_: Choice(Decision(0.35, 3), 0.5, 0.4))
    c = context()
    proposer = train_proposer(c)
    monkeypatch.setattr(refiner_stages, "load_predictor", lambda *_: c.predictor(proposer))
    assert np.isnan(refiner_stages.tell_test(c, proposer, c.stages.out / "best.pt"))
    assert capsys.readouterr().out.splitlines()[-1] == "test: no slice holds a lesion, so there is no mean Dice"


def test_the_judge_learns_which_candidates_are_lesions(context, checkpoint, monkeypatch):
    c, predictor = context(), load_predictor(checkpoint)
    probs = np.full((16, 16), 0.1, np.float32)
    probs[3:8, 4:8], probs[13:15, 12:15] = 0.9, 0.6  # the square, more or less, and nothing
    monkeypatch.setattr(refiner_stages, "proposer_map", lambda *_: probs)
    judge, num, lesions = fit_judge_on(predictor, c)
    assert (num, lesions) == (4, 2) and judge.proposer > 0 and judge != predictor.judge
    monkeypatch.setattr(refiner_stages, "proposer_map", lambda *_: np.zeros((16, 16), np.float32))
    assert fit_judge_on(predictor, c) == (Judge(), 0, 0)
