"""Checks of the training step, of when to stop, and of the sliding window."""
