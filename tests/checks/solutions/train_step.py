def train_step(model, image, target, loss_fn, optimizer):
    loss = loss_fn(model(image), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
