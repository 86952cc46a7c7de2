"""Weights away from their initial values, for tests of exports: an untrained net hides what a conversion forgets."""

import numpy as np


def random_weights(model, seed=0, spread=1.0):
    """Statistics, scales and slopes away from their initial values: a fold that forgets one of them shows.

    A smaller `spread` gives a network like trained ones, which int8 can follow; slopes reach below 0 and to exactly 1.
    """
    rng = np.random.default_rng(seed)
    draw = {
        "gamma": lambda shape: rng.uniform(1 - 0.7 * spread, 1 + 0.5 * spread, shape) * rng.choice([-1, 1], shape),
        "beta": lambda shape: rng.normal(0, 0.3 * spread, shape),
        "moving_mean": lambda shape: rng.normal(0, 0.5 * spread, shape),
        "moving_variance": lambda shape: rng.uniform(1 - 0.8 * spread, 1 + 2 * spread, shape),
        "alpha": lambda shape: np.append(rng.uniform(0.25 - 0.75 * spread, 0.25 + 0.75 * spread, shape[0] - 1), 1.0),
    }
    for layer in model.layers:
        for weight in layer.weights:
            if weight.name in draw:
                weight.assign(draw[weight.name](tuple(weight.shape)))
    return model
