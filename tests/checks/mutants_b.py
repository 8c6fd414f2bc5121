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
    mutant("counts background only", "bce_loss", "only background pixels", "loss.mean()", "(loss * (1 - target)).mean()"),
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
    mutant("smooth below only", "dice_loss", "smoothing only in the denominator", "2 * overlap + smooth", "2 * overlap"),
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

MUTANTS = LOSSES
