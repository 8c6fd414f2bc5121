"""What does each part of a refiner add? One table, on the test split of a finished run of examples/train_refiner.py.

    python docs/benchmarks/refiner_ablation.py RUN [DATA]

Every row but the last three sees the same boxes, those of the proposer, and has its own judge and its own threshold,
chosen on validation. The U-Net of row c is trained here, once; its weights stay in RUN/ablation. DATA is only needed
if the folder of the run has moved.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lungseg.checkpoint import load_checkpoint
from lungseg.evaluation.box_controls import inscribed_ellipse
from lungseg.evaluation.lesions import SIZES_MM, connected_components
from lungseg.evaluation.scores import ImageScore, score_all
from lungseg.evaluation.strata import EVERYTHING, Stratum, bootstrap, intervals, table_row
from lungseg.exits import leave, run_main
from lungseg.flags import Parser, given_path
from lungseg.folder_prediction import FolderLesions, choose_decision, open_split
from lungseg.nn.refiner import CandidateRefiner
from lungseg.nn.unet import UNet
from lungseg.predictor import Predictor, load_predictor
from lungseg.refiner.checkpoint import RefinerSpec
from lungseg.refiner.context import Context
from lungseg.refiner.crops import Crop
from lungseg.refiner.prediction import Looks, RefinerPredictor, prior_logits, refiner_input
from lungseg.refiner.proposals import Proposal, component_boxes
from lungseg.refiner.proposer_stage import candidates_of, cross_fitted
from lungseg.refiner.recipe import RefinerOptions, RefinerRecipe
from lungseg.refiner.refiner_stages import fit_judge_on, mask_loss, proposer_map
from lungseg.refiner.run import open_refiner_run
from lungseg.refiner.stages import Stages
from lungseg.trained_network import read_network
from lungseg.training.lock import locked
from lungseg.training.sets import last_split

STRATA = [EVERYTHING, *(Stratum(size=size) for size in SIZES_MM)]


# ---- other ways to look at the same boxes ---------------------------------------------------------------------------


class OtherLook(RefinerPredictor):
    """The refiner's boxes, looked at in another way: (grey, probs, proposals) -> `Looks`.

    The judge is fitted on the validation slices, the decision chosen on them: what was seen there is kept until then.
    """

    way: Callable[[NDArray, NDArray, Sequence[Proposal]], Looks]
    looks: dict[bytes, tuple[NDArray, Looks]] | None  # digest of a slice -> pixels drawn, all but the masks

    def __init__(self, like: RefinerPredictor, refiner: CandidateRefiner):
        super().__init__(like.network, like.input, refiner, settings=like.settings)
        self.looks = {}

    def look(self, grey: NDArray, probs: NDArray, proposals: Sequence[Proposal]) -> Looks:
        if self.looks is None:
            return self.way(grey, probs, proposals)
        key = sha256(grey.tobytes()).digest()
        if key not in self.looks:
            looks = self.way(grey, probs, proposals)
            self.looks[key] = np.flatnonzero(looks.masks >= 0.5), looks._replace(masks=np.empty(0, np.float32))
        drawn, looks = self.looks[key]
        masks = np.zeros((len(proposals), *grey.shape), np.float32)
        masks.flat[drawn] = 1  # `refined` asks no more of a mask than where it is at least 1/2
        return looks._replace(masks=masks)


def other(c: Context, like: RefinerPredictor, refiner: CandidateRefiner | None = None) -> OtherLook:
    """A predictor with the proposer and the settings of `like`."""
    return OtherLook(like, (refiner or like.refiner).to(c.stages.device).eval())


def ellipses(c: Context, like: RefinerPredictor) -> OtherLook:
    """b: the ellipse in each box; no image is seen."""
    found = other(c, like)

    def way(grey: NDArray, probs: NDArray, proposals: Sequence[Proposal]) -> Looks:
        masks = np.stack([inscribed_ellipse(p.box, grey.shape) for p in proposals]).astype(np.float32)
        return Looks(masks, np.zeros(len(masks)), np.zeros(len(masks)))

    found.way = way
    return found


def unet_on_crops(c: Context, like: RefinerPredictor) -> OtherLook:
    """c: a U-Net that sees what the refiner sees: the crop, the box as a map, the proposer's logits."""
    network, found = train_unet(c, like), other(c, like)

    @torch.no_grad()
    def way(grey: NDArray, probs: NDArray, proposals: Sequence[Proposal]) -> Looks:
        crops = [like.settings.crop(grey, p.box) for p in proposals]
        x = unet_input(like.refiner, crops, [prior_logits(crop.cut(probs)) for crop in crops])
        drawn = network(x).sigmoid()[:, 0].cpu().numpy()
        masks = np.stack([crop.paste(mask, grey.shape) for crop, mask in zip(crops, drawn, strict=True)])
        return Looks(masks, np.zeros(len(masks)), np.zeros(len(masks)))

    found.way = way
    return found


