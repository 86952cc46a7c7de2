"""The time of one face: the median of calls with a single image on one thread, measured alike on every runtime.

A rate of batches on all threads says nothing about a phone, and differs among runtimes by what they batch.
"""

import math
import time

import numpy as np

from facelib.embedder import Embedder

NUM_CALLS, SECONDS = 50, 2.0  # at most; a slow simulator gets at least MIN_CALLS
MIN_CALLS = 3


def single_call_ms(embedder: Embedder, size: tuple[int, int] = (112, 112)) -> float:
    """Median milliseconds of a call with one image, the change to the model's input included.

    Args:
        embedder: on one thread.
        size: (height, width) of the image in pixels.
    """
    return float(np.median(call_times_ms(embedder, size, SECONDS, NUM_CALLS)))


def call_times_ms(
    embedder: Embedder, size: tuple[int, int], seconds: float, num_calls: float = math.inf
) -> list[float]:
    """Milliseconds of each of several calls with one image, after one that warms up.

    Args:
        embedder: the model.
        size: (height, width) of the image in pixels.
        seconds: after this time no further call begins, but there are at least MIN_CALLS.
        num_calls: so many calls at most.
    """
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    embed = getattr(embedder, "raw", embedder)
    embed(image)  # warms up
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < MIN_CALLS or (len(times) < num_calls and time.perf_counter() - begun < seconds):
        started = time.perf_counter()
        embed(image)
        times.append(1000 * (time.perf_counter() - started))
    return times
