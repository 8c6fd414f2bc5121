"""Wrong losses, metrics, intensities, augmentations, splits, early stoppings, windows and training steps."""

from mutants import Mutant, mutant

LOSSES = [
    mutant("binary_cross_entropy_with_logits of probabilities", "bce_loss", "sigmoid twice",
           "loss = logits", "logits = logits.sigmoid()\n    loss = logits"),
    mutant("sums the pixels", "bce_loss", "sum instead of mean", "loss.mean()", "loss.sum()"),
    mutant("sums the pixels of an image", "bce_loss", "sum over pixels, mean over images",
           "loss.mean()", "loss.flatten(1).sum(1).mean()"),
    mutant("forgets the mean", "bce_loss", "not reduced", "loss.mean()", "loss"),
    mutant("one loss per image", "bce_loss", "one loss per image", "loss.mean()", "loss.flatten(1).mean(1)"),
    mutant("target first", "bce_loss", "arguments exchanged", "(logits, target)", "(target, logits)"),
    mutant("log likelihood", "bce_loss", "sign", "return loss", "return -loss"),
    mutant("counts lesion pixels only", "bce_loss", "only lesion pixels", "loss.mean()", "(loss * target).mean()"),
    mutant("counts background only", "bce_loss", "only background pixels", "loss.mean()",
           "(loss * (1 - target)).mean()"),
    mutant("log2", "bce_loss", "base 2", "loss.mean()", "loss.mean() / torch.tensor(2.0).log()"),
    mutant("divides by the lesion", "bce_loss", "mean over lesion pixels", "loss.mean()", "loss.sum() / target.sum()"),
    mutant("returns a float", "bce_loss", "no gradient", "loss.mean()", "loss.mean().item()"),
    mutant("masks for 1 - target", "bce_loss", "target inverted", "logits * target", "logits * (1 - target)"),
    Mutant("log of the sigmoid", "bce_loss", "logarithm of a rounded probability", """
def bce_loss(logits, target):
    p = logits.sigmoid()
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean()
"""),
    Mutant("epsilon inside the logarithm", "bce_loss", "logarithm of a rounded probability", """
def bce_loss(logits, target):
    p = logits.sigmoid().clamp(1e-7, 1 - 1e-7)
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean()
"""),
    Mutant("binary_cross_entropy of the sigmoid", "bce_loss", "logarithm of a rounded probability", """
import torch.nn.functional as F
def bce_loss(logits, target):
    return F.binary_cross_entropy(logits.sigmoid(), target)
"""),
    Mutant("binary_cross_entropy of the logits", "bce_loss", "sigmoid forgotten", """
import torch.nn.functional as F
def bce_loss(logits, target):
    return F.binary_cross_entropy(logits, target)
"""),
    Mutant("log of the logits", "bce_loss", "sigmoid forgotten", """
def bce_loss(logits, target):
    return -(target * logits.log() + (1 - target) * (1 - logits).log()).mean()
"""),
    mutant("changes the target", "bce_loss", "", "loss = logits", "target.clamp_(0.1, 0.9)\n    loss = logits"),
    mutant("forgets the sigmoid", "dice_loss", "sigmoid forgotten", "logits.sigmoid()", "logits"),
    mutant("applies the sigmoid twice", "dice_loss", "sigmoid twice", "sigmoid()", "sigmoid().sigmoid()"),
    mutant("softmax over the channel", "dice_loss", "softmax of one channel", "sigmoid()", "softmax(1)"),
    mutant("thresholds", "dice_loss", "thresholded", "logits.sigmoid()", "(0 * logits + (logits > 0).float())"),
    mutant("detaches", "dice_loss", "no gradient", "logits.sigmoid()", "logits.detach().sigmoid()"),
    mutant("forgets the 2", "dice_loss", "factor 2 missing", "2 * overlap", "overlap"),
    mutant("intersection over union", "dice_loss", "IoU",
           "(2 * overlap + smooth) / (sizes + smooth)", "(overlap + smooth) / (sizes - overlap + smooth)"),
    mutant("returns the score", "dice_loss", "score instead of loss", "1 - dice.mean()", "dice.mean()"),
    mutant("returns minus the score", "dice_loss", "negative score", "1 - dice.mean()", "-dice.mean()"),
    mutant("no smoothing", "dice_loss", "smoothing missing", "smooth=1.0", "smooth=0.0"),
    mutant("epsilon below only", "dice_loss", "smoothing only in the denominator",
           "(2 * overlap + smooth) / (sizes + smooth)", "2 * overlap / (sizes + 1e-7)"),
    mutant("smooth below only", "dice_loss", "smoothing only in the denominator",
           "2 * overlap + smooth", "2 * overlap"),
    mutant("smooth above only", "dice_loss", "smoothing only in the numerator", "(sizes + smooth)", "sizes"),
    mutant("smooth 100", "dice_loss", "smoothing too large", "smooth=1.0", "smooth=100.0"),
    mutant("means with smooth 1", "dice_loss", "mean instead of sum", "overlap = (probs * target).sum(2)\n"
           "    sizes = probs.sum(2) + target.sum(2)",
           "overlap = (probs * target).mean(2)\n    sizes = probs.mean(2) + target.mean(2)"),
    mutant("Dice of the background", "dice_loss", "background", "target = target.flatten(2)",
           "target = 1 - target.flatten(2)\n    probs = 1 - probs"),
    mutant("target first", "dice_loss", "arguments exchanged", "(logits, target, smooth", "(target, logits, smooth"),
    mutant("sums the images", "dice_loss", "summed over the images", "1 - dice.mean()", "(1 - dice).mean(1).sum()"),
    mutant("one loss per image", "dice_loss", "one loss per image", "1 - dice.mean()", "1 - dice.mean(1)"),
    mutant("no lesion, no loss", "dice_loss", "empty target counts as solved", "return 1 - dice.mean()",
           "return 1 - (dice * (target.sum(2) > 0) + (target.sum(2) == 0)).mean()"),
]  # fmt: skip

