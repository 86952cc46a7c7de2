"""Balancing: the rule's numbers, what a changed copy is, and that a seed says it all."""

import json

import balance_data
import cv2
import numpy as np
import pytest

from facelib.data.curation.balancing import KEPT, NOISY, OPENED, SALTED, balance, change_image
from facelib.data.readers.open_records import open_records
from facelib.errors import FaceError

SIZES = {"a20": 20, "b60": 60, "c150": 150, "d250": 250, "e400": 400, "f30": 30, "g31": 31, "h90": 90, "i91": 91,
         "j200": 200, "k201": 201, "l350": 350, "m351": 351}  # fmt: skip
AFTER = {"a20": 0, "b60": 240, "c150": 300, "d250": 250, "e400": 350, "f30": 0, "g31": 124, "h90": 360, "i91": 182,
         "j200": 400, "k201": 201, "l350": 350, "m351": 350}  # fmt: skip


class Images:
    """A source of identities of these sizes; every image is a JPEG of its own colour."""

    kind, notes, bad, image_size, fingerprint = "test", (), (), (16, 16), "f" * 64

    def __init__(self, sizes, path):
        self.path, self.class_names = path, list(sizes)
        self.labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), list(sizes.values())))

    def __len__(self):
        return len(self.labels)

    def read(self, i):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
        return cv2.imencode(".jpg", pixels)[1].tobytes()

    def describe(self, i):
        return f"image {i}"


def test_identities_get_the_rules_numbers(tmp_path):
    source = Images(SIZES, tmp_path)

    balanced = balance(source, 0)

    counts = np.bincount(balanced.source.labels)
    found = dict.fromkeys(SIZES, 0) | dict(zip(balanced.source.class_names, counts.tolist(), strict=True))
    assert found == AFTER
    assert [row[1:] for row in balanced.table] == [
        (2, 751, 700),
        (3, 801, 801),
        (3, 441, 882),
        (3, 181, 724),
        (2, 50, 0),
    ]
    for i, label in enumerate(balanced.source.labels):  # nobody gets another's image
        assert source.class_names[source.labels[balanced.source.picks[i]]] == balanced.source.class_names[label]


def test_originals_keep_their_bytes_and_each_once(tmp_path):
    source = Images({"a": 60, "b": 400}, tmp_path)
    derived = balance(source, 3).source

    for label, total, originals in ((1, 240, 60), (0, 350, 350)):  # by rule: 'b' first
        mine = np.flatnonzero(derived.labels == label)
        same = [i for i in mine.tolist() if derived.read(i) == source.read(int(derived.picks[i]))]
        assert (len(mine), len(same)) == (total, originals)
        assert len(set(derived.picks[same].tolist())) == originals


def test_the_copies_are_what_they_say():
    pixels = np.full((64, 64, 3), 100, np.uint8)
    pixels[20:23, 20:23] = 255  # a speck smaller than the 5x5 opening
    png = cv2.imencode(".png", pixels)[1].tobytes()

    opened, noisy, salted = (
        cv2.imdecode(np.frombuffer(change_image(png, kind, [0, 1]), np.uint8), cv2.IMREAD_COLOR).astype(int)
        for kind in (OPENED, NOISY, SALTED)
    )

    assert np.abs(opened - 100).max() <= 3
    assert 7 < (noisy - pixels).std() < 13
    is_changed = (np.abs(salted - pixels).max(2) > 40).mean()
    assert 0.01 < is_changed < 0.04


def test_the_noise_follows_from_seed_and_record():
    png = cv2.imencode(".png", np.full((16, 16, 3), 100, np.uint8))[1].tobytes()

    assert change_image(png, NOISY, [0, 1]) == change_image(png, NOISY, [0, 1])
    assert len({change_image(png, NOISY, seed) for seed in ([0, 1], [0, 2], [1, 1])}) == 3
    assert KEPT == 0


@pytest.fixture
def folders(tmp_path):
    for name, size in (("ann", 32), ("bob", 95), ("cid", 10)):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for i in range(size):
            pixels = np.random.default_rng([size, i]).integers(0, 256, (112, 112, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "faces" / name / f"{i}.jpg"), pixels)
    return tmp_path / "faces"


def test_the_command_writes_the_same_bytes_with_any_number_of_workers(folders, tmp_path, capsys):
    for name, workers in (("one", "1"), ("two", "3")):
        assert balance_data.main([str(folders), str(tmp_path / name), "--workers", workers, "--seed", "5"]) == 0

    printed = capsys.readouterr().out
    assert "add opening, Gaussian noise, salt and pepper          1         32        128" in printed
    records = open_records(tmp_path / "one")
    assert (records.class_names, np.bincount(records.labels).tolist()) == (["bob", "ann"], [190, 128])
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    assert json.loads((tmp_path / "one" / "balance.json").read_text())[-1] == {
        "rule": "drop", "identities": 1, "before": 10, "after": 0
    }  # fmt: skip


def test_a_second_call_does_nothing_and_another_seed_is_refused(folders, tmp_path, capsys):
    out = tmp_path / "out"
    balance_data.main([str(folders), str(out)])
    capsys.readouterr()

    balance_data.main([str(folders), str(out)])

    assert "already there, nothing to do" in capsys.readouterr().out
    with pytest.raises(FaceError, match=r"was made with .*--seed 0"):
        balance_data.main([str(folders), str(out), "--seed", "1"])


def test_bad_input_is_one_line(folders, tmp_path):
    (tmp_path / "few" / "ann").mkdir(parents=True)
    (folders / "ann" / "0.jpg").rename(tmp_path / "few" / "ann" / "0.jpg")
    with pytest.raises(FaceError, match=r"more than 30 images\. The largest identity of .* has 1"):
        balance_data.main([str(tmp_path / "few"), str(tmp_path / "out")])
    with pytest.raises(FaceError, match="--workers must be at least 1"):
        balance_data.main([str(folders), str(tmp_path / "out"), "--workers", "0"])
    assert not (tmp_path / "out").exists()
