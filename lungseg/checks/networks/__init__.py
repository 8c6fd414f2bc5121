"""Checks of windows, attention, blocks and whole networks."""
