"""The memory plan of the class centres, against the formulas of docs/scaling.md ("Planning")."""

import pytest

from facelib.distributed.workers import ONE_WORKER, Workers
from facelib.errors import FaceError
from facelib.training import head_memory
from facelib.training.head_memory import check_memory, head_bytes
from facelib.training.recipe.schema import DataConfig, Recipe, Stage

CLASSES, SIZE, BATCH = 1_000_000, 128, 256


def planned(workers=ONE_WORKER, **options):
    stages = (Stage(optimizer="sgd", **options),)
    return head_bytes(Recipe(data=DataConfig(batch_size=BATCH), stage=stages), CLASSES, SIZE, workers)


def test_all_classes_take_two_tables_and_the_copies_of_a_step():
    tables = 4 * CLASSES * SIZE * 2  # centres and momentum

    assert planned() == tables + 4 * CLASSES * (4 * SIZE + 2.5 * BATCH)


def test_a_sample_and_micro_batches_take_less_in_a_step():
    tables = 4 * CLASSES * SIZE * 2

    assert planned(sample_rate=0.1) == tables + 4 * CLASSES / 10 * (4 * SIZE + 2.5 * BATCH)
    assert planned(micro_batches=4) == tables + 4 * CLASSES * (4 * SIZE + 2.5 * BATCH / 4)


def test_workers_share_the_classes_but_not_the_batch():
    assert planned(Workers(0, 4)) == planned() / 4


@pytest.mark.parametrize("options", [{"loss": "curricularface"}, {"label_smoothing": 0.1}])
def test_a_loss_that_needs_all_logits_takes_more(options):
    assert planned(**options) == 4 * CLASSES * (SIZE * 2 + 5 * SIZE + 8.5 * BATCH)


def test_center_loss_adds_a_table_on_every_worker():
    assert planned(Workers(0, 4), center_loss=0.1) == planned(Workers(0, 4)) + 4 * CLASSES * SIZE


def test_without_class_centres_there_is_nothing_to_hold():
    recipe = Recipe(stage=(Stage(loss="batch_hard_triplet"), Stage(loss="distill")))

    assert head_bytes(recipe, CLASSES, SIZE, ONE_WORKER) == 0


def test_the_largest_stage_counts():
    both = Recipe(data=DataConfig(batch_size=BATCH), stage=(Stage(sample_rate=0.1), Stage(optimizer="adam")))

    found = head_bytes(both, CLASSES, SIZE, ONE_WORKER)

    assert found == 4 * CLASSES * (SIZE * 3 + 4 * SIZE + 2.5 * BATCH)


def test_a_large_head_is_told_and_one_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(head_memory, "free_bytes", lambda: 10 << 30)
    recipe = Recipe(stage=(Stage(optimizer="adam"),))

    with pytest.raises(FaceError, match=r"must fit into memory.*Free: 10\.7 GB. Lower stage.sample_rate"):
        check_memory(recipe, 4_000_000, 512, Workers(0, 2))
    assert check_memory(recipe, 1000, 512, Workers(0, 2)) == ""  # a small head is not mentioned
    line = check_memory(Recipe(stage=(Stage(sample_rate=0.1),)), 1_000_000, 512, Workers(0, 4))
    # 250,000 centres and their momentum; of 25,000 in a step, copies of the centres and of the logits
    expected = 4 * (250_000 * 512 * 2 + 25_000 * (4 * 512 + 2.5 * 128)) / 1e9
    assert f"{expected:.1f} GB on each of 4 workers" in line and "10.7 GB are free" in line


def test_more_workers_than_classes_are_refused():
    with pytest.raises(FaceError, match=r"at least one class.*5 workers, 4 identities"):
        check_memory(Recipe(), 4, SIZE, Workers(0, 5))
