"""The last stages of a refiner: MedSAM on true boxes, the refiner on candidates, the judge on validation candidates."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from lungseg import __version__
from lungseg.checkpoint import is_sealed, load_checkpoint, save_checkpoint
from lungseg.decision import Decision
from lungseg.evaluation.scores import score_all, scores_per_image
from lungseg.files import regular_file
from lungseg.folder_prediction import FolderLesions, choose_decision, open_split, predict_probs
from lungseg.losses import dice_bce_loss
from lungseg.nn.refiner import CandidateRefiner, Refined
from lungseg.nn.sam import TINY, MedSAM
from lungseg.predictor import Predictor, load_predictor
from lungseg.refiner.checkpoint import RefinerSpec, refiner_entries
from lungseg.refiner.clip_stage import read_clip
from lungseg.refiner.context import Context
from lungseg.refiner.judge import Judge, fit_judge
from lungseg.refiner.prediction import RefinerPredictor
from lungseg.refiner.stages import read_stage
from lungseg.refiner.training_crops import TrainingPlaces, lesion_in_box
from lungseg.trained_network import TrainedNetwork
from lungseg.training.resume import load_parts
from lungseg.training.sets import last_split
from lungseg.weights.load import load_published

SMOOTH_OF_MEDSAM = 1e-5  # in its own loss; where targets may be empty, 1 pixel


# ---- MedSAM -----------------------------------------------------------------------------------------------------


def train_medsam(c: Context) -> RefinerSpec:
    """Train MedSAM on true boxes, moved; write medsam.pt, a refiner without BiomedCLIP."""
    if saved := c.stages.read_finished("medsam"):
        return RefinerSpec(**saved["spec"])
    r, spec = c.recipe, medsam_spec(c)
    places = TrainingPlaces.find(c.slices("train"), c.settings)

    def loss_of(model: nn.Module, step: int, rng: np.random.Generator) -> Tensor:
        assert isinstance(model, CandidateRefiner)
        batch = places.batch(model, rng, r.batch_size, jitter=r.jitter)
        return refiner_loss(model(batch.ct, batch.boxes), batch.target, smooth=SMOOTH_OF_MEDSAM)

    c.stages.train("medsam", lambda: start_medsam(c, spec), loss_of, steps=r.sam_steps, lr=r.sam_lr, spec=asdict(spec))
    return spec


def medsam_spec(c: Context) -> RefinerSpec:
    """The sizes of MedSAM: tiny, those of another run, or the published ones."""
    r = c.recipe
    if r.sam and is_sealed(regular_file(r.sam)):
        spec = RefinerSpec(**read_stage(r.sam, "medsam", "spec")["spec"])
        if spec.rank != r.rank:
            raise ValueError(f"{r.sam}: expected medsam.pt of a run with --rank {r.rank}. Give that, or its --rank.")
        return spec
    if r.sam:
        return RefinerSpec({"img_size": c.settings.size}, rank=r.rank)
    tiny = TINY | {"in_channels": 1, "img_size": r.crop_size, "embed_dim": r.sam_dim, "depth": r.sam_depth}
    blocks = {"global_blocks": [r.sam_depth // 2 - 1, r.sam_depth - 1]}
    return RefinerSpec(tiny | blocks, rank=r.rank)


def start_medsam(c: Context, spec: RefinerSpec) -> CandidateRefiner:
    """MedSAM before its training here; what was found in a published file is printed."""
    network, report = given_medsam(spec, c.recipe.sam) if c.recipe.sam else (spec.build(), "")
    if report:
        print(report, flush=True)
    return network


def given_medsam(spec: RefinerSpec, file: str) -> tuple[CandidateRefiner, str]:
    """The network of a file, medsam.pt of another run or published weights, and a report on the latter."""
    if is_sealed(regular_file(file)):
        network = spec.build()
        load_parts({"model": network}, read_stage(file, "medsam", "spec"), Path(file))
        return network, ""
    sam = MedSAM(**spec.sam)
    report = str(load_published(sam, file))  # before LoRA, which renames weights
    return CandidateRefiner(sam, rank=spec.rank), report


def refiner_loss(out: Refined, target: Tensor, *, smooth: float, empty_targets: bool = True) -> Tensor:
    """Dice of squares + cross entropy, as MedSAM; and the squared error of the estimated IoU, as SAM.

    Args:
        out: of P crops.
        target: (P, 1, S, S).
        smooth: in pixels, of the Dice.
        empty_targets: whether the masks of crops without a lesion count. Their estimated IoU, which should be 0, does.
    """
    mask = mask_loss(out.mask_logits, target, smooth=smooth, empty_targets=empty_targets)
    drawn, lesion = out.mask_logits.detach() > 0, target > 0
    overlap, union = (drawn & lesion).sum((1, 2, 3)), (drawn | lesion).sum((1, 2, 3))
    return mask + (out.iou - overlap / union.clamp(min=1)).square().mean()


def mask_loss(mask_logits: Tensor, target: Tensor, *, smooth: float, empty_targets: bool) -> Tensor:
    """The part of `refiner_loss` about what is drawn, (P, 1, S, S); 0 if no crop counts."""
    if not empty_targets:
        holds = target.any((1, 2, 3))
        mask_logits, target = mask_logits[holds], target[holds]
    if not len(target):
        return mask_logits.sum()
    return dice_bce_loss(mask_logits, target, squared=True, smooth=smooth)


# ---- the refiner ------------------------------------------------------------------------------------------------


def train_refiner(c: Context, find_places: Callable[[], TrainingPlaces]) -> RefinerSpec:
    """Train on candidates and true boxes; write refiner.pt.

    Args:
        find_places: looks for those of the training slices (`cross_fitted`); not called if the stage is finished.
    """
    if saved := c.stages.read_finished("refiner"):
        return RefinerSpec(**saved["spec"])
    r, places = c.recipe, find_places()
    medsam = load_checkpoint(c.stages.path("medsam"))
    arguments, weights, texts = read_clip(c) if r.use_clip else (None, {}, None)
    spec = RefinerSpec(medsam["spec"]["sam"], arguments, r.rank, sentences=texts is not None)
    shares = {"false_alarms": r.false_alarms, "proposed": r.proposed, "jitter": r.jitter}

    def build() -> CandidateRefiner:
        network = spec.build()
        state = medsam["model"] | {f"clip.{name}": tensor for name, tensor in weights.items()}
        network.load_state_dict(state | ({"text_features": texts} if texts is not None else {}), strict=False)
        return network

    def loss_of(model: nn.Module, step: int, rng: np.random.Generator) -> Tensor:
        assert isinstance(model, CandidateRefiner)
        b = places.batch(model, rng, r.batch_size, prior_dropped=r.prior_dropped, **shares)
        out = model(b.ct, b.boxes, b.prior, prior_present=b.prior_present)
        return refiner_loss(out, b.target, smooth=1.0, empty_targets=r.empty_targets)

    def describe(_: nn.Module) -> str:
        return f"{len(places.proposed)} candidates with a lesion, {len(places.false)} false alarms to learn from"

    c.stages.train(
        "refiner", build, loss_of, steps=r.refiner_steps, lr=r.refiner_lr, describe=describe, spec=asdict(spec)
    )
    return spec


# ---- the judge, and the end -------------------------------------------------------------------------------------


def fit_judge_on(predictor: RefinerPredictor, c: Context, split: str = "val") -> tuple[Judge, int, int]:
    """The judge of the candidates of a split; how many there are, and how many of them hold a lesion.

    Without both kinds of candidates there is nothing to fit, and the judge believes the proposer.
    """
    data, features, is_lesion = c.slices(split), [], []
    for index in range(len(data)):
        (grey,), target, _ = data.pair(index)
        probs = proposer_map(predictor, data, index, grey)
        if proposals := predictor.settings.propose(probs):
            features.append(predictor.features(proposals, predictor.look(grey, probs, proposals)))
            is_lesion += [bool(lesion_in_box(target > 0, p.box).any()) for p in proposals]
    if 0 < sum(is_lesion) < len(is_lesion):
        return fit_judge(np.concatenate(features), is_lesion), len(is_lesion), sum(is_lesion)
    return Judge(), len(is_lesion), sum(is_lesion)


def proposer_map(predictor: RefinerPredictor, data: Any, index: int, grey: np.ndarray) -> np.ndarray:
    """The proposer's probabilities on a slice of a folder."""
    plain = Predictor(predictor.network, predictor.input, batch_size=predictor.batch_size)
    return predict_probs(plain, data, index, grey)[0]


