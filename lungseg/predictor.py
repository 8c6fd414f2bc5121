"""From a checkpoint to lesion probabilities, for slices and volumes of any size.

A network learns the size of lesions in pixels, not in millimetres. So an image is first scaled as the slices of the
training were (`lungseg.scale`), then covered with a sliding window of the size that the network was trained on, and the
logits are scaled back to the pixels of the image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from tqdm import tqdm

from lungseg.checkpoint import InputSpec, load_checkpoint
from lungseg.data.classes import to_labels
from lungseg.data.ct import hu_to_unit, resize_image
from lungseg.data.neighbours import stack_indices
from lungseg.decision import PLAIN, Decision, remove_small
from lungseg.ensemble import check_agreement
from lungseg.flags import option
from lungseg.inference import WindowCount, resize_logits, sliding_window, window_starts
from lungseg.scale import Scale, file_scale, network_sides, scale_for, sizes_on_the_way
from lungseg.search import Search, search_mask, widened
from lungseg.trained_network import NETWORKS as NETWORKS, build_network as build_network, read_network
from lungseg.tta import AverageOverVariations, Kind


@dataclass(frozen=True)
class PredictOptions:
    """Options of a script that predicts with a trained network; each field is one of its flags."""

    threshold: float | None = option(
        None,
        "lesion is where the probability is above this; none: what training chose on validation and the checkpoint "
        "holds, otherwise 0.5",
    )
    min_pixels: int | None = option(
        None,
        "leave out connected components of fewer pixels (or voxels), as large as those of the training; none: what "
        "training chose, if --threshold is not given either, otherwise 0",
    )
    tta: Literal["none", "flips", "turns"] = option(
        "none",
        "average over variations of each image: flips, 4 times the time (8 in 3-D), or also right-angle turns, 8 (16)",
    )
    overlap: float = option(
        0.5, "share of a sliding window's side that the next one covers again; more is slower and smoother"
    )
    batch_size: int = option(8, "positions of the sliding window in the network at once; fewer need less memory")
    search: Search = option(
        "all",
        "where lesions are searched: positions of the sliding window that touch none of it, or of a margin around it, "
        "are not computed and have the probability 0",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = option(
        "auto", "where to compute; auto takes a GPU if there is one; mps is that of an Apple computer"
    )

    def __post_init__(self) -> None:
        self.decision(PLAIN)  # refuses impossible values
        if not 0 <= self.overlap < 1:
            raise ValueError(f"--overlap must be at least 0 and below 1, got {self.overlap}.")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, got {self.batch_size}.")

    def decision(self, chosen: Decision) -> Decision:
        """What was asked for; or, if neither number was, what was `chosen`: they suit each other, and not another."""
        if self.threshold is None and self.min_pixels is None:
            return chosen
        threshold = PLAIN.threshold if self.threshold is None else self.threshold
        return Decision(threshold, self.min_pixels or 0)


# ---- from a checkpoint to a predictor ---------------------------------------------------------------------------


def load_predictor(
    path: str | Path | Sequence[str | Path],
    device: str | torch.device = "cpu",
    *,
    overlap: float = 0.5,
    batch_size: int = 8,
    tta: Kind = "none",
    search: Search = "all",
    allow_folds: bool = True,
) -> "Predictor":
    """Read a checkpoint of a training script, such as run/best.pt, and make its network ready to predict.

    Args:
        path: one checkpoint, also of a refiner (`lungseg.refiner`), or several whose probabilities are averaged. Their
            networks may differ; what they were trained on must not (`lungseg.ensemble.check_agreement`). Several have
            no common decision: it is the plain one, above 1/2.
        device: where the network computes.
        overlap, batch_size: as in `lungseg.inference.sliding_window`.
        tta: as in `lungseg.tta.variations`.
        search: as in `lungseg.search.search_mask`.
        allow_folds: False refuses networks of a cross-validation: they have learned from patients that the manifest
            calls "val".

    Raises:
        ValueError: in one sentence that begins with the path, if anything in it does not fit.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    saved = {path: load_checkpoint(path) for path in paths}
    trained = [read_network(path, allow_folds=allow_folds, saved=saved[path]) for path in paths]
    how: dict[str, Any] = {"overlap": overlap, "batch_size": batch_size, "tta": tta, "search": search}
    if refiners := [path for path in paths if "refiner" in saved[path]]:
        from lungseg.refiner.checkpoint import refiner_predictor  # which knows this module

        if len(paths) > 1:
            raise ValueError(
                f"{refiners[0]} holds a refiner, whose map cannot be averaged with those of others. Give it alone."
            )
        return refiner_predictor(saved[paths[0]], trained[0], paths[0], device, **how)
    check_agreement({path: each.input for path, each in zip(paths, trained, strict=True)})
    networks = [each.network.to(device) for each in trained]
    decision = trained[0].decision if len(trained) == 1 else PLAIN
    return Predictor(networks, trained[0].input, decision=decision, **how)


