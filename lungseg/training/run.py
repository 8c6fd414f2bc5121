"""A run: from its folder and its checkpoint, through the epochs, to the test.

    run = Run(recipe, options, ...); model = run.build(SwinUNet, {...}); data = run.open_data(); run.prepare(model)
    run.begin(model=model, optimizer=optimizer, ...)
    for epoch in run.epochs(): ...; run.end_epoch(epoch, ...)
    run.end(test, model)

The story between these lines is in the script.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from lungseg import __version__
from lungseg.checkpoint import Checkpoint, NetworkSpec, save_checkpoint
from lungseg.data.classes import read_classes
from lungseg.evaluation.baselines import lesion_fractions
from lungseg.files import or_warn, whole_file
from lungseg.training.contents import Contents, differences, digest, list_contents, read_contents, write_contents
from lungseg.training.crops import volumes_remark
from lungseg.training.data import Data, check_lesions, open_data
from lungseg.training.decide import decide
from lungseg.training.distributed import Processes
from lungseg.training.early_stopping import EarlyStopping
from lungseg.training.ema import WeightAverage
from lungseg.training.log import RunLog
from lungseg.training.machine import (
    autocast_dtype,
    describe_machine,
    keep_freed_memory,
    precision_remark,
    rng_state,
    seed_everything,
    set_rng_state,
)
from lungseg.training.recipe import RunOptions, TrainingRecipe
from lungseg.training.resume import UNFIT, as_started, check_same_run, load_best, load_parts, open_run
from lungseg.training.step import Evaluation, freeze
from lungseg.training.summary import ZeroDiceWatch, epoch_line, write_summary
from lungseg.typed import form


class Run:
    """One training run: its settings, its folder, and the checkpoint it is resumed from.

    Call its methods in the order in which they are defined; `freeze_encoder` and `title` in each epoch.

    Attributes:
        recipe, options: as asked for or, if the run is resumed, as it was started.
        started: the settings a resumed run was started with, which must not change; {} for a new run.
        saved: the checkpoint to resume from, or None for a new run.
        compute: keyword arguments of `train_one_epoch` and `evaluate`: the number type, and the processes.
    """

    def __init__(
        self,
        recipe: TrainingRecipe,
        options: RunOptions,
        given: dict[str, Any],
        processes: Processes,
        recipes: Mapping[str, TrainingRecipe] | None = None,
    ):
        if processes.device.type == "cpu":
            keep_freed_memory()
        self.processes, self.device, self.out = processes, processes.device, options.out
        self.saved = open_run(options, processes)
        self.recipe, self.options, remark = recipe, options, ""
        self.started: dict[str, Any] = {}
        if options.resume:
            recipes = recipes or {"default": type(recipe)()}
            self.recipe, self.options, self.started, remark = as_started(self.saved, recipe, options, given, recipes)
        self.print(remark)
        if self.recipe.threads and self.device.type == "cpu":
            torch.set_num_threads(self.recipe.threads)
        self.dtype = autocast_dtype(self.recipe.amp, self.device)
        self.compute: dict[str, Any] = {"autocast_dtype": self.dtype, "processes": processes}
        self.print(precision_remark(self.recipe.amp, self.device))

        # Set by the methods below, in this order.
        self.network = NetworkSpec("", {})
        self.head_is_fresh = True  # until weights are loaded into it
        self._data: Data | None = None
        self.settings: dict[str, Any] = {}  # what must not change when the run is resumed
        self.contents: Contents = {}
        self.stopping = EarlyStopping(None, "max")
        self.learned: dict[str, Any] = {}  # name -> what has a state_dict
        self.best_epochs: set[int] = set()  # which best.pt may be of, besides the best epoch
        self.log = RunLog(self.out / "log.jsonl", enabled=False)
        self.epoch_began, self.zero_dice = 0.0, ZeroDiceWatch()

    def print(self, text: object) -> None:
        """Print, in the main process only; nothing if the text is empty."""
        if self.processes.is_main and str(text):
            print(text, flush=True)

    # ---- network and data -------------------------------------------------------------------------------------------

    def build(
        self, network: type[nn.Module], arguments: dict[str, Any], *, weights: str | None = None, reminder: str = ""
    ) -> nn.Module:
        """Seed everything and build the network. First of all: impossible arguments must leave no files behind.

        Args:
            arguments: of the network; each checkpoint keeps them, with the numbers of lesion classes in --data and of
                channels of an image with --neighbours.
            weights: file to start from, unless the run is resumed: best.pt of another run, or a published checkpoint
                (`lungseg.weights.load_published`).
            reminder: what to print if a new run starts without weights.
        """
        if self.saved and self.saved.network.name != network.__name__:
            raise ValueError(f"The run in {self.out} is of another script or version. Resume it with that one.")
        classes = read_classes(self.options.data) if self.options.data else ()
        if len(classes) > 1:
            arguments = arguments | {"num_classes": len(classes)}
        if self.recipe.neighbours:
            arguments = arguments | {"in_channels": 2 * self.recipe.neighbours + 1}
        seed_everything(self.options.seed, self.device)
        self.network = NetworkSpec(network.__name__, arguments)
        model = network(**arguments)
        if weights and not self.saved:
            from lungseg.weights.load import load_published  # only a run that starts from weights needs it

            report = load_published(model, weights, arguments=arguments)
            self.head_is_fresh = "head.weight" in report.fresh
            self.print(report)
        elif self.recipe.freeze_encoder and not self.saved:
            self.print("There are no --weights, so --freeze-encoder freezes an encoder of random numbers.")
        elif not self.saved:
            self.print(reminder)
        return model

    def open_data(self) -> Data:
        """The slices (or volumes) to train and test on; a resumed run must find those it began with."""
        data = open_data(self.recipe, self.options, self.processes)
        self.settings = asdict(self.recipe) | {"seed": self.options.seed, "processes": self.processes.size}
        self.settings["slices"] = data.fingerprint
        check_same_run(self.started, self.settings, self.out)
        before = read_contents(self.out)
        recipe = self.recipe
        more: dict[str, Any] = {"readers": recipe.soft_targets, "negatives": recipe.negatives}
        self.contents = list_contents(data.folder, before, **more) if self.processes.is_main else {}
        now = self.settings["contents"] = self.processes.gather(digest(self.contents))[0]
        then = self.started.get("contents")  # older versions did not keep it
        if self.started and not self.saved and before:  # stopped in its first epoch
            then = digest(before)
        if then not in (None, now):
            what = differences(before, self.contents) if digest(before) == then else "some of its files"
            raise ValueError(
                f"{data.folder} has changed since the run in {self.out} began: {what}. "
                f"Restore it, or start a new run in another --out."
            )
        check_lesions(data, self.recipe, report=self.print)
        self.print(volumes_remark(data.folder, data.input))
        self._data = data
        return data

    @property
    def data(self) -> Data:
        if self._data is None:
            raise RuntimeError("Run: call open_data() first.")
        return self._data

    def prepare(self, model: nn.Module) -> None:
        """Set the prior in the last layer, called `head`, unless that was loaded; move the network to the device."""
        if self.recipe.prior_bias and self.head_is_fresh and not self.saved:
            odds = [p / (1 - p) for p in lesion_fractions(self.data.train_set)]  # of each class
            bias = dict(model.named_parameters()).get("head.bias")  # a network of one's own may have none
            if bias is not None:
                bias.data.copy_(torch.tensor([math.log(o) for o in odds]))  # sigmoid(log o) = p
        model.to(self.device)
        if self.options.compile:
            model.compile()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The network to train: with several processes, one that averages their gradients."""
        done = self.saved.stopping["epochs"] if self.saved else 0
        return self.processes.wrap(model, may_freeze=done < self.recipe.freeze_encoder)

    def freeze_encoder(self, model: nn.Module, epoch: int) -> list[nn.Module]:
        """Freeze the encoder in the first `freeze_encoder` epochs, train it after them (`freeze`)."""
        if not self.recipe.freeze_encoder:
            return []
        from lungseg.weights.checkpoint_layouts import encoder_names

        return freeze(model, encoder_names(model), epoch < self.recipe.freeze_encoder)

    def scaler(self) -> GradScaler:
        """Scales the loss for float16, in which small gradients would become 0; otherwise it does nothing."""
        return GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def ema(self, model: nn.Module) -> WeightAverage | None:
        """The running average of the weights; None without --ema."""
        return WeightAverage(model, self.recipe.ema) if self.recipe.ema else None

    # ---- the epochs -------------------------------------------------------------------------------------------------

    def begin(self, *, stopping: EarlyStopping, **learned: Any) -> None:
        """Start the log, or restore everything from the checkpoint; each of `learned` has a state_dict or is None."""
        self.stopping = stopping
        self.learned = {name: part for name, part in learned.items() if part is not None} | {"stopping": stopping}
        seed_everything(self.options.seed + self.processes.rank, self.device)  # each process has its own dropout
        if self.saved:
            self._restore(self.saved)
        self.log = self._open_log()

    def _restore(self, saved: Checkpoint) -> None:
        """Load all states as they were after the last epoch; a ValueError if the files do not fit together."""
        path = self.out / "last.pt"
        load_parts(self.learned, vars(saved), path)
        try:
            set_rng_state(saved.rng[self.processes.rank], self.device)
        except UNFIT:
            raise ValueError(f"{path} is damaged: rng, the state of the random generators, does not fit.") from None
        if self.stopping.best_epoch is not None or (self.out / "best.pt").exists():
            # A kill between the two leaves best.pt one epoch ahead of last.pt; that epoch is then repeated.
            self.best_epochs = {self._load_best({self.stopping.epochs + 1}).stopping["epochs"]}

    def _open_log(self) -> RunLog:
        """The log, cut where the checkpoint ends; or a new one, and recipe.json."""
        out, is_main = self.out, self.processes.is_main
        if self.saved and is_main:
            write_contents(out, self.contents)  # with the times of a folder that was copied
        if self.saved or not is_main:
            position = self.saved.log_position if self.saved else None
            return RunLog(out / "log.jsonl", position=position, enabled=is_main)
        out.mkdir(parents=True, exist_ok=True)
        (out / "best.pt").unlink(missing_ok=True)  # of a start that ended before its first last.pt
        settings = {"recipe": asdict(self.recipe), "seed": self.options.seed}
        settings |= {"processes": self.processes.size, "data": self._data_path()}
        with whole_file(out / "recipe.json") as partial:  # all of it or nothing: --resume reads it
            partial.write_text(json.dumps(settings, indent=1, default=str) + "\n")
        write_contents(out, self.contents)
        log = RunLog(out / "log.jsonl")
        log.write(**settings, **describe_machine(self.device))
        return log

    def _data_path(self) -> str | None:
        """Absolute: a run may be resumed from another current folder."""
        return str(self.options.data.absolute()) if self.options.data else None

    def epochs(self) -> Iterator[int]:
        """The epochs still to do, counted from 0; each has its own order and its own augmentation."""
        for epoch in range(self.stopping.epochs, self.recipe.epochs):
            if self.stopping.stop:
                return
            self.epoch_began = time.perf_counter()
            self.data.set_epoch(epoch)
            yield epoch

    def title(self, epoch: int) -> str:
        """The text before the progress bar."""
        best = "none yet" if self.stopping.best is None else f"{self.stopping.best:.3f}"
        return f"epoch {epoch + 1}/{self.recipe.epochs}, best {self.recipe.monitor} {best}"

    def end_epoch(self, epoch: int, train_loss: float, val: dict[str, float], *, lr: float, is_best: bool) -> None:
        """Log, save, print. A kill at any moment loses no finished epoch."""
        seconds = round(time.perf_counter() - self.epoch_began, 2)
        self.log.write(epoch=epoch + 1, train_loss=train_loss, val=val, lr=lr, is_best=is_best, seconds=seconds)
        state = self._snapshot().to_dict()
        if self.processes.is_main:
            if is_best:  # before last.pt: a kill in between repeats this epoch and ends with the same best.pt
                best = {name: part for name, part in state.items() if name != "ema"}
                if "ema" in state:  # the weights that were validated
                    best["model"] = state["ema"]["weights"]
                save_checkpoint(self.out / "best.pt", best)
            save_checkpoint(self.out / "last.pt", state, keep_previous=True)
        self.print(epoch_line(epoch + 1, self.recipe.epochs, train_loss, val, is_best))  # after it was saved
        self.print(self.zero_dice.remark(val["dice"], self.data.folder, self.out))

    def _snapshot(self) -> Checkpoint:
        """Everything that the rest of the run depends on."""
        return Checkpoint(
            **{name: part.state_dict() for name, part in self.learned.items()},
            network=self.network,
            input=self.data.input,
            recipe=asdict(self.recipe),
            run=self.settings,
            data=self._data_path(),
            log_position=self.log.position,
            rng=self.processes.gather(rng_state(self.device)),
            version=__version__,
        )

    # ---- the test ---------------------------------------------------------------------------------------------------

    def best(self) -> dict[str, Tensor]:
        """The weights of the best epoch."""
        return self._load_best(self.best_epochs).model

    def _load_best(self, epochs: set[int]) -> Checkpoint:
        """best.pt, if it fits this run, and is of its best epoch so far or of one of `epochs`."""
        with self.processes.main_first():  # the main process has written the file that the others wait for
            if self.stopping.best_epoch is None and not (self.out / "best.pt").exists():
                raise ValueError(
                    f"No epoch of {self.out} had a validation score. Does any validation image hold a lesion?"
                )
            epochs = epochs | {self.stopping.best_epoch or 0}  # epochs count from 1
            best = load_best(self.out, self.settings, self.network, epochs - {0}, type(self.recipe))
        if different := form(best.model, self.learned["model"].state_dict(), "model"):
            raise ValueError(f"{self.out / 'best.pt'} does not fit this run: {different}.")
        return best

    def end(self, test: Evaluation, model: nn.Module) -> float:
        """Choose a decision (`decide`), write the pictures and the last line of the log, print; return the mean Dice.

        Args:
            test: the result of `evaluate` for `model`, which has the weights of the best epoch.
        """
        decided, split = None, self.data.test_set.records[0].split
        with or_warn("No threshold was chosen"):
            decided = decide(model, self.data, self.out / "best.pt", **self.compute)
        if self.processes.is_main:
            if split != "test":
                print("There is no test split: these images chose the best epoch, so their scores are too high.")
            plain = self.data.plain_train_set
            self.print(decided.line(split) if decided else "")
            print(write_summary(self.log, test, model, plain, self.data.test_set, split=split, decided=decided))
        return test.scores["dice"]