def train_unet(c: Context, like: RefinerPredictor) -> nn.Module:
    """As many parameters as MedSAM, as many steps as MedSAM and the refiner together, on the refiner's crops."""
    r, run = c.recipe, c.stages
    folds = [read_network(run.path(f"proposer_without_fold{k}")) for k in (0, 1)] if r.cross_fit else []
    places = cross_fitted(c, read_network(run.path("proposer")), folds)
    shares = {"false_alarms": r.false_alarms, "proposed": r.proposed, "jitter": r.jitter}
    size, channels = sum(p.numel() for p in like.refiner.sam.parameters()), (2, 4, 8, 16, 32)
    while sum(p.numel() for p in UNet(channels=channels, in_channels=3).parameters()) < size:
        channels = tuple(n + n // channels[0] for n in channels)  # (3, 6, 12, 24, 48), (4, 8, 16, 32, 64), ...

    def loss_of(model: nn.Module, step: int, rng: np.random.Generator) -> Tensor:
        b = places.batch(like.refiner, rng, r.batch_size, prior_dropped=r.prior_dropped, **shares)
        assert b.prior is not None and b.prior_present is not None
        prior = torch.where(b.prior_present[:, None, None, None], b.prior, torch.zeros_like(b.prior))
        drawn = model(with_box(b.ct, b.boxes, prior))
        return mask_loss(drawn, b.target, smooth=1.0, empty_targets=r.empty_targets)

    (run.out / "ablation").mkdir(exist_ok=True)
    stages = Stages(
        run.out / "ablation", seed=run.seed, device=run.device, save_every=r.save_every, weight_decay=r.weight_decay
    )
    return stages.train(
        "unet_on_crops", lambda: UNet(channels=channels, in_channels=3), loss_of,
        steps=r.sam_steps + r.refiner_steps, lr=r.proposer_lr,
    )  # fmt: skip


def unet_input(network: CandidateRefiner, crops: Sequence[Crop], priors: Sequence[NDArray]) -> Tensor:
    ct, boxes, prior = refiner_input(network, crops, priors)
    assert prior is not None
    return with_box(ct, boxes, prior)


def with_box(ct: Tensor, boxes: Tensor, prior: Tensor) -> Tensor:
    """(P, C, S, S), (P, 4), (P, 1, S, S) -> (P, 3, S, S): the crop, 1 in the box, the logits / 7."""
    at = torch.arange(ct.shape[-1], device=ct.device)
    x0, y0, x1, y1 = boxes[:, :, None, None].unbind(1)  # (P, 1, 1) each
    inside = (at >= x0) & (at <= x1) & (at[:, None] >= y0) & (at[:, None] <= y1)  # (P, S, S)
    return torch.cat([ct[:, :1], inside[:, None].float(), prior / 7], dim=1)


def borrowed_features(c: Context, like: RefinerPredictor) -> OtherLook | None:
    """f: what BiomedCLIP sees in a crop is what it sees in another, drawn from the validation candidates, if any."""
    network, rng = copy.deepcopy(like.refiner), np.random.default_rng(0)
    data, places = c.slices("val"), []
    for index in range(len(data)):
        probs = proposer_map(like, data, index, data.pair(index)[0][0])
        places += [(index, p.box) for p in like.settings.propose(probs)]
    if not places:
        return None

    def borrow(ct: Tensor) -> tuple[Tensor, ...]:
        drawn = [places[i] for i in rng.integers(len(places), size=len(ct))]
        crops = [like.settings.crop(data.pair(index)[0][0], box) for index, box in drawn]
        # One by one, when they are needed: what BiomedCLIP sees in all of them takes gigabytes.
        seen = [like.refiner._clip(refiner_input(network, [crop], None)[0]) for crop in crops]
        return tuple(torch.cat(part) for part in zip(*seen, strict=True))

    network._clip = borrow  # type: ignore[method-assign]
    found = other(c, like, network)
    found.way = lambda grey, probs, proposals: found.look_at_boxes(grey, [p.box for p in proposals], probs)
    return found


def without_prior(c: Context, like: RefinerPredictor, network: CandidateRefiner | None = None) -> OtherLook:
    """d, of MedSAM, and g, of the refiner: the box is the only prompt."""
    found = other(c, like, network)
    found.way = lambda grey, _, proposals: found.look_at_boxes(grey, [p.box for p in proposals])
    return found


def read_medsam(c: Context) -> CandidateRefiner:
    saved = load_checkpoint(c.stages.path("medsam"))
    network = RefinerSpec(**saved["spec"]).build()
    network.load_state_dict(saved["model"])
    return network.eval()


# ---- scores ---------------------------------------------------------------------------------------------------------


def score(c: Context, predictor: Predictor, name: str) -> list[ImageScore]:
    """The test slices, with a judge and a decision from the validation slices."""
    if isinstance(predictor, OtherLook):
        predictor.judge = fit_judge_on(predictor, c)[0]
    decision, data = choose_decision(predictor, c.folder).decision, open_split(c.folder, last_split(c.folder))
    if isinstance(predictor, OtherLook):
        predictor.looks = None  # every test slice is looked at once
    return score_all(data, FolderLesions(predictor, data, decision), title=name)


def score_true_boxes(c: Context, draw: Callable[[NDArray, list], NDArray], name: str) -> list[ImageScore]:
    """h: what is drawn in the boxes of the true lesions, (grey, boxes) -> masks (n, H, W) bool."""
    data = c.slices(last_split(c.folder))
    index = {record.id: i for i, record in enumerate(data.records)}

    def predict(image: NDArray, record: Any) -> NDArray:
        boxes = component_boxes(connected_components(data.pair(index[record.id])[1] > 0)[0])
        return draw(image, boxes).any(axis=0) if boxes else np.zeros(image.shape, bool)

    return score_all(data, predict, title=name)


def row(name: str, scores: list[ImageScore]) -> str:
    """Mean Dice of each stratum with the 95 % interval over patients; lesions found, and false positives per slice."""
    cells = []
    for stratum in STRATA:
        low, high = intervals(scores, stratum=stratum)["dice"]
        mean = float(table_row(scores, stratum=stratum, draws=0)["dice"])
        range_ = f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else ""  # too few patients for one
        cells.append(f"{mean:.3f}{range_}" if np.isfinite(mean) else "–")
    whole = table_row(scores, draws=0)
    return f"| {name} | {' | '.join(cells)} | {whole['lesion_recall']:.3f} | {whole['false_positives_per_slice']:.3f} |"


def difference(name: str, first: list[ImageScore], second: list[ImageScore]) -> str:
    """The gain of the first over the second in mean Dice, all and below 5 mm, on the same patients."""
    parts = []
    for stratum in STRATA[:2]:
        draws = [bootstrap(scores, stratum=stratum)["dice"] for scores in (first, second)]
        gain = float(np.subtract(*(table_row(s, stratum=stratum, draws=0)["dice"] for s in (first, second))))
        if np.isfinite(gain):
            low, high = np.nanpercentile(np.subtract(*draws), [2.5, 97.5]).tolist()
            parts.append(f"{stratum.name} {gain:+.3f} ({low:+.3f} to {high:+.3f})")
    return f"{name}: {', '.join(parts)}"


def ablation(run: Path, data: Path | None = None) -> int:
    """Print the table."""
    options = RefinerOptions(out=run, data=data, resume=True)
    c = open_refiner_run(RefinerRecipe(), options, {}, torch.device("cpu"))
    best = load_predictor(run / "best.pt")
    if not isinstance(best, RefinerPredictor):
        raise ValueError(f"{run / 'best.pt'} holds no refiner. Give the folder of a run of examples/train_refiner.py.")
    plain, medsam = Predictor(best.network, best.input), without_prior(c, best, read_medsam(c))
    methods: dict[str, Predictor] = {"a: proposer": plain, "b: ellipse in its boxes": ellipses(c, best)}
    methods |= {
        "c: U-Net on the same crops": unet_on_crops(c, best),
        "d: MedSAM in its boxes": medsam,
        "e: refiner": best,
    }
    if best.refiner.clip is not None and (borrowed := borrowed_features(c, best)):
        methods["f: e, BiomedCLIP of other crops"] = borrowed
    methods["g: e without the mask prompt"] = without_prior(c, best)
    scores = {name: score(c, predictor, name) for name, predictor in methods.items()}
    true_boxes: dict[str, Callable[[NDArray, list], NDArray]] = {
        "ellipse": lambda grey, boxes: np.stack([inscribed_ellipse(box, grey.shape) for box in boxes]),
        "MedSAM": lambda grey, boxes: medsam.look_at_boxes(grey, boxes).masks > 0.5,
        "refiner": lambda grey, boxes: best.look_at_boxes(grey, boxes).masks > 0.5,
    }
    for name, draw in true_boxes.items():
        scores[f"h: {name} in true boxes, **not automatic**"] = score_true_boxes(c, draw, name)
    print(f"\n| mean Dice (95 %) | {' | '.join(s.name for s in STRATA)} | lesions found | FP per slice |")
    print("| --- |" + " ---: |" * (len(STRATA) + 2))
    for name, of_method in scores.items():
        print(row(name, of_method))
    print("\nGain in mean Dice, with the interval over the same patients:")
    e = scores["e: refiner"]
    for name in list(methods):
        if name != "e: refiner":
            print(difference(f"e - {name[0]}", e, scores[name]))
    for most in (1, 2, 4, 8):
        few = replace(c, recipe=replace(c.recipe, most=most))
        recall = candidates_of(few, plain, last_split(c.folder)).recall
        print(f"Of {most} candidates per slice at most: {recall:.1%} of the lesions are in a box.")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Return an exit code."""
    parser = Parser(prog="refiner_ablation.py", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=given_path, help="the folder of a finished run")
    parser.add_argument("data", metavar="DATA", type=given_path, nargs="?", help="where its data are now")
    args = parser.parse_args(argv)

    def work() -> int:
        with locked(args.run):  # no training writes there meanwhile
            return ablation(args.run, args.data)

    return run_main(
        "refiner_ablation.py", work, stopped="Nothing was lost.", too_little_memory="Use a machine with more memory."
    )


if __name__ == "__main__":
    leave(main())
