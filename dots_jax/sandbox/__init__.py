"""Runs code that a model wrote, fenced off from the machine, and says whether it passes its tests."""
