"""Checkpoints: written, opened, read in parts."""
