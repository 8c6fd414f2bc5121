"""Do the masks lie on the images? Lesions in lung are brighter than what surrounds them, wherever the mask is right.

Each mask becomes a kernel: +1/n on its n lesion pixels, -1/m on the m pixels of a ring around them. Its product with
the image is the *contrast*, how much brighter the lesion is than its surroundings. One Fourier transform gives the
contrast for all shifts of the mask at once; mirrored and transposed masks are tried in the same way. If, averaged over
many images, masks fit better in another place than in their own, they were probably exported in another orientation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lungseg.doctor.finding import OK, WARNING, Finding

RING = 3  # pixels around the lesion that it is compared with
LEAST_IMAGES = 8  # fewer say little: anatomy does not average out
LEAST_CONTRAST = 0.03  # of [0, 1], 42 HU in the usual window
LEAST_SHIFT = 2  # pixels; outlines of readers differ by one
ORIENTATIONS = {
    "as they are": lambda k: k,
    "mirrored left to right": lambda k: k.flip(-1),
    "mirrored top to bottom": lambda k: k.flip(-2),
    "rotated by 180 degrees": lambda k: k.flip(-1, -2),
    "with rows and columns exchanged": lambda k: k.transpose(-1, -2),
    "rotated by 90 degrees": lambda k: k.rot90(1, (-2, -1)),
    "rotated by 270 degrees": lambda k: k.rot90(3, (-2, -1)),
}


def fit_finding(images: Tensor, targets: Tensor) -> Finding:
    """Whether lesions are brighter than their surroundings, and masks fit no better elsewhere. It can only warn.

    Args:
        images: (n, C, *spatial); the first channel is examined, and of a volume the slice with the most lesion.
        targets: (n, K, *spatial).
    """
    name = "masks on images"
    image, kernels = with_lesions(images, targets)
    if len(image) < LEAST_IMAGES:
        return Finding(name, OK, f"not examined: {len(image)} images with a lesion, {LEAST_IMAGES} are needed")
    own = (image * kernels).sum((1, 2))  # (n,)
    contrast, darker = own.mean().item(), (own < 0).float().mean().item()
    measured = f"lesions minus their surroundings: {contrast:+.3f} of the grey scale (mean of {len(own)} images)"
    how, where, best = best_place(image, kernels)
    *_, by_chance = best_place(image, kernels.roll(1, 0))  # masks of other images fit somewhere too
    if contrast < -LEAST_CONTRAST and darker > 0.7 and best < -contrast:
        cause = "the images look inverted (air bright, tissue dark), or the masks are turned"
        return Finding(name, WARNING, measured, cause, "Look at the picture (--out); use 1 - image if air is white.")
    moved = how != "as they are" or max(map(abs, where)) >= LEAST_SHIFT
    if moved and best > max(1.3 * contrast, contrast + LEAST_CONTRAST, 1.5 * by_chance):
        shift = f", shifted by {where[0]} rows and {where[1]} columns" if max(map(abs, where)) >= LEAST_SHIFT else ""
        return Finding(
            name,
            WARNING,
            f"{measured}, but {best:+.3f} if the masks are taken {how}{shift}",
            "image and mask were exported in different orientations, or cropped differently",
            "Look at the picture (--out); treat image and mask with the same steps.",
        )
    if contrast < LEAST_CONTRAST:
        cause = "masks of other images (a different order of files?), or lesions that hardly differ from tissue"
        return Finding(name, WARNING, measured, cause, "Look at the picture (--out): do the outlines lie on lesions?")
    return Finding(name, OK, measured)


def with_lesions(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Images (n, H, W) that have a lesion and its surroundings, and the kernel of each, also (n, H, W)."""
    image, lesion = images[:, 0], (targets > 0.5).any(1)  # (n, *spatial) each
    if image.ndim == 4:  # volumes: the slice with the most lesion
        most = lesion.sum((2, 3)).argmax(1)  # (n,)
        image, lesion = (x[torch.arange(len(x)), most] for x in (image, lesion))
    inner = lesion.float()[:, None]  # (n, 1, H, W)
    ring = F.max_pool2d(inner, 2 * RING + 1, 1, RING) - inner
    sizes = inner.sum((1, 2, 3)), ring.sum((1, 2, 3))
    there = (sizes[0] > 0) & (sizes[1] > 0)
    kernels = (inner / sizes[0][:, None, None, None] - ring / sizes[1][:, None, None, None])[:, 0]
    return image[there], kernels[there]


def best_place(image: Tensor, kernels: Tensor) -> tuple[str, tuple[int, int], float]:
    """The orientation and the shift (rows, columns) of the kernels with the highest mean contrast, and this contrast.

    Shifts are at most a quarter of the image. They wrap around at its edges, which averages out.
    """
    height, width = image.shape[1:]
    frequencies = torch.fft.rfft2(image)
    found = []
    for name, turn in ORIENTATIONS.items():
        turned = turn(kernels)
        if turned.shape != kernels.shape:
            continue  # not square
        product = frequencies * torch.fft.rfft2(turned).conj()
        contrast = torch.fft.irfft2(product, s=(height, width)).mean(0)  # (H, W), at each shift
        near = torch.fft.fftshift(contrast)[height // 4 : -(height // 4), width // 4 : -(width // 4)]
        row, column = divmod(int(near.argmax()), near.shape[1])
        shift = (row + height // 4 - height // 2, column + width // 4 - width // 2)
        found.append((near.max().item(), name, shift))
    best, name, shift = max(found, key=lambda entry: entry[0])
    return name, shift, best
