def train_one_epoch(model, batches, loss_fn, optimizer):
    model.train()
    total, images = 0.0, 0
    for image, target in batches:
        optimizer.zero_grad()
        logits = model(image)
        loss = loss_fn(logits, target)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(image)
        images += len(image)
    return total / images
