"""Train several networks under one equal budget and evaluate all on the same test patients, with several seeds.

    python examples/compare.py                                                      phantoms, to see it work
    python examples/compare.py --data data/lungs --img-size 256 --steps 20000 --seeds 0 1 2 --out runs/compare
    python examples/compare.py --data data/volumes --seconds 3600 --out runs/volumes
    python examples/compare.py --data data/lungs --networks u_net unetr --folds 5 --out runs/folds

--data is a folder of slices or of volumes. All networks see the same patients, in batches of the same size, with the
same loss, augmentation and schedule, each with its own learning rate. The budget is a number of optimizer steps, or of
seconds, in whole epochs. With --folds K every patient outside the test split validates once. Each run is a command that
is printed and can be run by itself. Started again, the comparison continues where it was stopped. In --out will be

    comparison.md, comparison.csv     the tables: networks by lesion size, and the original report's
    worst_median_best.png             three slices of each network (of volumes: one slice each)
    <network>_seed<n>/                each training run (docs/runs.md); with folds <network>_fold<k>_seed<n>/
"""

import math
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from numpy.typing import NDArray

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (lungseg.exits, afterwards)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from lungseg.data.folder_files import held_kind
from lungseg.data.slices import SliceDataset, check_folder
from lungseg.data.splits import Fold
from lungseg.data.volume_file import read_labelled
from lungseg.data.volumes import VolumeDataset, check_volume_folder, volume_path
from lungseg.draw import prediction_sheet
from lungseg.evaluation import comparison
from lungseg.evaluation.comparison import RunScores, join_runs
from lungseg.evaluation.pictures import three_rows
from lungseg.evaluation.report import report_table
from lungseg.evaluation.scores import ImageScore
from lungseg.evaluation.tables import write_csv
from lungseg.exits import leave, run_main
from lungseg.files import or_warn
from lungseg.flags import check_fields, from_to, not_negative, option, parse_options, positive
from lungseg.folder_prediction import score_decisions
from lungseg.predictor import Predictor, load_predictor
from lungseg.scale import Scale
from lungseg.training.commands import NetworkRuns, folder_name, keep_settings
from lungseg.training.contents import digest, list_contents
from lungseg.training.data import draw_slices, find_data
from lungseg.training.distributed import start_processes
from lungseg.training.lock import locked
from lungseg.training.recipe import RunOptions, TrainingRecipe

# ---- the networks: the script that trains each, its learning rate, and sizes that a CPU can afford -----------------

U_NET = "train_unet.py --channels 16 32 64 128 256 --lr 1e-3"
SWIN_CONV = (
    "train_swin.py --stem conv --patch-size 8 --conv-channels 16 32 64 --embed-dim 64 --depths 2 2 2 --num-heads 2 4 8 "
    "--lr 1e-3"
)

NETWORKS = {  # on slices
    "Swin-UNet": "train_swin.py --patch-size 4 --embed-dim 48 --depths 2 2 2 --num-heads 3 6 12 --window-size 8 "
    "--drop-path-rate 0.1 --lr 5e-4",
    "Swin-UNet (conv)": SWIN_CONV,
    "UNETR": "train_unetr.py --patch-size 8 --embed-dim 192 --depth 6 --num-heads 3 --feature-size 8 "
    "--skip-layers 2 4 --lr 5e-4",
    "ResNet50-U-Net": "train_resnet.py --stem 32 --widths 32 64 128 256 --depths 3 4 6 3 "
    "--decoder-channels 128 64 32 16 16 --lr 1e-3",
    "U-Net": U_NET,
}
VOLUME_NETWORKS = {  # on volumes; a 2-D network learns from their slices
    "U-Net 3-D": "train_unet.py --spatial-dims 3 --channels 8 16 32 64 --norm instance --lr 2e-3",
    "UNETR 3-D": "train_unetr.py --spatial-dims 3 --patch-size 8 --embed-dim 96 --depth 4 --num-heads 3 "
    "--feature-size 8 --skip-layers 1 2 --lr 1e-3",
    "RRC-U-Net 3-D": "train_rrc_unet.py --spatial-dims 3 --channels 4 8 16 32 --norm instance --lr 2e-3",
    "U-Net": U_NET,
    "U-Net + neighbours": U_NET + " --neighbours 1",
    "Swin-UNet (conv)": SWIN_CONV,
    "Swin-UNet (conv) + neighbours": SWIN_CONV + " --neighbours 1",
}
SHARED = "--augment full --schedule cosine --warmup-epochs 1 --threads 0"
CROPS_PER_VOLUME = 2
Images = SliceDataset | VolumeDataset


