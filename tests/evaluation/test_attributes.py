"""Attribute tables: who is in which group, and what is said where the table is wrong."""

import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.evaluation.attributes import group_faces, read_attributes
from facelib.evaluation.evaluate_set import measure_folder, measure_pairs
from facelib.evaluation.metrics import pair_distances


def write(tmp_path, text):
    path = tmp_path / "groups.csv"
    path.write_text(text)
    return path


def test_a_table_is_read_with_or_without_its_first_line(tmp_path):
    expected = {"Anna": "f", "Lee, Bo": "m"}

    assert read_attributes(write(tmp_path, 'name,group\nAnna,f\n"Lee, Bo",m\n\n')) == expected
    assert read_attributes(write(tmp_path, 'Anna,f\n"Lee, Bo",m\nAnna,f')) == expected


@pytest.mark.parametrize(
    "text, words",
    [("Anna\n", "two columns.*line 1"), ("Anna,f\nBo,\n", "line 2"), ("Anna,f\nAnna,m", "gives 'Anna' the group 'm'"),
     ("name,group\n", "is empty")],
)  # fmt: skip
def test_a_wrong_table_is_named_by_line(tmp_path, text, words):
    with pytest.raises(FaceError, match=words):
        read_attributes(write(tmp_path, text))


def test_images_go_before_identities_and_strangers_have_no_group():
    groups = {"Anna": "f", "Bo/2.jpg": "x"}

    found = group_faces(groups, ["Anna/1.jpg", "Bo/1.jpg", "Bo/2.jpg"], ["Anna", "Bo", "Bo"], "faces")

    assert found.tolist() == ["f", "", "x"]
    with pytest.raises(
        FaceError, match=r"lists no face of toy.bin. The first name in the table is 'Anna', the first in the set is '0'"
    ):
        group_faces(groups, ["0", "1"], None, "toy.bin")


def draw(seed=0, num_identities=120, images=4, hard_from=60):
    """Faces of two groups; in the second, photos of one person differ more."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_identities), images)
    noise = np.where(labels < hard_from, 0.3, 0.9)[:, None]
    rows = random.normal(size=(num_identities, 16))[labels] + noise * random.normal(size=(len(labels), 16))
    return rows, labels, np.where(labels < hard_from, "easy", "hard")


@pytest.mark.slow
def test_the_groups_of_a_folder_are_measured_at_the_thresholds_of_all():
    rows, labels, groups = draw()

    result = measure_folder("toys", rows, labels, (0.01,), groups=groups, images=[str(i) for i in range(len(rows))])

    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    threshold = result.vr[0].threshold
    for name in ("easy", "hard"):
        chosen = np.flatnonzero(groups == name)
        a, b = np.triu_indices(len(chosen), 1)
        distances = np.square(unit[chosen[a]] - unit[chosen[b]]).sum(axis=1)
        is_same = labels[chosen[a]] == labels[chosen[b]]
        found = result.groups[name]
        assert (found["pairs"], found["genuine"]) == (len(a), is_same.sum())
        assert found["vr"]["0.01"]["vr"] == pytest.approx(np.mean(distances[is_same] <= threshold), abs=1e-3)
        assert found["vr"]["0.01"]["far"] == pytest.approx(np.mean(distances[~is_same] <= threshold), abs=1e-4)
    assert result.groups["easy"]["acc"] > result.groups["hard"]["acc"] + 0.02


def test_a_pair_of_two_groups_belongs_to_none_and_small_groups_have_no_rate():
    rows, labels, groups = draw(1)
    first, second = np.arange(0, 480, 2), np.arange(1, 481, 2) % 480
    order = np.stack([first, second], axis=1).reshape(-1)
    order[1::4] = np.roll(order[1::4], 3)  # half the pairs are of two people
    is_same = labels[order[0::2]] == labels[order[1::2]]
    groups = groups[order]
    groups[:6] = "few"

    result = measure_pairs("toys", pair_distances(rows[order]), is_same, (0.1,), groups=groups)

    both = [(a, b) for a, b in zip(groups[0::2], groups[1::2], strict=True)]
    assert result.groups["easy"]["pairs"] == both.count(("easy", "easy"))
    assert result.groups["few"]["acc"] is None and result.groups["few"]["pairs"] == 3
