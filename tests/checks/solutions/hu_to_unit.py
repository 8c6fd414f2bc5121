import numpy as np


def hu_to_unit(hu, hu_window=(-1000, 400)):
    low, high = hu_window
    hu = hu.astype(np.float32)
    unit = (hu - low) / (high - low)
    return np.clip(unit, 0, 1)
