"""Pair lists of the field, in files that the tests write by the published forms."""

import cv2
import numpy as np
import pytest

import make_bin
from facelib.data.verification.bins import load_bin
from facelib.data.verification.listed_pairs import find_group_lists, find_shot, read_pairs_txt
from facelib.errors import FaceError
from facelib.evaluation.verification_sets import find_sets
from facelib.model_input import Io
from facelib.sidecar import write_sidecar
from tests.helpers.mean_colour import read, run_main

NUM_PAIRS = 40  # of each kind; CALFW and CPLFW have 3,000


def write_image_list(path, genuine_number):
    """All genuine pairs, then all impostor pairs, a line an image, as pairs_CALFW.txt and pairs_CPLFW.txt."""
    lines = []
    for pair in range(NUM_PAIRS):
        lines += [f"Ann_{pair}_{shot:04d}.jpg {genuine_number(pair)}" for shot in (1, 2)]
    for pair in range(NUM_PAIRS):
        lines += [f"Ann_{pair}_0001.jpg 0", f"Ann_{(pair + 1) % NUM_PAIRS}_0002.jpg 0"]
    path.write_text("\n".join(lines) + "\n")
    return path


def facex_zoo_pairs(path):
    """The folds of JDAI-CV/FaceX-Zoo, pairs_parser.py, written anew: tenths of genuine and of impostor pairs."""
    lines = [line.split() for line in path.read_text().splitlines()]
    pairs = [(first[0], second[0], first[1] != "0") for first, second in zip(lines[::2], lines[1::2], strict=True)]
    each, half = len(pairs) // 20, len(pairs) // 2
    return [
        pair
        for fold in range(10)
        for start in (each * fold, half + each * fold)
        for pair in pairs[start : start + each]
    ]


