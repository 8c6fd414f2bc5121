"""Checks of intensities, augmentation and splits."""