WEIGHED = [
    *(
        mutant(mistake, name, slip, old, new)
        for name in ("tversky_loss", "focal_tversky_loss")
        for mistake, slip, old, new in (
            ("forgets the sigmoid", "sigmoid forgotten", "logits.sigmoid()", "logits"),
            ("applies the sigmoid twice", "sigmoid twice", "sigmoid()", "sigmoid().sigmoid()"),
            ("the other paper's alpha", "alpha and beta exchanged", "alpha * fp + beta * fn", "beta * fp + alpha * fn"),
            ("weighs the sizes", "sizes instead of errors", "alpha * fp + beta * fn",
             "alpha * probs.sum(2) + beta * target.sum(2)"),
            ("doubles the overlap", "factor 2", "tp = (probs * target)", "tp = 2 * (probs * target)"),
            ("smooth below only", "smoothing only in the denominator", "(tp + smooth)", "tp"),
            ("smooth above only", "smoothing only in the numerator", "+ beta * fn + smooth", "+ beta * fn"),
            ("does without smooth", "smoothing ignored", "index = (tp + smooth)",
             "smooth = 0\n    index = (tp + smooth)"),
            ("means with smooth 1", "mean instead of sum", ("target).sum(2)\n    fp", "- target)).sum(2)\n    fn",
             "* target).sum(2)\n    index"), ("target).mean(2)\n    fp", "- target)).mean(2)\n    fn",
             "* target).mean(2)\n    index")),
            ("detaches", "no gradient", "logits.sigmoid()", "logits.detach().sigmoid()"),
        )
    ),
    mutant("returns the index", "tversky_loss", "score instead of loss", "(1 - index).mean()", "index.mean()"),
    mutant("sums the images", "tversky_loss", "summed over the images", "(1 - index).mean()",
           "(1 - index).mean(1).sum()"),
    mutant("forgets the mean", "tversky_loss", "one loss per image", "(1 - index).mean()", "(1 - index).mean(1)"),
    mutant("one sum for all", "tversky_loss", "pooled over the batch", "    tp =",
           "    probs, target = probs.reshape(1, 1, -1), target.reshape(1, 1, -1)\n    tp ="),
    mutant("power gamma", "focal_tversky_loss", "gamma for 1/gamma", "1 / gamma", "gamma"),
    mutant("power of the index", "focal_tversky_loss", "power of the index", "(missed ** (1 / gamma)).mean()",
           "(1 - index ** (1 / gamma)).mean()"),
    mutant("power of the mean", "focal_tversky_loss", "power of the mean", "(missed ** (1 / gamma)).mean()",
           "missed.mean() ** (1 / gamma)"),
    mutant("no power", "focal_tversky_loss", "power forgotten", "(missed ** (1 / gamma)).mean()", "missed.mean()"),
    mutant("does not clamp", "focal_tversky_loss", "infinite slope", ".clamp(min=1e-6)", ""),
    mutant("cuts the gradient off", "focal_loss", "no gradient", "z = logits", "z = logits.detach()"),
    mutant("q for 1 - q", "focal_loss", "q for 1 - q", "F.logsigmoid(-z)).exp", "F.logsigmoid(z)).exp"),
    mutant("1 - p everywhere", "focal_loss", "p for q", "F.logsigmoid(-z)).exp", "F.logsigmoid(-logits)).exp"),
    mutant("no power", "focal_loss", "power forgotten", " * (gamma * F.logsigmoid(-z)).exp()", ""),
    mutant("times gamma", "focal_loss", "factor for power", "(gamma * F.logsigmoid(-z)).exp()",
           "gamma * z.neg().sigmoid()"),
    mutant("alpha everywhere", "focal_loss", "alpha on all pixels",
           "(alpha * target + (1 - alpha) * (1 - target))", "alpha"),
    mutant("background at 1", "focal_loss", "alpha on lesions only", "(1 - alpha) * (1 - target)", "(1 - target)"),
    mutant("alpha for background", "focal_loss", "alpha exchanged", "alpha * target + (1 - alpha) * (1 - target)",
           "(1 - alpha) * target + alpha * (1 - target)"),
    mutant("no alpha", "focal_loss", "alpha ignored", "if alpha is not None", "if False"),
    mutant("probabilities as logits", "focal_loss", "sigmoid twice", "z = logits *", "z = logits.sigmoid() *"),
    mutant("sums the pixels", "focal_loss", "sum instead of mean", "loss.mean()", "loss.sum()"),
    mutant("forgets the mean", "focal_loss", "not reduced", "loss.mean()", "loss"),
    mutant("likelihood", "focal_loss", "sign", "-F.logsigmoid(z)", "F.logsigmoid(z)"),
    mutant("lesions only", "focal_loss", "only lesion pixels", "loss.mean()", "(loss * target).mean()"),
    mutant("plain power", "focal_loss", "slope of a power at 0", "(gamma * F.logsigmoid(-z)).exp()",
           "(1 - z.sigmoid()) ** gamma"),
    mutant("log of the sigmoid", "focal_loss", "logarithm of a rounded probability", "-F.logsigmoid(z)",
           "-z.sigmoid().clamp(min=1e-7).log()"),
    Mutant("focuses the mean", "focal_loss", "focus on the mean", """
import torch.nn.functional as F
def focal_loss(logits, target, gamma, alpha=None):
    bce = F.binary_cross_entropy_with_logits(logits, target)
    return (1 - (-bce).exp()) ** gamma * bce
"""),
    mutant("nothing inside", "boundary_loss", "outside only", "-inside, outside", "0, outside"),
    mutant("no sign", "boundary_loss", "unsigned", "-inside, outside", "inside, outside"),
    mutant("the other sign", "boundary_loss", "sign", "-inside, outside", "inside, -outside"),
    mutant("squares", "boundary_loss", "squared", "-inside, outside", "-(inside**2), outside**2"),
    mutant("forgets the sigmoid", "boundary_loss", "sigmoid forgotten", "logits.sigmoid()", "logits"),
    mutant("sums", "boundary_loss", "sum instead of mean", ".mean()", ".sum()"),
    mutant("detaches", "boundary_loss", "no gradient", "logits.sigmoid()", "logits.detach().sigmoid()"),
    mutant("measures to nothing", "boundary_loss", "no border", "if lesion.all() or not lesion.any()", "if False"),
    mutant("only empty maps", "boundary_loss", "no border", "lesion.all() or not lesion.any()", "not lesion.any()"),
    mutant("city blocks", "boundary_loss", "steps along the axes",
           ("distance_transform_edt\n\n", "distance_transform_edt(~lesion)", "distance_transform_edt(lesion)"),
           ("distance_transform_cdt\n\n", "distance_transform_cdt(~lesion, 'taxicab')",
            "distance_transform_cdt(lesion, 'taxicab')")),
    mutant("one size", "lesion_weights", "all lesions together", "size / lesion.sum()", "size / (labels > 0).sum()"),
    mutant("default structure", "lesion_weights", "corners do not touch", ", structure=np.ones((3, 3))", ""),
    mutant("multiplies", "lesion_weights", "n for 1/n", "size / lesion.sum()", "size * lesion.sum()"),
    mutant("forgets size", "lesion_weights", "size ignored", "size / lesion.sum()", "1 / lesion.sum()"),
    mutant("zeros", "lesion_weights", "background 0", "ones_like", "zeros_like"),
    mutant("number of lesions", "lesion_weights", "number for n", "size / lesion.sum()", "size / count"),
    Mutant("labels the batch", "lesion_weights", "lesions of several maps", """
import numpy as np
import torch
from scipy.ndimage import label
def lesion_weights(target, size):
    labels, _ = label(target.numpy(), structure=np.ones((3, 3, 3, 3)))
    sizes = np.bincount(labels.ravel()).astype(float)
    sizes[0] = size
    return torch.from_numpy(size / sizes[labels])
"""),
]  # fmt: skip

