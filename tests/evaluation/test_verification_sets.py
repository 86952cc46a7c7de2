"""The forms of a verification set, through the main of every test script with a runtime of a few lines."""

import json

import cv2
import numpy as np
import pytest

from facelib.data.verification.bins import write_bin
from facelib.errors import FaceError
from facelib.evaluation.metrics import pair_distances, tar_at_far
from facelib.evaluation.verification_sets import find_sets, letterboxed
from facelib.model_input import Io
from tests.helpers.mean_colour import MeanColour, read, run_main


def face(seed: int, shade, size=(112, 112)) -> bytes:
    random = np.random.default_rng(seed)
    pixels = np.clip(np.array(shade) + random.integers(-30, 31, 3) + random.integers(-9, 10, (*size, 3)), 0, 255)
    return cv2.imencode(".png", pixels.astype(np.uint8))[1].tobytes()


@pytest.fixture
def people(tmp_path):
    """30 people of 3 photos each, named as LFW names them."""
    random = np.random.default_rng(0)
    for person in range(30):
        folder = tmp_path / "people" / f"P{person:02d}"
        folder.mkdir(parents=True)
        shade = random.integers(40, 216, 3)
        for shot in range(1, 4):
            (folder / f"P{person:02d}_{shot:04d}.png").write_bytes(face(100 * person + shot, shade))
    return tmp_path / "people"


def write_pairs_txt(folder, num_folds=5):
    lines = [f"{num_folds}\t4"]
    for fold in range(num_folds):
        names = [f"P{6 * fold + i:02d}" for i in range(6)]
        lines += [f"{name}\t1\t{shot}" for name in names[:2] for shot in (2, 3)]
        lines += [f"{names[i]}\t1\t{names[i + 1]}\t2" for i in range(4)]
    path = folder.parent / "pairs.txt"
    path.write_text("\n".join(lines))
    return path


def embed(folder, names):
    pixels = [cv2.imread(str(folder / name))[:, :, ::-1] for name in names]
    return MeanColour(None, Io(), 1).raw(np.ascontiguousarray(pixels))


def test_a_folder_of_identities_is_measured_on_all_its_pairs(shades, people, capsys):
    assert run_main(shades / "model.fake", "--valid", people, "--far", "0.01") == 0

    result = read(shades)["sets"]["people"]
    files = sorted(people.rglob("*.png"))
    labels = np.array([int(file.parent.name[1:]) for file in files])
    rows = embed(people, files)
    a, b = np.triu_indices(90, 1)
    distances = pair_distances(np.stack([rows[a], rows[b]], axis=1).reshape(-1, rows.shape[1]))
    point = tar_at_far(distances, labels[a] == labels[b], 0.01)
    assert (result["pairs"], result["genuine"], result["protocol"]) == (4005, 90, "all-pairs")
    assert result["vr"]["0.01"]["vr_all_pairs"] == pytest.approx(point.tar, abs=0.012)  # float32 distances
    assert result["identities"] == {"count": 30, "images": 90, "single": 0, "median_images": 3.0, "max_images": 3}
    assert {"rank", "fnir"} <= set(result["identification"])
    assert all(name.endswith(".png") for name in result["hardest"]["false_accepts"][0]["images"])
    printed = capsys.readouterr().out
    assert (
        "people: 30 identities, 90 images (per identity: median 3, at most 3; 0 identities with one image)" in printed
    )
    assert "people: 1:N, 15 enrolled, 30 probes: rank-1" in printed and "people: FAR 0.01: same person at" in printed


def test_a_pair_list_with_its_photos_gives_what_its_bin_gives(shades, people, tmp_path):
    pairs = write_pairs_txt(people)
    run_main(shades / "model.fake", "--valid", people, "--pairs", pairs, "--far", "0.1")
    listed = read(shades)["sets"]["pairs"]

    images, is_same = [], []
    for line in pairs.read_text().splitlines()[1:]:
        words = line.split("\t")
        second = words[0] if len(words) == 3 else words[2]
        images += [people / words[0] / f"{words[0]}_{int(words[1]):04d}.png",
                   people / second / f"{second}_{int(words[-1]):04d}.png"]  # fmt: skip
        is_same.append(len(words) == 3)
    write_bin(tmp_path / "same.bin", [file.read_bytes() for file in images], is_same)
    run_main(shades / "model.fake", "--valid", tmp_path / "same.bin", "--far", "0.1")
    binned = read(shades)["sets"]["same"]

    for key in ("pairs", "genuine", "acc", "acc_folds", "auc", "eer", "vr", "dist_max", "dist_min", "thresholds"):
        assert listed[key] == binned[key], key
    assert listed["hardest"]["false_accepts"][0]["images"][0].startswith("P")


