import numpy as np
import torch
from scipy.ndimage import label


def lesion_weights(target, size):
    weights = torch.ones_like(target)
    for b in range(target.shape[0]):
        for k in range(target.shape[1]):
            labels, count = label(target[b, k].numpy(), structure=np.ones((3, 3)))
            for i in range(1, count + 1):
                lesion = torch.from_numpy(labels == i)
                weights[b, k][lesion] = size / lesion.sum()
    return weights
