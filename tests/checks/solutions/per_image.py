def per_image(counts):
    tp, fp, fn, tn = counts.double().T
    return {
        "dice": 2 * tp / (2 * tp + fp + fn),
        "iou": tp / (tp + fp + fn),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "rmse": ((fp + fn) / (tp + fp + fn + tn)).sqrt(),
    }
