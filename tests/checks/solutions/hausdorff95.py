import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt


def hausdorff95(pred, target, spacing_mm):
    if not pred.any() or not target.any():
        return np.nan
    pred_outline = pred & ~binary_erosion(pred)
    target_outline = target & ~binary_erosion(target)
    to_target = distance_transform_edt(~target_outline, sampling=spacing_mm)[pred_outline]
    to_pred = distance_transform_edt(~pred_outline, sampling=spacing_mm)[target_outline]
    return max(np.percentile(to_target, 95), np.percentile(to_pred, 95))
