"""What enters the network, as a picture: images with the outlines of the targets, and of what is predicted."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from lungseg.draw import INK, contact_sheet, font, overlay

COLUMNS, ROWS = 6, 3
SIDE = 250  # pixels of a picture, about; whole factors keep pixels square


@torch.no_grad()
def input_sheet(images: Tensor, targets: Tensor, model: nn.Module | None = None) -> Image.Image:
    """A contact sheet of the first images, exactly as they are given to the network.

    Grey values are drawn from 0 (black) to 1 (white), so images in another range look wrong, as they should. The target
    is outlined in green and the prediction in orange.

    Args:
        images, targets: (n, C, *spatial) and (n, K, *spatial); the first channel is drawn, targets of any class are
            outlined, and of a volume the slice with the most lesion is shown.
        model: its output above 0 is the prediction, in evaluation mode; it is left in the mode it was in.
    """
    images, targets = images[: COLUMNS * ROWS], targets[: COLUMNS * ROWS]
    predicted = torch.zeros_like(targets)
    if model is not None:
        was_training, device = model.training, next((p.device for p in model.parameters()), images.device)
        predicted = (model.eval()(images.to(device)) > 0).float().cpu()
        model.train(was_training)
    tiles = []
    for image, *maps in zip(images, targets, predicted, strict=True):
        grey, (lesion, pred) = image[0].numpy(), ((m > 0.5).any(0).numpy() for m in maps)
        if grey.ndim == 3:
            z = int(lesion.sum((1, 2)).argmax())
            grey, lesion, pred = grey[z], lesion[z], pred[z]
        scale = max(1, round(SIDE / grey.shape[1]))
        picture = Image.fromarray(overlay(grey, lesion, pred if model is not None else None, scale=scale))
        tiles.append(with_caption(picture, caption(grey, lesion, pred, with_prediction=model is not None)))
    return contact_sheet([tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)])


def with_caption(picture: Image.Image, text: str) -> Image.Image:
    """The picture with lines of text below it, large enough to be read from a projector."""
    strip = Image.new("RGB", (picture.width, picture.height + 26 * len(text.splitlines())), "white")
    strip.paste(picture, (0, 0))
    place = picture.width / 2, picture.height + 2
    ImageDraw.Draw(strip).multiline_text(place, text, INK, font(20), anchor="ma", align="center")
    return strip


def caption(grey: np.ndarray, lesion: np.ndarray, pred: np.ndarray, *, with_prediction: bool) -> str:
    """The range of the grey values, and how many pixels are outlined."""
    text = f"{grey.min():.2g} to {grey.max():.2g}\ntarget {lesion.sum()} px"
    return f"{text}\npredicted {pred.sum()} px" if with_prediction else text