SCORES = [
    mutant("forgets the 2", "dice", "factor 2 missing", "return 2 * overlap", "return overlap"),
    mutant("gives the IoU", "dice", "IoU", "2 * overlap / (pred.sum() + target.sum())",
           "overlap / (pred.sum() + target.sum() - overlap)"),
    mutant("divides by the lesion", "dice", "recall", "2 * overlap / (pred.sum() + target.sum())",
           "overlap / target.sum()"),
    mutant("epsilon in both", "dice", "0/0 is 1", "2 * overlap / (pred.sum() + target.sum())",
           "(2 * overlap + 1e-8) / (pred.sum() + target.sum() + 1e-8)"),
    mutant("epsilon below", "dice", "0/0 is 0", "target.sum())", "target.sum() + 1e-8)"),
    mutant("smooth 1", "dice", "smoothing of 1", "2 * overlap / (pred.sum() + target.sum())",
           "(2 * overlap + 1) / (pred.sum() + target.sum() + 1)"),
    mutant("1 for an empty target", "dice", "an empty target scores 1", "return",
           "if target.sum() == 0:\n        return 1.0\n    return"),
    mutant("skips empty targets", "dice", "an empty target scores NaN", "return",
           "if target.sum() == 0:\n        return float('nan')\n    return"),
    mutant("Python numbers", "dice", "0/0 unhandled", "2 * overlap / (pred.sum() + target.sum())",
           "2 * int(overlap) / (int(pred.sum()) + int(target.sum()))"),
    mutant("per cent", "dice", "percent", "2 * overlap", "200 * overlap"),
    mutant("sums along the last axis", "dice", "", "(pred * target).sum()", "(pred * target).sum(-1)"),
    mutant("Dice of rows", "dice", "mean over rows", "return 2 * overlap / (pred.sum() + target.sum())",
           "return (2 * (pred * target).sum(1) / (pred.sum(1) + target.sum(1))).nanmean()"),
    mutant("averages with the background", "dice", "mean of lesion and background", "return 2 * overlap / (pred.sum() "
           "+ target.sum())", "a = 2 * overlap / (pred.sum() + target.sum())\n    p, t = 1 - pred, 1 - target\n"
           "    return (a + 2 * (p * t).sum() / (p.sum() + t.sum())) / 2"),
    mutant("background is 1", "dice", "background", "overlap =", "pred, target = 1 - pred, 1 - target\n    overlap ="),
    mutant("gives the Dice", "iou", "Dice", "(pred & target).sum() / (pred | target).sum()",
           "2 * (pred & target).sum() / (pred.sum() + target.sum())"),
    mutant("adds the sizes", "iou", "sizes summed", "(pred | target).sum()", "(pred.sum() + target.sum())"),
    mutant("0/0 is 0", "iou", "0/0 is 0", "(pred | target).sum()", "max((pred | target).sum(), 1)"),
    mutant("share of right pixels", "iou", "accuracy", "(pred & target).sum() / (pred | target).sum()",
           "(pred == target).float().mean()"),
    mutant("divides by the lesion", "precision", "fp and fn exchanged", "pred.sum()", "target.sum()"),
    mutant("0/0 is 1", "precision", "0/0 is 1", "return", "if pred.sum() == 0:\n        return 1.0\n    return"),
    mutant("divides by the prediction", "recall", "fp and fn exchanged", "target.sum()", "pred.sum()"),
    mutant("0/0 is 0", "recall", "0/0 is 0", "target.sum()", "target.sum().clamp(min=1)"),
    mutant("counts in uint8", "recall", "counted in uint8", "return found / target.sum()",
           "return found.long().byte() / target.sum().long().byte()"),
    mutant("forgets the root", "rmse", "root missing", ".sqrt()", ""),
    mutant("sums", "rmse", "root of the sum", "mean()", "sum()"),
    mutant("on the lesion only", "rmse", "lesion pixels only", ".mean()", "[target > 0].mean()"),
    mutant("root of each", "rmse", "root missing", ".mean().sqrt()", ".sqrt().mean()"),
]  # fmt: skip

