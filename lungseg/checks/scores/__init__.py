"""Checks of losses, scores and distances."""