def test_photos_of_another_size_are_refused_or_letterboxed(shades, people):
    pairs = write_pairs_txt(people)
    (people / "P00" / "P00_0001.png").write_bytes(face(1, (90, 90, 90), size=(60, 120)))

    with pytest.raises(FaceError, match=r"Record P00/P00_0001.png of '.*pairs.txt': the image is 60x120"):
        run_main(shades / "model.fake", "--valid", people, "--pairs", pairs)
    assert run_main(shades / "model.fake", "--valid", people, "--pairs", pairs, "--letterbox") == 0


@pytest.mark.parametrize("height, width", [(56, 112), (224, 112), (300, 40), (112, 111)])
def test_a_letterboxed_image_keeps_its_shape_between_bars_of_grey_128(height, width):
    data = cv2.imencode(".png", np.full((height, width, 3), 250, np.uint8))[1].tobytes()

    pixels = cv2.imdecode(np.frombuffer(letterboxed(data, "x"), np.uint8), cv2.IMREAD_COLOR)

    assert pixels.shape == (112, 112, 3) and set(np.unique(pixels)) == {128, 250}
    rows, columns = np.where(pixels[:, :, 0] == 250)
    scale = 112 / max(height, width)
    assert np.ptp(rows) + 1 == round(height * scale) and np.ptp(columns) + 1 == round(width * scale)
    assert abs((rows.min() + rows.max()) / 2 - 55.5) <= 0.5 and abs((columns.min() + columns.max()) / 2 - 55.5) <= 0.5


def test_an_image_that_fits_keeps_its_bytes():
    data = face(1, (90, 90, 90))
    assert letterboxed(data, "x") is data


def test_a_listed_photo_that_is_missing_is_named(shades, people):
    pairs = write_pairs_txt(people)
    (people / "P00" / "P00_0001.png").unlink()

    with pytest.raises(FaceError, match=r"has image 1 of 'P00'"):
        run_main(shades / "model.fake", "--valid", people, "--pairs", pairs)
    with pytest.raises(FaceError, match="--valid must be the folder of the photos"):
        run_main(shades / "model.fake", "--valid", people / "nope", "--pairs", pairs)


def test_a_damaged_photo_is_named(shades, people):
    pairs = write_pairs_txt(people)
    (people / "P00" / "P00_0001.png").write_bytes(b"no image")

    with pytest.raises(FaceError, match=r"Record P00/P00_0001.png of '.*pairs.txt': neither JPEG nor PNG"):
        run_main(shades / "model.fake", "--valid", people, "--pairs", pairs)
    with pytest.raises(FaceError, match=r"P00_0001.png': neither JPEG nor PNG"):
        run_main(shades / "model.fake", "--valid", people, "--pairs", pairs, "--letterbox")


def test_the_groups_of_people_are_found_by_their_folders(shades, people, tmp_path, capsys):
    rows = [f"P{person:02d},{'low' if person < 15 else 'high'}" for person in range(30)]
    (tmp_path / "groups.csv").write_text("name,group\n" + "\n".join(rows))

    run_main(shades / "model.fake", "--valid", people, "--attributes", tmp_path / "groups.csv", "--far", "0.05")

    groups = read(shades)["sets"]["people"]["groups"]
    assert {name: value["pairs"] for name, value in groups.items()} == {"high": 990, "low": 990}
    printed = capsys.readouterr().out
    for name, group in groups.items():
        assert f"group {name}: 990 pairs, balanced ACC {group['acc']:.4f}" in printed
    gap = 100 * abs(groups["high"]["acc"] - groups["low"]["acc"])
    assert f"gap between groups: {gap:.2f} points" in printed


def test_the_old_grid_protocol_changes_acc_and_says_so(shades):
    run_main(shades / "model.fake", "--valid", shades, "--protocol", "insightface", "--far", "0.1")

    result = read(shades)["sets"]["shades"]
    assert result["protocol"] == "insightface"
    assert result["acc_threshold"] * 1000 == pytest.approx(round(result["acc_threshold"] * 1000))  # mean of 10 on 0.01


def test_the_report_names_the_set_from_its_own_folder_and_the_sidecar_gets_thresholds(shades):
    run_main(shades / "model.fake", "--valid", shades / "shades.bin")

    report, sidecar = read(shades), json.loads((shades / "model.fake.json").read_text())
    assert report["sets"]["shades"]["source"]["path"] == "shades.bin"
    assert sidecar["thresholds"]["shades"]["far"] == report["sets"]["shades"]["thresholds"]
    assert sidecar["thresholds"]["shades"]["sha256"] == report["sets"]["shades"]["source"]["sha256"]
    assert sidecar["thresholds"]["shades"]["impostors"] == 30 and sidecar["kind"] == "fake"


def test_a_folder_without_bins_or_identities_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()

    with pytest.raises(FaceError, match=r"has no .bin"):
        find_sets(tmp_path / "empty")