METRICS = [
    mutant("compares the logit", "confusion_counts", "threshold on the logit", "logits.sigmoid()", "logits"),
    mutant("forgets the threshold", "confusion_counts", "threshold ignored", "logits.sigmoid().flatten(1) > threshold",
           "logits.flatten(1) > 0"),
    mutant("at least", "confusion_counts", "at or above", "> threshold", ">= threshold"),
    mutant("swaps fp and fn", "confusion_counts", "fp and fn exchanged", "[tp, fp, fn, tn]", "[tp, fn, fp, tn]"),
    mutant("order of scikit-learn", "confusion_counts", "order of scikit-learn",
           "[tp, fp, fn, tn]", "[tn, fp, fn, tp]"),
    mutant("tn second", "confusion_counts", "tn second", "[tp, fp, fn, tn]", "[tp, tn, fp, fn]"),
    mutant("adds up the batch", "confusion_counts", "batch pooled", "tn], 1)", "tn], 1).sum(0, keepdim=True)"),
    mutant("counts in uint8", "confusion_counts", "counted in uint8", "tn], 1)", "tn], 1).byte().long()"),
    mutant("float counts", "confusion_counts", "", "tn], 1)", "tn], 1).float()"),
    mutant("counts all predicted", "confusion_counts", "predictions counted", "[tp, fp, fn, tn]",
           "[tp, tp + fp, tp + fn, tn]"),
    mutant("epsilon below", "per_image", "0/0 is 0", "counts.double().T\n    return {", "counts.double().T\n"
           "    return {k: v.nan_to_num(0) for k, v in scores(tp, fp, fn, tn).items()}\n\n\n"
           "def scores(tp, fp, fn, tn):\n    return {"),
    mutant("forgets the 2", "per_image", "factor 2 missing", "2 * tp / (", "tp / ("),
    mutant("0/0 of Dice is 1", "per_image", "", "2 * tp / (2 * tp + fp + fn)",
           "(2 * tp / (2 * tp + fp + fn)).nan_to_num(1)"),
    mutant("forgets the root", "per_image", "root missing", ".sqrt()", ""),
    mutant("swaps the columns", "per_image", "precision and recall exchanged", "tp, fp, fn, tn =", "tp, fn, fp, tn ="),
    mutant("swaps precision and recall", "per_image", "precision and recall exchanged",
           '"precision": tp / (tp + fp),\n        "recall": tp / (tp + fn)',
           '"precision": tp / (tp + fn),\n        "recall": tp / (tp + fp)'),
    mutant("float32", "per_image", "", "counts.double()", "counts.int()"),
    mutant("mean with zeros", "summarise", "NaN counts as 0", "values.nanmean()", "values.nan_to_num(0).mean()"),
    mutant("mean with ones", "summarise", "NaN counts as 1", "values.nanmean()", "values.nan_to_num(1).mean()"),
    mutant("plain mean", "summarise", "NaN spreads", "nanmean()", "mean()"),
    mutant("pools", "summarise", "pooled for mean", "scores(counts).items()",
           "scores(counts.sum(0, keepdim=True)).items()"),
    mutant("false alarms", "summarise", "false alarms are all empty targets", " & (fp > 0)", ""),
    mutant("fp anywhere", "summarise", "false alarms are all images with fp",
           "((tp + fn == 0) & (fp > 0))", "(fp > 0)"),
    mutant("hides the images", "summarise", "", 'result["images"] = len(counts)', "pass"),
    mutant("pixels for mm", "hausdorff95", "spacing ignored", "    if not pred.any()",
           "    spacing_mm = 1\n    if not pred.any()"),
    mutant("reversed spacing", "hausdorff95", "axes exchanged", "    if not pred.any()",
           "    spacing_mm = spacing_mm[::-1]\n    if not pred.any()"),
    mutant("maximum", "hausdorff95", "maximum", "max(np.percentile(to_target, 95), np.percentile(to_pred, 95))",
           "max(to_target.max(), to_pred.max())"),
    mutant("one way", "hausdorff95", "from prediction to target only",
           "max(np.percentile(to_target, 95), np.percentile(to_pred, 95))", "np.percentile(to_target, 95)"),
    mutant("mean of both ways", "hausdorff95", "mean of both directions", "max(np.percentile(to_target, 95), "
           "np.percentile(to_pred, 95))", "(np.percentile(to_target, 95) + np.percentile(to_pred, 95)) / 2"),
    mutant("joint percentile", "hausdorff95", "one percentile of both directions", "max(np.percentile(to_target, 95), "
           "np.percentile(to_pred, 95))", "np.percentile(np.hstack([to_target, to_pred]), 95)"),
    mutant("no outline", "hausdorff95", "all lesion pixels", "pred_outline = pred & ~binary_erosion(pred)\n"
           "    target_outline = target & ~binary_erosion(target)", "pred_outline, target_outline = pred, target"),
    mutant("missed is near", "hausdorff95", "empty is 0", "np.nan", "0.0"),
    mutant("missed is far", "hausdorff95", "empty is infinite", "np.nan", "np.inf"),
]  # fmt: skip

