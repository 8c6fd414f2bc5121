import numpy as np
from scipy.ndimage import gaussian_filter


def elastic_displacement(shape, alpha, sigma, rng):
    field = np.zeros((2, *shape))
    for axis in range(2):
        noise = rng.uniform(-1, 1, shape)
        smooth = gaussian_filter(noise, sigma)
        field[axis] = alpha * smooth / np.sqrt(np.mean(smooth**2))
    return field