@dataclass(frozen=True)
class Comparison:
    """All settings that decide what the table says."""

    data: Path | None = option(None, "folder with splits train, val and test; without it, phantom slices are drawn")
    out: Path = option(Path("runs/compare"), "folder of the training runs and tables")
    networks: tuple[str, ...] = option(("all",), "only these, by the names of their folders: u_net swin_unet_conv")
    steps: int = option(450, "optimizer steps for each network, rounded to whole epochs")
    seconds: float | None = option(None, "seconds for each network instead; one epoch is timed first", check=positive)
    seeds: tuple[int, ...] = option((0, 1), "one run of each network per seed; use at least two", check=not_negative)
    folds: int | None = option(
        None, "cross-validation: deal the patients outside the test split into so many folds", check=from_to(2, 99)
    )
    img_size: int = option(64, "side in pixels to resize slices to: 64 for crops around a nodule, 256 for whole slices")
    crop_size: tuple[int, int, int] = option(
        (8, 32, 32), "volumes: slices, rows and columns of a crop; 2-D networks learn from crops of as many rows"
    )
    slice_mm: float | None = option(None, "volumes: 3-D networks learn from slices so many mm apart", check=positive)
    batch_size: int = option(8, "slices or crops per optimizer step")
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", "where to compute; auto takes a GPU if there is one")
    images: bool = option(True, "show the slices in the picture; --no-images if they must not leave your machine")

    def __post_init__(self) -> None:
        check_fields(self)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds} must be different numbers")
        if len(self.crop_size) != 3 or self.crop_size[1] != self.crop_size[2]:
            raise ValueError(f"crop_size={self.crop_size} must name slices, rows and as many columns")


def main(argv: list[str] | None = None) -> dict[str, float] | int:
    """Return the mean test Dice of each network, or an exit code: 2 for what the user can fix, 130 for Ctrl-C."""
    options = parse_options(Comparison(), argv, description=__doc__)
    stopped, remedy = "The same command continues from here.", "Lower --img-size, --crop-size or --batch-size."
    return run_main("compare.py", lambda: compare(options), stopped=stopped, too_little_memory=remedy)