INTENSITIES = [
    mutant("does not clip", "hu_to_unit", "not clipped", "np.clip(unit, 0, 1)", "unit"),
    mutant("clips below", "hu_to_unit", "clipped below only", "np.clip(unit, 0, 1)", "np.maximum(unit, 0)"),
    mutant("clips above", "hu_to_unit", "clipped above only", "np.clip(unit, 0, 1)", "np.minimum(unit, 1)"),
    mutant("min-max", "hu_to_unit", "min-max of the image", "low, high = hu_window",
           "low, high = hu.min(), hu.max() + 1e-9"),
    mutant("centre and width", "hu_to_unit", "centre and width", "low, high = hu_window",
           "low, high = hu_window[0] - hu_window[1] / 2, hu_window[0] + hu_window[1] / 2"),
    mutant("constants", "hu_to_unit", "window ignored", "low, high = hu_window", "low, high = -1000, 400"),
    mutant("inverted", "hu_to_unit", "inverted", "(hu - low)", "(high - hu)"),
    mutant("divides by high", "hu_to_unit", "divided by high", "(high - low)", "high"),
    mutant("no offset", "hu_to_unit", "offset forgotten", "(hu - low)", "hu"),
    mutant("-1 to 1", "hu_to_unit", "-1 to 1", "np.clip(unit, 0, 1)", "2 * np.clip(unit, 0, 1) - 1"),
    mutant("in place", "hu_to_unit", "", "hu = hu.astype(np.float32)", "hu += 0.5"),
    mutant("floor division", "hu_to_unit", "integers", "np.clip(unit, 0, 1)", "np.clip(unit, 0, 1).astype(np.int64)"),
    mutant("casts before clipping", "hu_to_grey", "clipped after the cast", "np.clip((hu - low) / (high - low), 0, 1)",
           "(hu - low) / (high - low)\n    if bits == 8:\n        return np.round(unit * "
           "255).astype(np.int64).astype(np.uint8)"),
    mutant("truncates", "hu_to_grey", "truncated", "np.round(unit * levels)", "unit * levels"),
    mutant("256 levels", "hu_to_grey", "times 256", "grey = np.round(unit * levels)",
           "grey = np.round(unit * 2**bits).astype(np.int64)"),
    mutant("256 bins", "hu_to_grey", "256 bins", "np.round(unit * levels)",
           "np.minimum(np.floor(unit * 2**bits), levels)"),
    mutant("always 255", "hu_to_grey", "bits ignored", "2**bits - 1", "255"),
    mutant("min-max", "hu_to_grey", "min-max of the image", "low, high = hu_window",
           "low, high = hu.min(), hu.max() + 1e-9"),
    mutant("int16", "hu_to_grey", "wraps in int16", "hu = hu.astype(np.float64)\n    unit = np.clip((hu - low) / "
           "(high - low), 0, 1)", "unit = np.clip((np.clip(hu, low, high) - low) * levels / (high - low) / levels, 0, "
           "1)\n    if hu.dtype == np.int16:\n        grey = np.round((np.clip(hu, low, high) - low) * levels / (high "
           "- low))\n        return grey.clip(0, levels).astype(np.uint8)"),
    mutant("float grey", "hu_to_grey", "", "return grey.astype(np.uint8 if bits == 8 else np.uint16)", "return grey"),
    mutant("unit interval", "hu_to_grey", "unit", "unit * levels", "unit"),
]  # fmt: skip

