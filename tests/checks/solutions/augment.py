import numpy as np
from scipy.ndimage import rotate


def augment(image, target, rng):
    if rng.random() < 0.5:
        image, target = np.fliplr(image), np.fliplr(target)
    if rng.random() < 0.5:
        image, target = np.flipud(image), np.flipud(target)
    angle = rng.uniform(-40, 40)
    image = rotate(image, angle, reshape=False, order=1, mode="grid-constant")
    target = rotate(target, angle, reshape=False, order=0, mode="grid-constant")
    gain = rng.uniform(0.8, 1.2)
    image = np.clip(image * gain, 0, 1).astype(np.float32)
    return image, target
