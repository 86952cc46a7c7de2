"""What a stage keeps of the stage before, and what it makes new."""

from dataclasses import replace

import numpy as np

from facelib.losses.registry import make_head
from facelib.training.recipe.schema import Recipe, Stage
from facelib.training.stage_setup import StageParts
from tests.helpers.training_runs import BATCH, CLASSES, IMAGES, LABELS, STAGE, make_embedder

SIZE = 4  # of an embedding
TRIPLETS = replace(STAGE, loss="batch_hard_triplet", scale=None, images_per_identity=2)


def parts_of(*stages, begun=None, teacher_size=0):
    """The parts after the beginning of the last stage, or of stage `begun`."""
    recipe = Recipe(stage=stages)
    parts = StageParts(recipe, make_embedder(), make_head, CLASSES, teacher_size)
    for number in range(len(stages) if begun is None else begun + 1):
        parts.begin(number)
    return parts


def take_step(parts, teacher_size=0):
    targets, one = np.ones((BATCH, teacher_size), np.float32), np.float32(1)
    parts.step(IMAGES[:BATCH], LABELS[:BATCH], targets, one, one, np.int64(0))


def test_the_class_centres_go_on_into_the_next_margin_head():
    parts = parts_of(STAGE, replace(STAGE, loss="cosface"), begun=0)
    take_step(parts)
    first, values = parts.centres_head, parts.centres_head.centres.numpy().copy()

    parts.begin(1)

    assert type(parts.centres_head).__name__ == "CosFace" and parts.centres_head is not first
    assert parts.centres_head.centres is first.centres
    np.testing.assert_array_equal(parts.centres_head.centres.numpy(), values)


def test_another_number_of_sub_centres_begins_with_new_centres():
    parts = parts_of(STAGE, replace(STAGE, loss_options={"sub_centres": 3}))

    assert parts.centres_head.centres.shape == (3 * CLASSES, SIZE)
    assert parts.rows_of_classes() == (0, 3 * CLASSES, 3 * CLASSES)


def test_a_metric_stage_keeps_the_class_centres_but_does_not_train_them():
    parts = parts_of(STAGE, TRIPLETS)

    assert parts.centres_head is not None and not parts.has_centres()
    assert parts.parts_variables() == []
    assert [name for name in parts.variables() if name.startswith("head/")]


def momentum_of(parts):
    return [v.numpy() for v in parts.update.state if "momentum" in v.path]


def test_a_stage_without_an_optimizer_goes_on_with_the_state_of_the_one_before():
    going_on = parts_of(STAGE, replace(STAGE, learning_rate=0.01), begun=0)
    new = parts_of(STAGE, replace(STAGE, optimizer="sgd"), begun=0)
    for parts in (going_on, new):
        take_step(parts)
        assert any(values.any() for values in momentum_of(parts))

    before = momentum_of(going_on)
    going_on.begin(1)
    new.begin(1)

    for values, expected in zip(momentum_of(going_on), before, strict=True):
        np.testing.assert_array_equal(values, expected)
    assert not any(values.any() for values in momentum_of(new))


def test_the_centres_of_a_sampled_head_belong_to_the_row_optimizer_alone():
    parts = parts_of(replace(STAGE, sample_rate=0.5))

    assert parts.rows.table is parts.centres_head.centres
    assert parts.parts_variables() == []
    names = [name for name, v in parts.variables().items() if parts.is_by_class(name, v)]
    assert [name.split("/")[0] for name in names] == ["head", "rows"]  # the centres and their momentum


def test_the_state_of_sampled_centres_goes_on_too():
    parts = parts_of(replace(STAGE, sample_rate=0.5), replace(STAGE, sample_rate=0.5), begun=0)
    take_step(parts)
    before = parts.rows.variables[0].numpy().copy()

    parts.begin(1)

    assert before.any()
    np.testing.assert_array_equal(parts.rows.variables[0].numpy(), before)


def test_the_center_loss_of_the_stage_before_goes_on():
    with_centers = replace(STAGE, center_loss=0.1)
    parts = parts_of(with_centers, with_centers, begun=0)
    first = parts.objective.center_loss
    parts.begin(1)

    assert parts.objective.center_loss is first
    assert parts_of(STAGE).objective.center_loss is None


def test_the_projection_of_a_student_of_another_size_goes_on():
    distil = Stage(loss="distill", learning_rate=0.1)
    parts = parts_of(distil, distil, begun=0, teacher_size=6)
    take_step(parts, teacher_size=6)
    before = parts.objective.distiller.projection.numpy().copy()

    parts.begin(1)

    np.testing.assert_array_equal(parts.objective.distiller.projection.numpy(), before)
    assert parts.objective.head is None and parts.centres_head is None


def test_a_frozen_layer_is_trained_again_in_the_next_stage():
    parts = parts_of(replace(STAGE, freeze_layers=("embed",)), STAGE, begun=0)
    assert parts.embedder.trainable_variables == []

    parts.begin(1)

    assert len(parts.embedder.trainable_variables) == 2