NOISE = "noise = rng.uniform(-1, 1, shape)"
FLIP, ROTATE = "np.fliplr(image), np.fliplr(target)", "target = rotate(target, angle, reshape=False, order=0"
AUGMENTATIONS = [
    mutant("flips the image only", "augment", "flipped apart", FLIP, "np.fliplr(image), target"),
    mutant("flips along other axes", "augment", "flipped apart", FLIP, "np.fliplr(image), np.flipud(target)"),
    mutant("transposes the target", "augment", "rows and columns exchanged", "    return image, target",
           "    return (image, target.T.copy()) if target.shape[0] == target.shape[1] else (image, target)"),
    mutant("opposite rotations", "augment", "opposite rotations", ROTATE,
           "target = rotate(target, -angle, reshape=False, order=0"),
    mutant("two angles", "augment", "a draw for each", ROTATE,
           "angle = rng.uniform(-40, 40)\n    target = rotate(target, angle, reshape=False, order=0"),
    mutant("one pixel off", "augment", "shifted apart", "return image, target", "return image, np.roll(target, 2, 1)"),
    mutant("bilinear target", "augment", "target interpolated", ROTATE, "target = rotate(target.astype(float), angle, "
           "reshape=False, order=1"),
    mutant("bilinear target of 0 and 255", "augment", "target interpolated", ROTATE, "target = rotate(255 * target, "
           "angle, reshape=False, order=1"),
    mutant("returns 0 and 255", "augment", "target scaled", "return image, target", "return image, 255 * target"),
    mutant("np.random", "augment", "global generator", "rng.uniform(0.8, 1.2)", "np.random.uniform(0.8, 1.2)"),
    mutant("a new generator", "augment", "generator of its own", "rng.uniform(0.8, 1.2)",
           "np.random.default_rng().uniform(0.8, 1.2)"),
    mutant("a fixed seed", "augment", "rng not used", "    if rng.random() < 0.5:\n        image, target = np.fliplr",
           "    rng = np.random.default_rng(0)\n    if rng.random() < 0.5:\n        image, target = np.fliplr"),
    mutant("does not clip", "augment", "not clipped", "np.clip(image * gain, 0, 1)", "(image * gain)"),
    mutant("float64 image", "augment", "", ".astype(np.float32)", ".astype(np.float64)"),
    mutant("in place", "augment", "", "    angle =", "    target[0, 0] = 1 - target[0, 0]\n    angle ="),
    Mutant("returns views", "augment", "view", """
def augment(image, target, rng):
    return (image[::-1], target[::-1]) if rng.random() < 0.5 else (image.copy(), target.copy())
"""),
    Mutant("rotates the image only", "augment", "only the image moves", """
from scipy.ndimage import rotate
def augment(image, target, rng):
    return rotate(image, rng.uniform(-40, 40), reshape=False, order=1, mode="constant"), target.copy()
"""),
    Mutant("scales the target by the inverse", "augment", "scaled apart", """
import numpy as np
from scipy.ndimage import affine_transform
def scaled(array, factor, order):
    centre = (np.array(array.shape) - 1) / 2
    return affine_transform(array, np.eye(2) / factor, centre - centre / factor, order=order, mode="grid-constant")
def augment(image, target, rng):
    factor = rng.uniform(1.15, 1.3) ** rng.choice([-1, 1])
    return scaled(image, factor, 1).clip(0, 1), scaled(target, 1 / factor, 0)
"""),
    Mutant("moves the target only", "augment", "only the target moves", """
import numpy as np
def augment(image, target, rng):
    return (image * rng.uniform(0.9, 1)).astype(np.float32), np.roll(target, 5, 0)
"""),
    mutant("noise from 0 to 1", "elastic_displacement", "noise not centred on 0",
           "uniform(-1, 1, shape)", "random(shape)"),
    mutant("does not smooth", "elastic_displacement", "not smoothed", "gaussian_filter(noise, sigma)", "noise"),
    mutant("sigma as variance", "elastic_displacement", "sigma as variance", "(noise, sigma)", "(noise, sigma**0.5)"),
    mutant("smooths twice", "elastic_displacement", "", "(noise, sigma)", "(gaussian_filter(noise, sigma), sigma)"),
    mutant("one noise", "elastic_displacement", "one field for both axes", "    return field",
           "    return field[[0, 0]]"),
    mutant("peak", "elastic_displacement", "alpha as maximum", "np.sqrt(np.mean(smooth**2))", "np.abs(smooth).max()"),
    mutant("not normalised", "elastic_displacement", "not normalised", " / np.sqrt(np.mean(smooth**2))", ""),
    mutant("normal noise, not normalised", "elastic_displacement", "not normalised",
           "noise = rng.uniform(-1, 1, shape)\n        smooth = gaussian_filter(noise, sigma)\n"
           "        field[axis] = alpha * smooth / np.sqrt(np.mean(smooth**2))",
           "field[axis] = gaussian_filter(rng.normal(0, alpha, shape), sigma)"),
    mutant("joint norm", "elastic_displacement", "normalised together", "    return field",
           "        field[axis] = smooth\n    return alpha * field / np.sqrt(np.mean(field**2))"),
    mutant("standard deviation", "elastic_displacement", "standard deviation",
           "noise = rng.uniform(-1, 1, shape)\n        smooth = gaussian_filter(noise, sigma)\n"
           "        field[axis] = alpha * smooth / np.sqrt(np.mean(smooth**2))",
           "smooth = gaussian_filter(rng.normal(0, 1, shape), sigma)\n        field[axis] = alpha * smooth / "
           "smooth.std()"),
    mutant("length", "elastic_displacement", "length is alpha", "    return field", "    return field / np.sqrt(2)"),
    mutant("mean magnitude", "elastic_displacement", "mean of magnitudes", "np.sqrt(np.mean(smooth**2))",
           "np.mean(np.abs(smooth))"),
    mutant("grid_sample units", "elastic_displacement", "fractions of the image", "    return field",
           "    return field / (np.array(shape)[:, None, None] / 2)"),
    mutant("axes last", "elastic_displacement", "axes last", "return field", "return np.moveaxis(field, 0, -1)"),
    mutant("np.random", "elastic_displacement", "global generator", "rng.uniform", "np.random.uniform"),
    mutant("fixed seed", "elastic_displacement", "rng not used", NOISE, f"rng = np.random.default_rng(axis)\n        "
                                                                        f"{NOISE}"),
    mutant("swaps sides", "elastic_displacement", "height and width exchanged", "field = np",
           "shape = shape[::-1]\n    field = np"),
]  # fmt: skip

CUT = """
import random
import numpy as np

def split_by_group(groups, fractions, *, seed):
    names = NAMES
    SHUFFLE
    splits, start, of = list(fractions), 0, {}
    for k, split in enumerate(splits):
        left = len(splits) - k - 1
        number = max(1, min(round(fractions[split] * len(names)), len(names) - start - left))
        stop = start + number if left else len(names)
        of.update({name: split for name in names[start:stop]})
        start = stop
    return [of[g] for g in groups]
"""


def cut(mistake: str, slip: str, names: str, shuffle: str) -> Mutant:
    """The names in an order, cut into the splits."""
    return Mutant(mistake, "split_by_group", slip, CUT.replace("NAMES", names).replace("SHUFFLE", shuffle))


