def scores(counts):
    tp, fp, fn, tn = counts.double().T
    return {
        "dice": 2 * tp / (2 * tp + fp + fn),
        "iou": tp / (tp + fp + fn),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "rmse": ((fp + fn) / (tp + fp + fn + tn)).sqrt(),
    }


def summarise(counts):
    tp, fp, fn, tn = counts.T
    result = {}
    for name, values in scores(counts).items():
        result[name] = values.nanmean().item()
    for name, value in scores(counts.sum(0, keepdim=True)).items():
        result["pooled_" + name] = value.item()
    result["images"] = len(counts)
    result["empty_targets"] = int((tp + fn == 0).sum())
    result["empty_predictions"] = int((tp + fp == 0).sum())
    result["false_alarms"] = int(((tp + fn == 0) & (fp > 0)).sum())
    return result
