"""Evens out the weights of convolutions that follow each other, for targets with one scale for all weights of a layer.

A channel of a convolution is divided by a factor, and the weights that read this channel are multiplied by it. Between
the two may be a ReLU, which commutes with positive factors, or a ReLU6 where the channel does not reach 6. The network
computes the same as before (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction,
https://arxiv.org/abs/1906.04721, section 4.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROUNDS = 6  # of all links; each evens out two layers and disturbs their neighbours a little
REACHED = 0.998  # share of the limit from which on a channel counts as cut


@dataclass
class Kernel:
    """The weights of a convolution.

    Attributes:
        weights: float32 [outputs, inputs, height, width]; [channels, 1, height, width] of a depthwise one.
        bias: float32 [outputs].
        is_depthwise: whether each channel has a filter of its own.
    """

    weights: np.ndarray
    bias: np.ndarray
    is_depthwise: bool

    def largest_given(self) -> np.ndarray:
        """The largest magnitude of the weights that make each output channel."""
        return np.abs(self.weights).max((1, 2, 3))

    def largest_taken(self) -> np.ndarray:
        """The largest magnitude of the weights that read each input channel."""
        return np.abs(self.weights).max((1, 2, 3) if self.is_depthwise else (0, 2, 3))

    def divide_outputs(self, factors: np.ndarray) -> None:
        self.weights = self.weights / factors[:, None, None, None]
        self.bias = self.bias / factors

    def multiply_inputs(self, factors: np.ndarray) -> None:
        shape = (-1, 1, 1, 1) if self.is_depthwise else (1, -1, 1, 1)
        self.weights = self.weights * factors.reshape(shape)


@dataclass
class Link:
    """Two convolutions, of which the second alone reads the first.

    Attributes:
        first: makes the channels.
        second: reads them.
        limit: where the activation between them cuts, such as 6; None if it does not.
        peaks: float [channels], the largest values after the activation on real faces; needed with `limit`.
    """

    first: Kernel
    second: Kernel
    limit: float | None = None
    peaks: np.ndarray | None = None


def equalise(links: Sequence[Link]) -> None:
    """Evens out the weights of all links, in place."""
    for _ in range(ROUNDS):
        for link in links:
            given, taken = link.first.largest_given(), link.second.largest_taken()
            is_alive = (given > 0) & (taken > 0)
            factors = np.sqrt(np.where(is_alive, given, 1) / np.where(is_alive, taken, 1))
            if link.limit is not None and link.peaks is not None:
                is_free = link.peaks < REACHED * link.limit
                factors = np.where(is_free, np.maximum(factors, link.peaks / link.limit), 1.0)
                link.peaks = link.peaks / factors
            link.first.divide_outputs(factors.astype(np.float32))
            link.second.multiply_inputs(factors.astype(np.float32))