SPLITS = [
    Mutant("splits the rows", "split_by_group", "by row", """
import numpy as np

def split_by_group(groups, fractions, *, seed):
    names = list(fractions)
    return [names[k] for k in np.random.default_rng(seed).choice(len(names), len(groups), p=list(fractions.values()))]
"""),
    Mutant("each group draws by itself", "split_by_group", "an empty split", """
import numpy as np

def split_by_group(groups, fractions, *, seed):
    rng = np.random.default_rng(seed)
    names = list(fractions)
    of = {g: names[rng.choice(len(names), p=list(fractions.values()))] for g in sorted(set(groups))}
    return [of[g] for g in groups]
"""),
    cut("the first groups", "not shuffled", "sorted(set(groups))", "pass"),
    cut("a seed of its own", "seed ignored", "sorted(set(groups))", "random.Random(0).shuffle(names)"),
    cut("order of appearance", "order of the rows", "list(dict.fromkeys(groups))",
        "random.Random(seed).shuffle(names)"),
    cut("order of a set", "order of a set", "list(set(groups))", "random.Random(seed).shuffle(names)"),
    cut("random.shuffle", "global generator", "sorted(set(groups))", "random.shuffle(names)"),
    cut("random.seed", "global generator", "sorted(set(groups))", "random.seed(seed); random.shuffle(names)"),
    cut("a new generator", "not repeatable", "sorted(set(groups))", "random.Random().shuffle(names)"),
    cut("sorts by size", "fractions of groups", "sorted(set(groups))",
        "random.Random(seed).shuffle(names); names.sort(key=groups.count)"),
    mutant("drops the last group", "split_by_group", "row without a split", "split_of[group] for group",
           "split_of[group] if group != max(groups) else None for group"),
    mutant("drops rows", "split_by_group", "a row left out", "for group in groups]", "for group in groups[:-1]]"),
    mutant("returns a dict", "split_by_group", "indices", "return [split_of[group] for group in groups]",
           "return {s: [i for i, g in enumerate(groups) if split_of[g] == s] for s in fractions}"),
    mutant("sorts the rows in place", "split_by_group", "", "names = sorted",
           "groups.sort(reverse=True)\n    names = sorted"),
]  # fmt: skip

STOPPING = [
    mutant(mistake, "EarlyStopping", slip, old, new)
    for mistake, slip, old, new in [
        ("more than patience", "one epoch late", "self.waited >=", "self.waited >"),
        ("the best counts as waiting", "one epoch early", ", self.epoch, 0\n", ", self.epoch, 1\n"),
        ("not self.best", "a best of 0 is none", "self.best is None", "not self.best"),
        ("swaps the modes", "mode exchanged", '== "max"', '== "min"'),
        ("ignores the mode", "mode ignored", 'self.mode == "max"', "True"),
        ("keeps the counter", "counter not reset", "self.best_epoch, self.waited = value, self.epoch, 0",
         "self.best_epoch = value, self.epoch"),
        ("at least as good", "tie is an improvement", "value > self.best + self.min_delta\n        else:\n"
         "            is_best = value < self", "value >= self.best + self.min_delta\n        else:\n"
         "            is_best = value <= self"),
        ("the epoch before", "compared with the epoch before", "        self.stop =",
         "        self.best = value\n        self.stop ="),
        ("not worse than the best", "NaN becomes the best", "is_best = False\n", "is_best = True\n"),
        ("keeps a first NaN", "first NaN stays the best", "is_best = False\n", "is_best = self.best is None\n"),
        ("forgets min_delta", "min_delta ignored", "self.min_delta, self.min_epochs = min_delta",
         "self.min_delta, self.min_epochs = 0"),
        ("a relative min_delta", "min_delta relative", "self.best + self.min_delta\n        else:\n"
         "            is_best = value < self.best - self.min_delta", "self.best + self.min_delta * abs(self.best)\n   "
         "     else:\n            is_best = value < self.best - self.min_delta * abs(self.best)"),
        ("a wrong sign", "min_delta with the wrong sign", "min_epochs = min_delta", "min_epochs = -min_delta"),
        ("stops too soon", "min_epochs ignored", " and self.epoch >= self.min_epochs", ""),
        ("more than min_epochs", "min_epochs one late", "self.epoch >= self.min_epochs",
         "self.epoch >= self.min_epochs + (self.min_epochs > 0)"),
        ("warm-up without a best", "best forgotten during min_epochs", "value != value:", "value != value or "
         "self.epoch <= self.min_epochs:"),
        ("waits after min_epochs", "waiting starts after min_epochs", "self.waited += 1",
         "self.waited += self.epoch > self.min_epochs"),
        ("never stops", "never stops", "self.stop = self.waited", "stop = self.waited"),
        ("counts from 0", "epochs from 0", "= value, self.epoch, 0", "= value, self.epoch - 1, 0"),
        ("the last epoch", "best epoch is the last", "        self.stop =",
         "        self.best_epoch = self.epoch\n        self.stop ="),
        ("returns True", "always best", "return is_best", "return True"),
        ("returns nothing", "", "        return is_best\n", ""),
        ("other arguments", "", "patience, mode, min", "patience, min"),
    ]
]  # fmt: skip

