import torch


@torch.no_grad()
def validate(model, batches, loss_fn):
    was_training = model.training
    model.eval()
    total, images = 0.0, 0
    for image, target in batches:
        logits = model(image)
        total += loss_fn(logits, target).item() * len(image)
        images += len(image)
    model.train(was_training)
    return total / images
