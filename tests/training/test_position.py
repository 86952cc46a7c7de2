"""`Position` of facelib/training/checkpoint.py: counters, best scores, and the JSON form of checkpoints."""

import json

import pytest

from facelib.training.checkpoint import Position
from facelib.training.schedules import Plateau


def test_a_step_counts_in_epoch_stage_and_training():
    at = Position(epoch=3, step=1, stage_step=5, global_step=9)

    at.take_step()

    assert (at.step, at.stage_step, at.global_step) == (2, 6, 10)
    assert (at.epoch, at.epoch_number) == (3, 4)


def test_the_end_of_an_epoch_leads_to_the_first_step_of_the_next():
    at = Position(epoch=3, step=7, stage_step=20, global_step=50, seconds=12.5)

    at.end_epoch()

    assert (at.epoch, at.step, at.seconds) == (4, 0, 0.0)
    assert (at.stage_step, at.global_step) == (20, 50)


def test_a_stage_begins_with_its_own_steps_and_plateau_and_keeps_the_rest():
    at = Position(stage=0, epoch=2, stage_step=20, global_step=50, rollbacks=1, plateau=Plateau(0.25, 0.9, 1))

    at.begin_stage(1)

    assert at == Position(stage=1, epoch=2, stage_step=0, global_step=50, rollbacks=1)


def test_what_is_written_is_read_back():
    at = Position(1, 2, 3, 4, 5, 6.5, [0.9, 0.95], ["lfw"], 1, Plateau(0.5, 0.9, 2))

    assert Position.from_json(json.loads(json.dumps(at.to_json()))) == at


def test_the_form_in_a_checkpoint_has_the_keys_of_older_versions():
    older = {"stage": 1, "epoch": 2, "step": 3, "global_step": 9, "seconds": 1.5, "best": [0.9, 0.95]}
    older |= {"best_on": ["lfw"], "rollbacks": 0, "plateau": None, "stage_step": 4}

    at = Position.from_json(older)

    assert at == Position(1, 2, 3, 4, 9, 1.5, [0.9, 0.95], ["lfw"])
    assert at.to_json().keys() == older.keys()


def test_a_key_that_an_older_checkpoint_lacks_has_its_default():
    assert Position.from_json({"epoch": 2}) == Position(epoch=2)


@pytest.mark.parametrize(
    "score, sets, is_best",
    [
        ([0.91, 0.0], ["lfw"], True),
        ([0.90, 0.95], ["lfw"], True),  # the latest of equals
        ([0.90, 0.94], ["lfw"], False),  # the second number decides between equals
        ([0.89, 1.0], ["lfw"], False),
        ([float("nan"), 1.0], ["lfw"], False),
        ([0.10, 0.1], ["agedb", "lfw"], True),  # other sets cannot be compared
    ],
)
def test_the_best_score_is_of_the_same_sets(score, sets, is_best):
    at = Position(best=[0.9, 0.95], best_on=["lfw"])

    assert at.note_score(score, sets) == is_best
    assert (at.best, at.best_on) == ((score, sets) if is_best else ([0.9, 0.95], ["lfw"]))


def test_the_first_epoch_is_the_best_so_far():
    assert Position().note_score([1.0], [])