WINDOWS = [
    mutant(mistake, "sliding_window", slip, old, new)
    for mistake, slip, old, new in [
        ("stops before the end", "last rows or columns not covered", "range(0, side - window, step))\n"
         "    return found + [max(side - window, 0)]", "range(0, side - window + 1, step))\n    return found"),
        ("goes on beyond the end", "cut off at the border", "range(0, side - window, step))\n"
         "    return found + [max(side - window, 0)]", "range(0, side, step))\n    return found"),
        ("does not divide", "overlaps summed", "total / count", "total"),
        ("divides by all windows", "divided by the number of windows", "total / count",
         "total / (len(starts(H, h, step)) * len(starts(W, w, step)))"),
        ("divides twice", "divided twice", "total / count", "total / count / count"),
        ("overwrites", "last window wins", "total = total + placed", "total = torch.where(placed != 0, placed, total)\n"
         "            count[:, :, top : top + h, left : left + w] = 0"),
        ("puts back at (column, row)", "rows and columns exchanged", "return total / count",
         "return (total / count).transpose(2, 3)"),
        ("the first image", "only the first image", "return total / count", "return (total / count)[:1]"),
        ("leaves the other images empty", "only the first image", "= logits\n",
         "= logits * (torch.arange(B) == 0)[:, None, None, None]\n"),
        ("sigmoid", "probabilities", "model(window)", "model(window).sigmoid()"),
        ("steps of a window", "overlap ignored", "window_size * (1 - overlap)", "window_size"),
        ("moves on by the overlap", "step of overlap", "(1 - overlap)", "overlap"),
        ("trains", "mode changed", "    B, C, H, W =", "    model.train()\n    B, C, H, W ="),
        ("predicts one image", "only the first image", "model(window)", "model(window[:1])"),
        ("works in place", "", "logits = model(window)", "logits = model(window.mul_(2).div_(2).add_(1))"),
    ]
]  # fmt: skip

STEPS = [
    mutant(mistake, name, slip, old, new)
    for mistake, name, slip, old, new in [
        ("forgets zero_grad", "train_one_epoch", "gradients accumulate", "optimizer.zero_grad()", "pass"),
        ("zero_grad once", "train_one_epoch", "gradients accumulate", "    model.train()", "    model.train()\n    "
         "optimizer.zero_grad()\n    optimizer.zero_grad = lambda: None"),
        ("zero_grad after backward", "train_one_epoch", "zero_grad before step", "loss.backward()",
         "loss.backward()\n        optimizer.zero_grad()"),
        ("step before backward", "train_one_epoch", "step before backward", "loss.backward()\n        optimizer.step()",
         "optimizer.step()\n        loss.backward()"),
        ("forgets step", "train_one_epoch", "no step", "        optimizer.step()\n", ""),
        ("forgets backward", "train_one_epoch", "no backward", "        loss.backward()\n", ""),
        ("step twice", "train_one_epoch", "step twice", "optimizer.step()", "optimizer.step(), optimizer.step()"),
        ("forgets train()", "train_one_epoch", "evaluation mode", "model.train()", "pass"),
        ("returns in the loop", "train_one_epoch", "only the first batch", "    return total", "        return total"),
        ("one step", "train_one_epoch", "one step per epoch", "        optimizer.step()\n        total += loss.item() "
         "* len(image)\n        images += len(image)\n", "        total += loss.item() * len(image)\n        images "
         "+= len(image)\n    optimizer.step()\n"),
        ("probabilities", "train_one_epoch", "sigmoid before the loss", "model(image)", "model(image).sigmoid()"),
        ("target first", "train_one_epoch", "arguments exchanged", "loss_fn(logits, target)",
         "loss_fn(target, logits)"),
        ("mean of means", "train_one_epoch", "mean of the batches", "* len(image)\n        images += len(image)",
         "\n        images += 1"),
        ("sum", "train_one_epoch", "sum of the batches", "* len(image)\n        images += len(image)",
         "\n        images = 1"),
        ("sum over images", "train_one_epoch", "sum over the images", "total / images", "total"),
        ("last loss", "train_one_epoch", "loss of the last batch", "total / images", "loss"),
        ("forgets zero_grad", "train_step", "gradients accumulate", "    optimizer.zero_grad()\n", ""),
        ("zero_grad after backward", "train_step", "zero_grad before step",
         "optimizer.zero_grad()\n    loss.backward()",
         "loss.backward()\n    optimizer.zero_grad()"),
        ("forgets step", "train_step", "no step", "    optimizer.step()\n", ""),
        ("step first", "train_step", "step before backward", "    loss.backward()\n    optimizer.step()",
         "    optimizer.step()\n    loss.backward()"),
        ("sigmoid", "train_step", "sigmoid before the loss", "model(image)", "model(image).sigmoid()"),
        ("returns nothing", "train_step", "", "    return loss.item()\n", ""),
        ("eval mode", "train_step", "evaluation mode", "    loss =", "    model.eval()\n    loss ="),
        ("switches gradients off", "validate", "gradients stay off",
         "@torch.no_grad()\ndef validate(model, batches, loss_fn):",
         "def validate(model, batches, loss_fn):\n    torch.set_grad_enabled(False)"),
        ("forgets eval()", "validate", "training mode", "    model.eval()\n", ""),
        ("stays in eval", "validate", "mode not restored", "    model.train(was_training)\n", ""),
        ("forgets no_grad", "validate", "gradients recorded", "@torch.no_grad()\n", ""),
        ("mean of means", "validate", "mean of the batches", "* len(image)\n        images += len(image)",
         "\n        images += 1"),
        ("returns in the loop", "validate", "only the first batch", "    model.train(was_training)\n    return",
         "        model.train(was_training)\n        return"),
    ]
]  # fmt: skip

MUTANTS = [
    *LOSSES, *WEIGHED, *SCORES, *METRICS, *INTENSITIES, *AUGMENTATIONS, *SPLITS, *STOPPING, *WINDOWS, *STEPS
]  # fmt: skip
