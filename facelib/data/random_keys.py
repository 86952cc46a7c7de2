"""One random key for each record of an epoch, and the random numbers that follow from it (SplitMix64)."""

import numpy as np


class Draws:
    """Random numbers that follow from a 64-bit key: SplitMix64, at a hundredth of the cost of a NumPy generator.

    Steele et al., https://doi.org/10.1145/2714064.2660195, figure 17.

    Args:
        key: uint64.
    """

    def __init__(self, key: int):
        self.state = key

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """From [low, high)."""
        mask = 0xFFFFFFFFFFFFFFFF
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return low + (high - low) * ((z ^ (z >> 31)) >> 11) * 2.0**-53

    def integer(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return low + int(self.uniform() * (high - low + 1))


def record_keys(record_idx: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """One random key for each record of an epoch. The augmentation of the image follows from it.

    SplitMix64's finaliser over a counter: Steele et al., https://doi.org/10.1145/2714064.2660195, figure 19.

    Args:
        record_idx: uint32 [B].
        seed: of the run.
        epoch: from 0.

    Returns:
        uint64 [B].
    """
    mask = 2**64 - 1
    base = np.uint64((seed * 0x9E3779B97F4A7C15 + epoch * 0xD1342543DE82EF95) & mask)
    z = (record_idx.astype(np.uint64) + base) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
