"""Reads optimised HLO modules of TPUs: costs, collectives, timeline, memory. Knows nothing of this project's model."""
