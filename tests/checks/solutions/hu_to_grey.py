import numpy as np


def hu_to_grey(hu, hu_window=(-1000, 400), bits=8):
    low, high = hu_window
    levels = 2**bits - 1
    hu = hu.astype(np.float64)
    unit = np.clip((hu - low) / (high - low), 0, 1)
    grey = np.round(unit * levels)
    return grey.astype(np.uint8 if bits == 8 else np.uint16)
