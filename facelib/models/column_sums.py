"""A global depthwise convolution as two: sums of the columns of the map, then the sum of those sums.

XNNPACK has int8 kernels for depthwise convolutions of at most 25 weights a channel. The two convolutions have 7 weights
a channel each, where the one has 49. `facelib.models.fake_quant` trains in this form, `facelib.export` writes it.
"""

import numpy as np

MAX_TAPS = 25  # weights per channel of XNNPACK's largest depthwise kernel


def is_global(kernel_shape: tuple[int, ...], map_shape: tuple[int, ...]) -> bool:
    """Whether a depthwise kernel [H, W, C, M] covers the map [H, W, C] and is too large for XNNPACK."""
    return (
        tuple(kernel_shape[:2]) == tuple(map_shape[:2])
        and kernel_shape[3] == 1
        and kernel_shape[0] * kernel_shape[1] > MAX_TAPS
    )


def even_factors(largest: np.ndarray) -> np.ndarray:
    """Factors that bring the channels to one range.

    Args:
        largest: float [C], the largest magnitude of each channel.

    Returns:
        float32 [C], at least 1 and at most 1000.
    """
    return np.clip(largest.max() / np.maximum(largest, 1e-9), 1, 1000).astype(np.float32)


def column_shapes(height: int, width: int, channels: int) -> tuple[list[int], list[int]]:
    """The shapes that a map [N, H, W, C] takes before each of the two convolutions."""
    return [-1, height, 1, width * channels], [-1, width, 1, channels]


def column_kernels(kernel, factors):
    """The kernels of the two convolutions.

    Args:
        kernel: float32 [H, W, C, 1], array or tensor, of the global convolution.
        factors: float32 [C], by which the first multiplies each channel; the second divides.

    Returns:
        Two tensors: [H, 1, W C, 1] and [W, 1, C, 1].
    """
    import tensorflow as tf

    height, width, channels, _ = kernel.shape
    first = tf.reshape(kernel * tf.reshape(factors, [1, 1, -1, 1]), [height, 1, width * channels, 1])
    second = tf.ones([width, 1, 1, 1]) * tf.reshape(1.0 / factors, [1, 1, -1, 1])
    return first, second