# ---- from an image to probabilities -----------------------------------------------------------------------------


class Predictor:
    """A trained network that takes slices and volumes of any size.

    Args:
        network: (B, C, *spatial) grey images in [0, 1] -> logits (B, K, *spatial), in evaluation mode. C is 1, or
            2n + 1 if it was trained on slices with n neighbours (`lungseg.data.neighbours`). Of several networks, the
            probabilities are averaged.
        input: what it was trained on.
        overlap, batch_size: as in `lungseg.inference.sliding_window`.
        tta: the variations over which the logits of each network are averaged (`lungseg.tta`).
        search: what `search_mask` marks.
        decision: what was chosen on validation.

    Attributes:
        networks: all of them; `network` is the first.
        name: of their classes, "SwinUNet + UNet".
        spatial_dims: 2 if the network takes slices, 3 if it takes volumes.
        classes: names of the lesion classes; () if there is only one, lesion.
        count: how many sliding windows were computed and skipped so far, over all networks.
    """

    def __init__(
        self,
        network: nn.Module | Sequence[nn.Module],
        input: InputSpec,
        *,
        overlap: float = 0.5,
        batch_size: int = 8,
        tta: Kind = "none",
        search: Search = "all",
        decision: Decision = PLAIN,
    ):
        self.networks = (network,) if isinstance(network, nn.Module) else tuple(network)
        self.network, self.input, self.overlap, self.batch_size = self.networks[0], input, overlap, batch_size
        self.tta, self.search, self.decision, self.count = tta, search, decision, WindowCount()
        self.name = " + ".join(type(each).__name__ for each in self.networks)
        self.spatial_dims = len(input.size)
        self.classes = input.classes if len(input.classes) > 1 else ()

    def grey(self, hu: ArrayLike) -> NDArray[np.float32]:
        """HU of any shape -> the grey values in [0, 1] of the training (`lungseg.data.ct.hu_to_unit`)."""
        return hu_to_unit(hu, self.input.hu_window)

    def scale_for(
        self, shape: Sequence[int], spacing_mm: ArrayLike | None = None, source_size: tuple[int, int] | None = None
    ) -> tuple[Scale, str | None]:
        """The scale at which an image looks like those of the training, for `probs`: see `lungseg.scale.scale_for`."""
        return scale_for(self.input, shape, spacing_mm, source_size)

    def search_mask(self, hu: NDArray, spacing_mm: Sequence[float] | None = None) -> NDArray[np.bool_] | None:
        """Where in an image lesions are searched, for `probs`: see `lungseg.search.search_mask`."""
        return search_mask(self.search, hu, spacing_mm)

    def probs(
        self,
        grey: NDArray,
        scale: Scale | None = None,
        *,
        is_stack: bool = False,
        where: NDArray[np.bool_] | None = None,
        inner: slice = slice(None),
    ) -> NDArray[np.float32]:
        """The probability of lesion at each pixel, in the shape of `grey`; with K classes (K, *shape).

        Args:
            grey: (H, W) or (D, H, W), floating point in [0, 1]. A 2-D network takes a volume slice by slice, each
                with the neighbours it was trained with, if any; a lone slice is its own neighbour.
            scale: from `scale_for`. None is for images with the pixels of the files the network was trained on.
            is_stack: grey is one slice with its neighbours (2n + 1, H, W), not a volume; the result is (H, W).
            where: in the shape of the result. Sliding windows that touch none of it, or of `lungseg.search.MARGIN`
                pixels of the network around it, are not computed: there the probability is 0. Elsewhere nothing
                changes. None: all are computed.
            inner: of a volume and a 2-D network: predict and return these slices; the others are their neighbours only.

        Raises:
            ValueError: for other values, or for a single slice and a network for volumes.
        """
        if grey.ndim not in (2, 3) or grey.size == 0 or not np.issubdtype(grey.dtype, np.floating):
            raise ValueError(
                f"expected grey values (H, W) or (D, H, W), floating point, got {grey.shape} {grey.dtype}."
            )
        if not (grey.min() >= 0 and grey.max() <= 1):  # NaN fails both
            raise ValueError(
                f"grey values must be in [0, 1], got {grey.min():g} to {grey.max():g}. "
                f"Use Predictor.grey for HU, and divide grey levels by the largest."
            )
        scale = scale or file_scale(self.input, network_sides(self.input, grey.shape))
        if is_stack or grey.ndim == self.spatial_dims:
            masks = None if where is None else where[None]
            probs = self._probs(self.channels(grey, is_stack=is_stack)[None], scale, masks)[0]  # (K, *spatial)
            return probs if self.classes else probs[0]
        channels = stack_indices(len(grey), self.input.neighbours)  # (D, C)
        wanted = channels[inner]  # (d, C)
        searched = np.arange(len(wanted)) if where is None else np.flatnonzero(where.any(axis=(1, 2)))
        self._count_skipped(len(wanted) - len(searched), grey.shape[1:], scale)
        probs = np.zeros((len(wanted), max(1, len(self.classes)), *grey.shape[1:]), np.float32)  # (d, K, H, W)
        parts = [searched[first : first + self.batch_size] for first in range(0, len(searched), self.batch_size)]
        quiet = None if len(parts) > 1 else True  # None: quiet when not on a terminal
        for part in tqdm(parts, desc="slices", leave=False, disable=quiet):
            probs[part] = self._probs(grey[wanted[part]], scale, None if where is None else where[part])
        return np.moveaxis(probs, 1, 0) if self.classes else probs[:, 0]  # (K, D, H, W), (D, H, W)

    def labels(self, probs: NDArray, threshold: float = 0.5) -> NDArray[np.uint8]:
        """The lesions in `probs`: (*shape) in {0, 1}, or with K classes 0..K (`lungseg.data.classes.to_labels`)."""
        return to_labels(probs if self.classes else probs[None], threshold)

    def lesions(self, probs: NDArray, decision: Decision, scale: Scale | None = None) -> NDArray[np.uint8]:
        """`labels` above the threshold of a decision, without its small components; `scale` as in `probs`."""
        return self.without_small(self.labels(probs, decision.threshold), decision, scale)

    def without_small(
        self, labels: NDArray[np.uint8], decision: Decision, scale: Scale | None = None
    ) -> NDArray[np.uint8]:
        """Labels of a whole image (*shape) without components that are smaller than `decision.min_pixels` allows."""
        scale = scale or file_scale(self.input, network_sides(self.input, labels.shape))
        return remove_small(labels, decision.min_pixels / math.prod(scale), self.spatial_dims)

    def any_class(self, probs: NDArray) -> NDArray[np.float32]:
        """(*shape) from `probs`: the largest over the classes, above a threshold exactly where `labels` has a class."""
        return probs.max(axis=0) if self.classes else probs

    def alone(self, image: NDArray) -> str | None:
        """A warning if the network was trained on slices with neighbours, and this is a lone one, (H, W); or None."""
        if image.ndim > 2 or not self.input.neighbours:
            return None
        return (
            f"the network expects {self.input.neighbours} slices below and above each slice. They are unknown here, so "
            f"the slice takes their place. Give a volume, or a folder whose manifest has series and slice_index."
        )

    def skipped_remark(self) -> list[str]:
        """What was not looked at so far, in one sentence; nothing if everything was."""
        if self.search == "all":
            return []
        every, skipped = self.count.computed + self.count.skipped, self.count.skipped
        return [
            f"Searched in: {self.search}. {skipped} of {every} positions of the sliding window touch none of it and "
            f"were not computed: the probability there is 0."
        ]

    def channels(self, grey: NDArray, *, is_stack: bool = False) -> NDArray:
        """One image as the network takes it: (C, *spatial). A lone slice is repeated for each neighbour."""
        if is_stack:
            return grey
        return np.repeat(grey[None], 2 * self.input.neighbours + 1, axis=0)

    def scaled(self, images: NDArray, scale: Scale) -> NDArray[np.float32]:
        """(B, *spatial) -> (B, *size): the images as the sliding window sees them, in training pixels."""
        images = np.require(images, np.float32, ["C", "W"])  # torch wants no read-only array; copied only if needed
        for size in sizes_on_the_way(self.input, images.shape[1:], scale):
            if size != images.shape[1:]:  # otherwise resizing would copy a whole volume
                images = np.stack([resize(image, size) for image in images])  # (B, *size)
        return images

    def _probs(self, images: NDArray, scale: Scale, masks: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """(B, C, *spatial) -> (B, K, *spatial), all B at once: the mean over the networks.

        Args:
            masks: (B, *spatial), `where` in `probs`.
        """
        spatial = images.shape[2:]
        where = None
        if masks is not None:
            if not masks.any():
                self._count_skipped(len(images), spatial, scale)
                return np.zeros((len(images), max(1, len(self.classes)), *spatial), np.float32)
            where = torch.from_numpy(widened(self.scaled(masks, scale) > 0))  # (B, *scaled)
        resized = self.scaled(images.reshape(-1, *spatial), scale)  # (B * C, *scaled)
        x = torch.from_numpy(resized).view(*images.shape[:2], *resized.shape[1:])  # (B, C, *scaled)
        total: Tensor | None = None
        for network in self.networks:
            model = network if self.tta == "none" else AverageOverVariations(network, self.tta)
            logits = sliding_window(
                model, x, self.input.size, overlap=self.overlap, batch_size=self.batch_size, where=where,
                count=self.count,
            )  # (B, K, *scaled)  # fmt: skip
            probs = resize_logits(logits, spatial).sigmoid()
            total = probs if total is None else total.add_(probs)  # a volume's map is large
        assert total is not None  # there is at least one network
        return total.div_(len(self.networks)).numpy()  # (B, K, *spatial)

    def _count_skipped(self, images: int, spatial: Sequence[int], scale: Scale) -> None:
        """Count the windows of images that are skipped as a whole."""
        sides = zip(sizes_on_the_way(self.input, tuple(spatial), scale)[-1], self.input.size, strict=True)
        of_each = math.prod(len(window_starts(side, min(side, window), self.overlap)) for side, window in sides)
        self.count.skipped += images * of_each * len(self.networks)


def resize(image: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """`resize_image` for slices (H, W) and for volumes (D, H, W): slice by slice, then along D."""
    if image.ndim == 2:
        return resize_image(image, (size[0], size[1]))
    depth, height, width = size
    slices = np.stack([resize_image(slice_, (height, width)) for slice_ in image])  # (D, height, width)
    columns = slices.reshape(len(slices), height * width)  # an image with a row for each slice
    return resize_image(columns, (depth, height * width)).reshape(size)  # (depth, height, width)
