"""make_bin.py: drawn pairs are balanced, different and fold-disjoint; listed pairs are those of pairs.txt."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import make_bin
from facelib.data.verification.bins import load_bin
from facelib.data.verification.listed_pairs import find_shot, read_pairs_txt
from facelib.errors import FaceError

CROPS = Path(__file__).parents[3] / "shared" / "data" / "raw" / "expected_crops"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """30 identities p00 .. p29 of 4 images; blue and green of each image say identity and number."""
    root = tmp_path_factory.mktemp("faces")
    for identity in range(30):
        folder = root / f"p{identity:02d}"
        folder.mkdir()
        for number in range(1, 5):
            image = np.zeros((112, 112, 3), np.uint8)
            image[:] = (8 * identity, 60 * number, 0)
            cv2.imwrite(str(folder / f"{folder.name}_{number:04d}.png"), image)
    return root


def who(image):
    """(identity, number) of a drawn image."""
    blue, green, _ = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)[0, 0]
    return int(blue) // 8, int(green) // 60


def test_drawn_pairs_are_balanced_different_and_fold_disjoint(folders, tmp_path, capsys):
    assert make_bin.main([str(folders), str(tmp_path / "a.bin"), "--num-pairs", "100", "--seed", "3"]) == 0
    pairs = load_bin(tmp_path / "a.bin")
    shots = [who(image) for image in pairs.images]
    couples = [(shots[2 * k], shots[2 * k + 1]) for k in range(100)]

    assert "100 pairs, 50 genuine" in capsys.readouterr().out
    assert [first[0] == second[0] for first, second in couples] == pairs.is_same.tolist()
    assert pairs.is_same.tolist() == ([True] * 5 + [False] * 5) * 10
    assert len({frozenset(couple) for couple in couples}) == 100
    assert all(first != second for first, second in couples)
    blocks = [{identity for couple in couples[10 * k : 10 * k + 10] for identity, _ in couple} for k in range(10)]
    assert sum(map(len, blocks)) == len(set.union(*blocks))


def test_the_seed_decides(folders, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        make_bin.main([str(folders), str(tmp_path / f"{name}.bin"), "--num-pairs", "40", "--seed", seed])
    a, b, c = ((tmp_path / f"{name}.bin").read_bytes() for name in "abc")

    assert a == b != c


def test_without_a_number_there_are_as_many_pairs_as_go(folders, tmp_path):
    make_bin.main([str(folders), str(tmp_path / "a.bin")])
    count = len(load_bin(tmp_path / "a.bin"))

    assert count == 360  # 3 identities a fold with 6 genuine pairs each, and as many impostors
    with pytest.raises(FaceError, match="at most 360"):
        make_bin.main([str(folders), str(tmp_path / "b.bin"), "--num-pairs", "380"])


def test_listed_pairs_stand_in_the_order_of_the_list(folders, tmp_path):
    lines = ["1\t2", "p00\t1\t2", "p03\t4\t1", "p01\t1\tp02\t3", "p05\t2\tp06\t2"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    make_bin.main([str(folders), str(tmp_path / "a.bin"), "--pairs", str(tmp_path / "pairs.txt")])
    pairs = load_bin(tmp_path / "a.bin")

    assert [who(image) for image in pairs.images] == [(0, 1), (0, 2), (3, 4), (3, 1), (1, 1), (2, 3), (5, 2), (6, 2)]
    assert pairs.is_same.tolist() == [True, True, False, False]


@pytest.mark.needs_data(CROPS)
def test_real_crops_with_lfw_names_make_a_set(tmp_path):
    people = sorted(folder.name for folder in CROPS.iterdir())
    files = {name: sorted((CROPS / name).iterdir()) for name in people}
    name = next(name for name in people if len(files[name]) > 1)
    i, j = (int(file.stem.rsplit("_", 1)[1]) for file in files[name][:2])
    (tmp_path / "pairs.txt").write_text(f"{name} {i} {j}\n")
    make_bin.main([str(CROPS), str(tmp_path / "a.bin"), "--pairs", str(tmp_path / "pairs.txt")])

    assert load_bin(tmp_path / "a.bin").images == [file.read_bytes() for file in files[name][:2]]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "empty"),
        ("\n\n", "no pairs"),
        ("1\t1\np00\t1\t2\n", "says 2 pairs, but the list has 1"),
        ("p00\t1\n", "line 1"),
        ("1 1\np00 1 2\np00 one p01 2\n", "line 3"),
        ("p00\t1\t2\textra\tcolumn\n", "line 1"),
        ("p00\t1\t9\n", r"image 9 of 'p00'"),
        ("nobody\t1\t2\n", "nobody_0001"),
    ],
)
def test_a_bad_pair_list_is_named_and_nothing_is_written(folders, tmp_path, text, match):
    (tmp_path / "pairs.txt").write_text(text)

    with pytest.raises(FaceError, match=match):
        make_bin.main([str(folders), str(tmp_path / "a.bin"), "--pairs", str(tmp_path / "pairs.txt")])
    assert not (tmp_path / "a.bin").exists()


def test_a_pair_list_that_is_no_text_is_named(tmp_path):
    (tmp_path / "pairs.txt").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0")

    with pytest.raises(FaceError, match="text file"):
        read_pairs_txt(tmp_path / "pairs.txt")


def test_shots_are_found_under_the_usual_names(tmp_path):
    (tmp_path / "ann").mkdir()
    for name in ("ann_0001.jpg", "2.png", "ann_3.jpeg"):
        (tmp_path / "ann" / name).write_bytes(b"x")

    assert [find_shot(tmp_path, ("ann", k)).name for k in (1, 2, 3)] == ["ann_0001.jpg", "2.png", "ann_3.jpeg"]


@pytest.mark.parametrize(
    ("damage", "match"),
    [(b"", "empty"), (b"text", "neither JPEG nor PNG"), ("small", "96x96, but all must be 112x112")],
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_bad_image_is_named(folders, tmp_path, damage, match, listed):
    shutil.copytree(folders, tmp_path / "faces")
    if damage == "small":
        damage = cv2.imencode(".png", np.zeros((96, 96, 3), np.uint8))[1].tobytes()
    for file in (tmp_path / "faces").glob("*/*_0002.png"):
        file.write_bytes(damage)
    (tmp_path / "pairs.txt").write_text("p00\t1\t2\n")
    extra = ["--pairs", str(tmp_path / "pairs.txt")] if listed else ["--num-pairs", "360"]

    with pytest.raises(FaceError, match=rf"_0002\.png': .*{match}"):
        make_bin.main([str(tmp_path / "faces"), str(tmp_path / "a.bin"), *extra])


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["nowhere", "a.bin"], "nowhere"),
        (["{faces}", "a.pkl"], r"NAME\.bin"),
        (["{faces}", "{faces}/p00"], r"NAME\.bin"),
        (["{faces}", "a.bin", "--num-pairs", "7"], "multiple of 20"),
        (["{faces}", "a.bin", "--num-pairs", "0"], "multiple of 20"),
        (["{faces}/p00", "a.bin"], "in no identity folder"),
    ],
)
def test_bad_arguments_are_one_clear_line(folders, tmp_path, monkeypatch, args, match):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(FaceError, match=match):
        make_bin.main([arg.format(faces=folders) for arg in args])
    assert list(tmp_path.iterdir()) == []