@pytest.mark.parametrize("genuine_number", [lambda pair: 1 + pair // 4, lambda pair: 1], ids=["calfw", "cplfw"])
def test_image_lists_are_read_fold_by_fold(tmp_path, genuine_number):
    path = write_image_list(tmp_path / "pairs_CALFW.txt", genuine_number)

    pairs, is_same, notes = read_pairs_txt(path)

    found = [
        (*(f"{name}_{number:04d}.jpg" for name, number in pair), same)
        for pair, same in zip(pairs, is_same.tolist(), strict=True)
    ]
    assert found == facex_zoo_pairs(path) and notes == []
    assert all(fold.any() and not fold.all() for fold in np.array_split(is_same, 10))


def test_the_label_says_who_is_the_same_and_not_the_name(tmp_path):
    (tmp_path / "list.txt").write_text("Ann_1.jpg 1\nAnn Lee_2.jpg 1\n\nAnn_1.jpg\t0\nnonumber.png\t0\n")

    pairs, is_same, _ = read_pairs_txt(tmp_path / "list.txt")

    assert pairs == [(("Ann", 1), ("Ann Lee", 2)), (("Ann", 1), ("nonumber", 0))]
    assert is_same.tolist() == [True, False]


@pytest.mark.parametrize("file", ["Ann_0002.jpg", "Ann_2.jpg", "Ann/Ann_0002.png", "Ann/Ann_2.jpg"])
def test_images_lie_in_one_folder_or_in_folders_of_people(tmp_path, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()

    assert find_shot(tmp_path, ("Ann", 2)) == tmp_path / file


def test_an_image_without_a_number_is_found_by_its_name(tmp_path):
    (tmp_path / "nonumber.jpg").touch()

    assert find_shot(tmp_path, ("nonumber", 0)) == tmp_path / "nonumber.jpg"


@pytest.mark.parametrize(
    "text, words",
    [
        ("a_1.jpg 1\na_2.jpg 1\na_3.jpg 0\n", "has only one"),
        ("a_1.jpg 1\na_2.jpg 0\n", "lines 1 and 2 have 1 and 0"),
        ("a_1.jpg 1\na_2.jpg\n", "line 2: 'a_2.jpg'"),
        ("a_1.jpg 1\na\t1\t2\n", "line 2"),
    ],
)
def test_a_bad_image_list_is_named(tmp_path, text, words):
    (tmp_path / "list.txt").write_text(text)

    with pytest.raises(FaceError, match=words):
        read_pairs_txt(tmp_path / "list.txt")


GROUPS = ("African", "Asian", "Caucasian", "Indian")


@pytest.fixture(scope="module")
def rfw(tmp_path_factory):
    """RFW's tree: data/GROUP/PERSON/PERSON_0001.jpg, txts/GROUP/GROUP_pairs.txt and lists that are no pairs."""
    root = tmp_path_factory.mktemp("RFW")
    random = np.random.default_rng(0)
    for group in GROUPS:
        lines = []
        for person in range(40):
            name = f"m.{group[:2]}{person}"
            folder = root / "data" / group / name
            folder.mkdir(parents=True)
            shade = random.integers(40, 216, 3)
            for shot in (1, 2):
                pixels = np.clip(shade + random.integers(-25, 26, 3) + random.integers(-9, 10, (112, 112, 3)), 0, 255)
                cv2.imwrite(str(folder / f"{name}_{shot:04d}.jpg"), pixels.astype(np.uint8))
            lines.append(f"{name}\t1\t2" if person % 2 else f"{name}\t1\tm.{group[:2]}{person + 1}\t2")
        lists = root / "txts" / group
        lists.mkdir(parents=True)
        (lists / f"{group}_pairs.txt").write_text("\n".join(lines))
        (lists / f"{group}_images.txt").write_text("x\n")
    return root


def test_rfw_is_measured_by_group_with_mean_and_spread(rfw, tmp_path, capsys):
    (tmp_path / "model.fake").write_bytes(b"x")
    write_sidecar(tmp_path / "model.fake", kind="fake", made_from=None, io=Io())

    assert run_main(tmp_path / "model.fake", "--valid", rfw / "data", "--pairs", rfw / "txts", "--far", "0.1") == 0

    sets = read(tmp_path)["sets"]
    assert list(sets) == [f"rfw_{group}" for group in GROUPS]
    acc = [sets[name]["acc"] for name in sets]
    mean = sum(acc) / 4
    spread = (sum((value - mean) ** 2 for value in acc) / 4) ** 0.5
    assert spread > 0
    line = f"rfw: mean of 4 groups: ACC {mean:.4f}, standard deviation between groups {100 * spread:.2f} points"
    assert line in capsys.readouterr().out


def test_make_bin_makes_a_bin_of_each_group(rfw, tmp_path):
    assert make_bin.main([str(rfw / "data"), str(tmp_path / "rfw.bin"), "--pairs", str(rfw / "txts")]) == 0

    assert sorted(file.name for file in tmp_path.glob("*.bin")) == [f"rfw_{group}.bin" for group in GROUPS]
    listed = [load() for load in find_sets(rfw / "data", rfw / "txts")]
    for faces in listed:
        pairs = load_bin(tmp_path / f"{faces.name}.bin")
        assert pairs.images == faces.images and pairs.is_same.tolist() == faces.is_same.tolist()


def test_a_missing_group_folder_leaves_nothing_half_written(rfw, tmp_path):
    (tmp_path / "crops").mkdir()

    with pytest.raises(FaceError, match="African"):
        make_bin.main([str(tmp_path / "crops"), str(tmp_path / "rfw.bin"), "--pairs", str(rfw / "txts")])
    assert not list(tmp_path.glob("*.bin"))


def test_a_folder_without_group_lists_is_refused(tmp_path):
    with pytest.raises(FaceError, match="has no such list"):
        find_group_lists(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Asian_pairs.txt").touch()
    with pytest.raises(FaceError, match="two of them with the same name"):
        find_group_lists(tmp_path)