def finish(c: Context, proposer: TrainedNetwork, spec: RefinerSpec) -> float:
    """Fit the judge, choose the decision, write best.pt, score the test slices; return their mean Dice."""
    path, device = c.stages.out / "best.pt", c.stages.device
    if not path.exists():
        network = spec.build()
        load_parts({"model": network}, load_checkpoint(c.stages.path("refiner")), c.stages.path("refiner"))
        predictor = RefinerPredictor(
            proposer.network.to(device), proposer.input, network.eval().to(device), settings=c.settings
        )
        predictor.judge, num, lesions = fit_judge_on(predictor, c)
        decision = choose_decision(predictor, c.folder).decision
        a, b, d, e = asdict(predictor.judge).values()
        line = (
            f"judge: {num} validation candidates, {lesions} with a lesion; s = {a:.2f} logit(p) + {b:.2f} similarity + "
            f"{d:.2f} IoU + {e:.2f}; lesion is where the probability is {decision}"
        )
        own = load_checkpoint(c.stages.path("proposer"))
        save_checkpoint(path, {
            **{name: own[name] for name in ("network", "input", "model")}, "decision": decision.to_dict(), "line": line,
            **refiner_entries(spec, network.cpu(), c.settings, predictor.judge), "recipe": asdict(c.recipe),
            "lungseg": __version__,
        })  # fmt: skip
    print(load_checkpoint(path)["line"], flush=True)
    return tell_test(c, proposer, path)


def tell_test(c: Context, proposer: TrainedNetwork, path: Path) -> float:
    """Print the mean Dice on the test split of the proposer and of the refiner, each with its own decision.

    Returns:
        That of the refiner.
    """
    split, plain = last_split(c.folder), c.predictor(proposer)
    refined = load_predictor(path, c.stages.device)
    of_proposer = mean_dice(c, plain, choose_decision(plain, c.folder).decision, split)
    of_refiner = mean_dice(c, refined, refined.decision, split)
    if np.isnan([of_proposer, of_refiner]).any():
        print(f"{split}: no slice holds a lesion, so there is no mean Dice", flush=True)
    else:
        print(f"{split}: Dice of the proposer {of_proposer:.4f}, refined {of_refiner:.4f}", flush=True)
    return of_refiner


def mean_dice(c: Context, predictor: Predictor, decision: Decision, split: str) -> float:
    """The mean Dice of a split with a decision, over the slices that have one; NaN if none has."""
    data = open_split(c.folder, split)
    scores = score_all(data, FolderLesions(predictor, data, decision), title=split)
    dice = scores_per_image(scores)["dice"]
    return float("nan") if np.isnan(dice).all() else float(np.nanmean(dice))
