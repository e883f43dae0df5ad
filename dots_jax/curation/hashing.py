"""One mixing function of 64 bits, for n-grams, shingles and bands: the same on every machine and in every process."""

import numpy as np

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that spreads every bit (splitmix64's end)."""
    values = (values ^ (values >> _SHIFTS[0])) * _MIX[0]
    values = (values ^ (values >> _SHIFTS[1])) * _MIX[1]
    return values ^ (values >> _SHIFTS[2])
