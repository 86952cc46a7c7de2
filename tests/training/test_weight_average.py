"""The moving average of the weights, against its recursion in NumPy."""

import numpy as np
import pytest

from facelib.training.weight_update import WeightAverage
from tests.helpers.training_runs import make_embedder


def test_the_average_follows_its_recursion_and_the_context_gives_the_weights_back():
    model = make_embedder()
    kernel = model.get_layer("embeddings").kernel
    average = WeightAverage(model, decay=0.3)
    expected = kernel.numpy().astype(float)
    for step in range(4):
        kernel.assign(kernel.numpy() + 1.0)
        average.update(step)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * kernel.numpy()
    trained = kernel.numpy().copy()

    with average:
        inside = kernel.numpy().copy()

    np.testing.assert_allclose(inside, expected, rtol=1e-5)
    np.testing.assert_array_equal(kernel.numpy(), trained)


def test_the_weights_come_back_after_an_error_too():
    model = make_embedder()
    kernel = model.get_layer("embeddings").kernel
    average = WeightAverage(model, decay=0.9)
    kernel.assign(kernel.numpy() + 1.0)
    trained = kernel.numpy().copy()

    with pytest.raises(OSError), average:
        raise OSError

    np.testing.assert_array_equal(kernel.numpy(), trained)
