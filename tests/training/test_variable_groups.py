"""The update on long vectors against Keras's optimizers over the variables one by one: weights, state and its names."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.step_nodes import count_nodes
from facelib.losses.registry import make_head
from facelib.models import pointwise
from facelib.models.layers import AtMostOne
from facelib.training import variable_groups
from facelib.training.optimizers import make_optimizer
from facelib.training.recipe.schema import CHOICES, Recipe, Stage
from facelib.training.stage_setup import StageParts
from facelib.training.variable_groups import group_variables
from facelib.training.weight_update import Updater

SHAPES = {"kernel": (3, 4), "bias": (4,), "alpha": (5,), "centres": (7, 10), "odd": (2, 3), "gamma": (4,)}
FROZEN = "gamma"
DECAYS = {"kernel": 0.01, "centres": 0.1}
STEPS = 4


@pytest.fixture(autouse=True)
def centres_are_long(monkeypatch):
    monkeypatch.setattr(variable_groups, "MOST_VALUES", 50)


def make_variables():
    rng = np.random.default_rng(0)
    variables = [keras.Variable(rng.normal(size=s).astype("float32"), name=n) for n, s in SHAPES.items()]
    by_name = dict(zip(SHAPES, variables, strict=True))
    by_name["alpha"].constraint = AtMostOne()
    by_name["odd"].constraint = keras.constraints.MaxNorm(0.5)  # over rows: not value by value
    return variables


def gradients_of(step):
    rng = np.random.default_rng(10 + step)
    return [tf.constant(rng.normal(size=shape), tf.float32) for shape in SHAPES.values()]


def trained(variables, values=None):
    """Those that are not frozen, or the values beside them."""
    return [value for name, value in zip(SHAPES, values or variables, strict=True) if name != FROZEN]


@pytest.mark.parametrize("share", [1.0, 0.25])
@pytest.mark.parametrize("kind", CHOICES["optimizer"])
def test_the_weights_and_the_state_are_those_of_kerass_optimizer(kind, share):
    stage = Stage(optimizer=kind, clip_norm=0.0, learning_rate=0.05, backbone_rate=share)
    theirs, ours = make_variables(), make_variables()
    reference, mine = make_optimizer(stage), make_optimizer(stage)
    reference.build(theirs)
    decays = [DECAYS.get(name, 0.0) for name in SHAPES if name != FROZEN]
    update = Updater(mine, stage, trained(ours), decays, ours[:3], held=ours)
    is_decoupled = kind in ("adamw", "lion")

    for step in range(STEPS):
        gradients = trained(theirs, gradients_of(step))
        before = [v.numpy().copy() for v in theirs]
        for variable, decay in zip(trained(theirs), decays, strict=True):
            if is_decoupled and decay:
                variable.assign(variable.value * (1.0 - 0.05 * decay))
        grown = [
            g + d * v.value if d and not is_decoupled else g
            for g, d, v in zip(gradients, decays, trained(theirs), strict=True)
        ]
        reference.apply(grown, trained(theirs))
        for variable, old in list(zip(theirs, before, strict=True))[:3]:
            variable.assign(old + share * (variable.numpy() - old))
        update(update.join(gradients))

    for their, our in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(our.numpy(), their.numpy(), rtol=1e-6, atol=1e-7, err_msg=their.path)
    state = [v for v in reference.variables if not v.path.startswith("variable")]  # Nadam's product: Keras numbers it
    mine_state = [v for v in update.state if not v.path.startswith("variable")]
    assert [v.path for v in mine_state] == [v.path for v in state]
    for their, our in zip(state, mine_state, strict=True):
        assert our.shape == their.shape
        np.testing.assert_allclose(our.numpy(), their.numpy(), rtol=1e-6, atol=1e-7, err_msg=their.path)


def test_under_loss_scaling_the_names_are_kerass_too():
    stage = Stage(optimizer="adam")
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        reference, mine = make_optimizer(stage), make_optimizer(stage)
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    reference.build(make_variables())
    update = Updater(mine, stage, make_variables(), [0.0] * len(SHAPES), [])

    assert [v.path for v in update.state] == [v.path for v in reference.variables]


def test_a_part_of_a_vector_is_assigned_alone():
    variables = make_variables()
    optimizer = make_optimizer(Stage(momentum=0.5))
    update = Updater(optimizer, Stage(momentum=0.5), variables, [0.0] * len(SHAPES), [])
    parts = [v for v in update.state if "momentum" in v.path]
    values = [np.random.default_rng(i).normal(size=part.shape).astype("float32") for i, part in enumerate(parts)]

    for part, value in zip(parts, values, strict=True):
        part.assign(value)

    for part, value in zip(parts, values, strict=True):
        np.testing.assert_array_equal(part.numpy(), value)


def test_short_variables_are_one_vector_and_long_ones_are_not_copied():
    variables = make_variables()

    groups = group_variables(variables, alone=[variables[1]])

    assert [len(group.variables) for group in groups] == [4, 1, 1]
    assert groups[1].vector is variables[1] and groups[2].vector is variables[3]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_step_of_mobilefacenet_has_at_most_3000_nodes(kind, monkeypatch):
    from mobilefacenet import mobilefacenet

    monkeypatch.undo()
    monkeypatch.setattr(pointwise, "has_gpu", lambda: True)  # there each node is a launch; a CPU has products besides
    net = mobilefacenet(width=0.25, image_size=(32, 32))  # as many nodes as at full size
    parts = StageParts(Recipe(stage=(Stage(optimizer=kind),)), net, make_head, 1000, 0)
    parts.begin(0)

    assert count_nodes(parts.step)[0] <= 3000
