"""Packed sequences of a mixture, in an order that is a pure function of (seed, index)."""