def compare(options: Comparison) -> dict[str, float]:
    """Find the data, train, evaluate and write, unless another process is writing into --out."""
    with locked(options.out):
        networks = choose_networks(options)
        if options.data is not None:  # before any file: a bad folder must leave no trace
            find_data(options.data, check_volume_folder if is_volumes(options.data) else check_folder)
            check_test(open_split(options.data, "test"))
        check_same_comparison(options)
        data = options.data or draw_phantoms(options)
        plan = {name: make_runs(name, networks[name], data, options) for name in networks}
        for name, network_runs in plan.items():
            network_runs.epochs = count_epochs(network_runs, networks[name], data, options)
        for seed in options.seeds:
            for network_runs in plan.values():
                network_runs.train(seed)
        test = open_split(data, "test")
        scores = {name: score_test(network_runs, test, options) for name, network_runs in plan.items()}
        dice = write_tables(options, test, plan, scores)
        with or_warn("worst_median_best.png was not drawn"):
            rows = [row for name in plan for row in three_predictions(plan[name], test, scores[name].plain, options)]
            sheet = prediction_sheet(rows, scale=max(1, 128 // rows[0][2].shape[0]))
            sheet.save(options.out / "worst_median_best.png", optimize=True)
        return dice


def choose_networks(options: Comparison) -> dict[str, str]:
    """The networks for this kind of data, or those of them that were asked for."""
    known = VOLUME_NETWORKS if is_volumes(options.data) else NETWORKS
    asked = {folder_name(name) for name in (known if options.networks == ("all",) else options.networks)}
    if unknown := asked - {folder_name(name) for name in known}:
        names = ", ".join(map(folder_name, known))
        raise ValueError(f"--networks {sorted(unknown)[0]}: expected names among {names}.")
    return {name: command for name, command in known.items() if folder_name(name) in asked}


# ---- the data ---------------------------------------------------------------------------------------------------


def is_volumes(folder: Path | None) -> bool:
    return folder is not None and held_kind(folder) == "volumes"


def open_split(folder: Path, split: str, fold: Fold | None = None) -> Images:
    """The slices or volumes of a split, at the size of their files."""
    return (VolumeDataset if is_volumes(folder) else SliceDataset)(folder, split, fold=fold)


def check_test(test: Images) -> None:
    if not any(target.any() for _, target, _ in test):
        raise ValueError(f"No test image of {test.folder} holds a lesion, so there would be no Dice to compare.")


def check_same_comparison(options: Comparison) -> None:
    """Keep the settings in --out; refuse other settings there, which would mix two comparisons in one table."""
    unused = ("img_size",) if is_volumes(options.data) else ("crop_size", "slice_mm")
    free = ("out", "device", "images", "networks", *unused)
    settings = {name: value for name, value in asdict(options).items() if name not in free}
    if options.data is not None:  # phantoms depend only on the settings
        settings["contents"] = digest(list_contents(options.data))
    keep_settings(options.out / "compare.json", settings, what="comparison")


def draw_phantoms(options: Comparison) -> Path:
    """Slices around phantom nodules, as in the demo of each script, but from fewer patients."""
    recipe = TrainingRecipe(img_size=options.img_size, phantom_patients=200)
    return draw_slices(recipe, RunOptions(out=options.out, seed=min(options.seeds)))


# ---- training ---------------------------------------------------------------------------------------------------


def make_runs(name: str, command: str, data: Path, options: Comparison) -> NetworkRuns:
    """The runs of one network: its own flags, then those that all share."""
    script, *sizes = command.split()
    flags = f"--img-size {options.img_size}"
    if is_volumes(data) and "--spatial-dims 3" in command:
        flags = f"--crop-size {' '.join(map(str, options.crop_size))} --crops-per-volume {CROPS_PER_VOLUME}"
        flags += f" --slice-mm {options.slice_mm}"
    elif is_volumes(data):
        flags = f"--crop-size {options.crop_size[1]}"
    flags += f" --batch-size {options.batch_size} {SHARED} --device {options.device}"
    script_path = Path(__file__).resolve().with_name(script)
    all_flags = ["--data", str(data), *sizes, *flags.split()]
    return NetworkRuns(name, script_path, all_flags, options.out, seeds=options.seeds, folds=options.folds)


def count_epochs(network_runs: NetworkRuns, command: str, data: Path, options: Comparison) -> int:
    """The budget in whole epochs; for a budget in seconds, one epoch is timed first."""
    if options.seconds is not None:
        return max(1, int(options.seconds / network_runs.seconds_per_epoch()))
    train = open_split(data, "train", network_runs.folds[0])
    samples = len(train)
    if isinstance(train, VolumeDataset) and "--spatial-dims 3" in command:
        samples *= CROPS_PER_VOLUME
    elif isinstance(train, VolumeDataset):  # a 2-D network sees a crop of every slice
        samples = sum(len(read_labelled(volume_path(data, record)).hu) for record in train.records)
    return max(1, round(options.steps / math.ceil(samples / options.batch_size)))


# ---- evaluating ----------------------------------------------------------------------------------------------------


def score_test(network_runs: NetworkRuns, test: Images, options: Comparison) -> RunScores:
    """The scores of every test image by every run, one run after the other: a mean over all is one over the runs.

    Drawing whole patients draws their images with all runs, so the interval is about patients, not about seeds.
    """
    return join_runs([score_run(folder, test, options) for folder, _, _ in network_runs.runs])


def score_out_of_fold(network_runs: NetworkRuns, data: Path, options: Comparison) -> RunScores:
    """The scores of every image outside the test split by the network that did not learn from its fold."""
    runs = [(folder, open_split(data, "val", fold)) for folder, _, fold in network_runs.runs]
    return join_runs([score_run(folder, val, options) for folder, val in runs])


def score_run(folder: Path, data: Images, options: Comparison) -> RunScores:
    predictor = load_run(folder, options)
    return score_decisions(predictor, data, partial(predict, predictor, data), folder.name)


def load_run(folder: Path, options: Comparison) -> Predictor:
    """The network of the best epoch of one training run."""
    with start_processes(options.device) as processes:
        return load_predictor(folder / "best.pt", processes.device)


def predict(predictor: Predictor, data: Images, index: int, image: NDArray) -> tuple[NDArray, Scale | None]:
    """The probabilities of an image (*spatial) in [0, 1], and the scale it was shown at; None is that of the files."""
    scale = None
    if predictor.input.slice_mm is not None and isinstance(data, VolumeDataset):
        scale, _ = predictor.scale_for(image.shape, data.spacing_mm(index))
    return predictor.probs(image, scale), scale


def three_predictions(
    network_runs: NetworkRuns, test: Images, scores: list[ImageScore], options: Comparison
) -> list[tuple]:
    """The worst, median and best image of the first run, for `prediction_sheet`."""
    predictor = load_run(network_runs.runs[0][0], options)
    show = partial(predict, predictor, test)  # index, image -> probabilities, scale
    scores = scores[: len(test)]
    rows = three_rows(test, scores, lambda i, x: predictor.any_class(show(i, x)[0]), network_runs.name)
    return rows if options.images else [(text, None, target, probs) for text, _, target, probs in rows]


# ---- the tables ----------------------------------------------------------------------------------------------------


def write_tables(
    options: Comparison, test: Images, plan: dict[str, NetworkRuns], scores: dict[str, RunScores]
) -> dict[str, float]:
    """Write the tables to the screen and to --out; return the mean test Dice of each network."""
    volumes, seeds, folds = isinstance(test, VolumeDataset), len(options.seeds), options.folds
    columns = comparison.VOLUME_COLUMNS if volumes else comparison.SLICE_COLUMNS
    costs = {name: training_cost(network_runs) for name, network_runs in plan.items()}
    rows, tables = comparison.tables_with_chosen(scores, costs, seeds * (folds or 1), columns)
    ours = {row["network"]: row for row in rows if row["stratum"] == "all"}
    parts = [f"# Every network on {test.folder.name}, seeds {', '.join(map(str, options.seeds))}"]
    parts += [f"## The test patients, by the networks of {folds} folds"] if folds else []
    parts += [tables]
    if folds:
        held_out = {name: score_out_of_fold(runs, test.folder, options).plain for name, runs in plan.items()}
        more = comparison.rows_of(held_out, costs, seeds, split="out of fold")
        parts += [comparison.OUT_OF_FOLD, comparison.tables_of(more, held_out, seeds, columns)]
        rows += more
    parts += comparison.data_remarks(test)
    text = "\n\n".join([*parts, report_table(ours, volumes=volumes)])
    (options.out / "comparison.md").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    write_csv(options.out / "comparison.csv", rows)
    print(f"\n{text}\n\nWritten to {options.out}.")
    return {name: row["dice"] for name, row in ours.items()}


def training_cost(network_runs: NetworkRuns) -> dict[str, int | float]:
    """Parameters, epochs, and minutes of one training run, validation included; the mean over the runs."""
    weights = load_predictor(network_runs.runs[0][0] / "best.pt").network.parameters()
    parameters = sum(p.numel() for p in weights)
    return {"parameters": parameters, "epochs": network_runs.epochs, "minutes": network_runs.minutes()}


if __name__ == "__main__":
    leave(main())
