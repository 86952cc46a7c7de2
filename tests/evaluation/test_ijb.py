"""IJB-B and IJB-C: meta files, pooling and scores, with answers worked out by hand beside each test."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from facelib.errors import FaceError
from facelib.evaluation.ijb import files, protocol
from facelib.evaluation.ijb.files import find_meta, read_faces, read_pairs, read_subjects
from facelib.evaluation.ijb.protocol import identify_galleries, mean_of, pool_templates, score_pairs, verify

POINTS = "38 52 74 52 56 72 42 92 71 92"
IMAGES = ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]
SCORES = [0.5, 1.0, 0.25, 0.8, 0.4]
# Template 10: images 1 and 2 of one video, image 3 a photo. Template 20: image 4. Template 30: images 4 and 5.
ROWS = [("1.jpg", 10, 7), ("2.jpg", 10, 7), ("3.jpg", 10, 8), ("4.jpg", 20, 9), ("4.jpg", 30, 9), ("5.jpg", 30, 11)]
EMBEDDINGS = np.array([[3, 0], [0, 4], [0, 2], [-2, 0], [0, -1]], np.float32)


def write_meta(folder, name="ijbc", **changes):
    galleries = ("S1", "S2") if name == "ijbb" else ("G1", "G2")
    files = {
        "name_5pts_score.txt": [f"{image} {POINTS} {score}" for image, score in zip(IMAGES, SCORES, strict=True)],
        "face_tid_mid.txt": [f"{image} {template} {media}" for image, template, media in ROWS],
        "template_pair_label.txt": ["10 20 0", "10 30 1", "20 30 0"],
        f"1N_gallery_{galleries[0]}.csv": ["TEMPLATE_ID,SUBJECT_ID,FILENAME", "10,1,img/1.jpg", "10,1,img/2.jpg"],
        f"1N_gallery_{galleries[1]}.csv": ["TEMPLATE_ID,SUBJECT_ID,FILENAME", "20,2,img/4.jpg"],
        "1N_probe_mixed.csv": ["TEMPLATE_ID,SUBJECT_ID,FILENAME", "30,2,img/4.jpg", "30,2,img/5.jpg"],
    }
    folder.mkdir(exist_ok=True)
    for file, lines in (files | changes).items():
        (folder / f"{name}_{file}").write_text("".join(f"{line}\n" for line in lines))
    return folder


def faces_of(folder):
    return read_faces(find_meta(folder))


# -------------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("name", ["ijbb", "ijbc"])
def test_the_meta_files_are_read(tmp_path, name):
    paths = find_meta(write_meta(tmp_path, name))

    faces = read_faces(paths)

    assert paths.name == name and list(paths.galleries) == {"ijbb": ["S1", "S2"], "ijbc": ["G1", "G2"]}[name]
    assert faces.images == IMAGES
    np.testing.assert_array_equal(faces.points[4], [[38, 52], [74, 52], [56, 72], [42, 92], [71, 92]])
    np.testing.assert_allclose(faces.detector_scores, SCORES)
    assert faces.image_idx.tolist() == [0, 1, 2, 3, 3, 4]
    assert faces.template_ids[faces.template_idx].tolist() == [10, 10, 10, 20, 30, 30]
    assert faces.media.tolist() == [7, 7, 8, 9, 9, 11]
    first, second, is_same = read_pairs(paths.pairs, faces.template_ids)
    assert (first.tolist(), second.tolist(), is_same.tolist()) == ([0, 0, 1], [1, 2, 2], [False, True, False])
    gallery, probes = (
        read_subjects(p, faces.template_ids) for p in (next(iter(paths.galleries.values())), paths.probes)
    )
    assert [part.tolist() for part in (*gallery, *probes)] == [[0], [1], [2], [2]]


def test_images_that_no_template_has_are_not_embedded(tmp_path):
    faces = faces_of(write_meta(tmp_path, **{"face_tid_mid.txt": ["4.jpg 20 9", "2.jpg 10 7"]}))

    assert faces.images == ["2.jpg", "4.jpg"] and faces.image_idx.tolist() == [1, 0]
    np.testing.assert_allclose(faces.detector_scores, [1.0, 0.8])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), min_size=1, max_size=40),
       st.integers(1, 60), st.sampled_from(["\n", "\r\n"]), st.booleans())  # fmt: skip
@settings(deadline=None)
def test_pairs_are_read_whatever_the_chunks(tmp_path_factory, pairs, chunk, newline, is_ended):
    template_ids = np.array([3, 5, 8, 1000, 25000, 10**17])
    path = tmp_path_factory.mktemp("pairs") / "pairs.txt"
    text = newline.join(f"{template_ids[a]} {template_ids[b]}\t{int(same)}" for a, b, same in pairs)
    path.write_bytes((text + newline * is_ended).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK_BYTES", chunk)

        found = read_pairs(path, template_ids)

    assert list(zip(*(part.tolist() for part in found), strict=True)) == pairs
    assert [part.dtype for part in found] == [np.int32, np.int32, bool]


def test_every_bad_pair_line_is_named_in_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK_BYTES", 20)
    good, bad = "10 20 0", ("10 20", "10 20 2", "10 x 1", "", "10 99 1", "-10 20 1", "10 20 1 5", "9" * 30 + " 20 1")
    lines = [good, *bad[:4], good, *bad[4:], good, good, bad[0]]
    folder = write_meta(tmp_path, **{"template_pair_label.txt": lines})

    with pytest.raises(FaceError, match="LABEL is 0 or 1") as error:
        read_pairs(find_meta(folder).pairs, np.array([10, 20, 30]))

    assert "has 9 other lines: 2-5, 7-10, 13 (the first: '10 20')" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_bad_lines_makes_a_short_message(tmp_path):
    lines = [f"{i}.jpg 10" if i % 2 else "1.jpg 10 7" for i in range(1000)]
    folder = write_meta(tmp_path, **{"face_tid_mid.txt": lines})

    with pytest.raises(FaceError) as error:
        faces_of(folder)

    assert "has 500 other lines: 2, 4, 6," in str(error.value) and "and 460 more" in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "file, lines, words",
    [
        ("name_5pts_score.txt", [f"1.jpg {POINTS}"], "1 other line: 1 .*'1.jpg 38"),
        ("name_5pts_score.txt", [f"1.jpg {POINTS} 1", f"1.jpg {POINTS} 1"], "must occur in one line.*: 2 "),
        ("name_5pts_score.txt", [f"1.jpg {POINTS} nan", f"2.jpg {POINTS} -1", "3.jpg a"], "3 other lines: 1-3 "),
        ("name_5pts_score.txt", [f"1.jpg {POINTS} 1", "2.jpg" + " 50" * 10 + " 1"], "five different points.* 2 "),
        ("face_tid_mid.txt", ["1.jpg 10 7", "9.jpg 10 7", "2.jpg ten 7"], "2 other lines: 2-3 .*'9.jpg 10 7'"),
        ("face_tid_mid.txt", [f"1.jpg {10**30} 7"], "1 other line: 1 "),
        ("1N_gallery_G1.csv", ["TEMPLATE_ID,SUBJECT_ID", "10,1", "10,2", "11,1", "x,1", "10"], "4 other lines: 3-6 "),
        ("1N_gallery_G1.csv", ["TEMPLATE_ID,SUBJECT_ID"], "no template below its header"),
    ],
)
def test_bad_meta_lines_are_named(tmp_path, file, lines, words):
    paths = find_meta(write_meta(tmp_path, **{file: lines}))

    with pytest.raises(FaceError, match=words):
        read_subjects(paths.galleries["G1"], read_faces(paths).template_ids)


def test_missing_meta_files_are_named_before_anything_is_read(tmp_path):
    with pytest.raises(FaceError, match="which is not a folder"):
        find_meta(tmp_path / "nope")
    with pytest.raises(FaceError, match="has none"):
        find_meta(tmp_path)
    (write_meta(tmp_path) / "ijbc_1N_gallery_G2.csv").unlink()
    with pytest.raises(FaceError, match="ijbc_1N_gallery_G2"):
        find_meta(tmp_path)
    assert find_meta(tmp_path, ("1:1",)).name == "ijbc"
    with pytest.raises(FaceError, match="has both"):
        find_meta(write_meta(tmp_path, "ijbb"))


# ---------------------------------------------------------------------------------------------------------- pooling


@pytest.mark.parametrize(
    "normalize, detector_score, sums",
    [
        # N1 D0. 10: the video's mean of (3,0) and (0,4) = (1.5,2), plus the photo (0,2). 30: (-2,0) + (0,-1).
        (False, False, [[1.5, 4], [-2, 0], [-2, -1]]),
        # N1 D1. 10: mean of .5(3,0) and 1(0,4) = (.75,2), plus .25(0,2) = (0,.5). 30: .8(-2,0) + .4(0,-1).
        (False, True, [[0.75, 2.5], [-1.6, 0], [-1.6, -0.4]]),
        # N0 D0. 10: mean of (1,0) and (0,1) = (.5,.5), plus (0,1). 30: (-1,0) + (0,-1).
        (True, False, [[0.5, 1.5], [-1, 0], [-1, -1]]),
        # N0 D1. 10: mean of .5(1,0) and 1(0,1) = (.25,.5), plus .25(0,1). 30: .8(-1,0) + .4(0,-1).
        (True, True, [[0.25, 0.75], [-0.8, 0], [-0.8, -0.4]]),
    ],
)
@pytest.mark.parametrize("block_rows", [1, 4, 8192])
def test_templates_by_hand(tmp_path, monkeypatch, normalize, detector_score, sums, block_rows):
    monkeypatch.setattr(protocol, "BLOCK_ROWS", block_rows)
    faces = faces_of(write_meta(tmp_path))

    templates = pool_templates(EMBEDDINGS, faces, normalize=normalize, detector_score=detector_score)

    sums = np.array(sums)
    np.testing.assert_allclose(templates, sums / np.hypot(*sums.T)[:, None], rtol=1e-6)
    assert templates.dtype == np.float32


def test_a_template_does_not_depend_on_the_order_of_its_lines(tmp_path):
    shuffled = [ROWS[i] for i in (4, 1, 3, 0, 5, 2)]
    lines = [f"{image} {template} {media}" for image, template, media in shuffled]

    first = pool_templates(EMBEDDINGS, faces_of(write_meta(tmp_path / "a")))
    again = pool_templates(EMBEDDINGS, faces_of(write_meta(tmp_path / "b", **{"face_tid_mid.txt": lines})))

    np.testing.assert_allclose(first, again, rtol=1e-6)


def test_a_template_without_direction_is_named(tmp_path):
    faces = faces_of(write_meta(tmp_path, **{"name_5pts_score.txt": [f"{image} {POINTS} 0" for image in IMAGES]}))

    with pytest.raises(FaceError, match="The embeddings of template 10 add up to 0"):
        pool_templates(EMBEDDINGS, faces)


# ------------------------------------------------------------------------------------------------------------ scores


@pytest.mark.parametrize("block_scores", [1, 40, 2**24])
@pytest.mark.parametrize("is_sorted", [True, False])
def test_scores_are_the_cosines_of_the_pairs(monkeypatch, block_scores, is_sorted):
    monkeypatch.setattr(protocol, "BLOCK_SCORES", block_scores)
    random = np.random.default_rng(0)
    templates = random.normal(size=(50, 8)).astype(np.float32)
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    first, second = random.integers(5, 25, 300), random.integers(10, 50, 300)
    first = np.sort(first) if is_sorted else first

    scores = score_pairs(templates, first, second)

    np.testing.assert_allclose(scores, (templates[first] * templates[second]).sum(axis=1), atol=1e-6)
    assert scores.dtype == np.float32


def test_tar_at_far_by_hand():
    # Ten impostors, 0.0 to 0.9; four genuine pairs.
    cosines = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.85, 0.85, 0.25], np.float32)
    is_same = np.arange(14) >= 10

    result = verify(cosines, is_same, (0.05, 0.1, 0.29))

    assert (result.pairs, result.genuine) == (14, 4)
    too_few, tenth, more = result.vr
    # FAR 0.1 lets one impostor pass, 0.9; the next is 0.8, so the loosest score seen is 0.85: three of four genuine.
    assert (tenth.tar, tenth.far) == (0.75, 0.1) and tenth.threshold == pytest.approx(2 - 2 * 0.85, abs=1e-6)
    # FAR 0.29 lets two pass, 0.9 and 0.8: no further genuine pair before 0.7, the threshold is 0.8.
    assert (more.tar, more.far) == (0.75, 0.2) and more.threshold == pytest.approx(2 - 2 * 0.8, abs=1e-6)
    assert (too_few.tar, too_few.ci95, too_few.threshold, too_few.needs_impostors) == (None, None, None, 20)
    # AUC: of 40 orders of genuine to impostor wrong are 0.85 to 0.9 (twice) and 0.25 to 0.3 .. 0.9 (seven): 31 of 40.
    assert result.auc == pytest.approx(31 / 40)
    assert result.as_dict()["vr"]["0.05"] == {
        "vr": None, "ci95": None, "far": None, "threshold": None, "needs_impostors": 20
    }  # fmt: skip


def test_tar_is_a_point_of_scikit_learns_curve_that_keeps_the_far():
    random = np.random.default_rng(1)
    is_same = random.random(4000) < 0.3
    cosines = np.round(random.normal(0.5 * is_same, 0.25), 2).astype(np.float32)  # many ties

    result = verify(cosines, is_same, (1e-3, 1e-2, 0.1))

    far, tar, thresholds = roc_curve(is_same, cosines, drop_intermediate=False)
    assert result.auc == pytest.approx(roc_auc_score(is_same, cosines), abs=1e-12)
    for point in result.vr:
        kept = np.flatnonzero(far <= point.far_target)[-1]
        assert (point.tar, point.far) == pytest.approx((tar[kept], far[kept]), abs=1e-12)
        assert 1 - point.threshold / 2 == pytest.approx(thresholds[kept], abs=1e-6)
        assert point.ci95[0] < point.tar < point.ci95[1]


def insightface_points(cosines, is_same, fars):
    """The lines of eval_ijbc.py: scikit-learn's curve, reversed, and the first of the nearest FARs."""
    far, tar, _ = roc_curve(is_same, cosines)
    far, tar = np.flipud(far), np.flipud(tar)
    places = [min(zip(np.abs(far - wanted), range(len(far)), strict=True))[1] for wanted in fars]
    return [(tar[i], far[i]) for i in places]


@pytest.mark.parametrize("seed, decimals", [(0, 1), (1, 2), (2, 3), (3, 6)])
def test_the_nearest_rule_takes_the_points_of_insightface(seed, decimals):
    random = np.random.default_rng(seed)
    is_same = random.random(5000) < 0.2
    cosines = np.round(random.normal(0.5 * is_same, 0.25), decimals).astype(np.float32)
    fars = (3e-4, 1e-3, 2.6e-3, 1e-2, 0.1, 1.0)

    result = verify(cosines, is_same, fars, nearest=True)

    assert result.rule == "nearest" and verify(cosines, is_same, fars).rule == "at_most"
    for point, expected in zip(result.vr, insightface_points(cosines, is_same, fars), strict=True):
        assert (point.tar, point.far) == pytest.approx(expected, abs=1e-12)
        accepted = 2 - 2 * cosines.astype(np.float64) <= point.threshold + 1e-7
        assert (accepted[is_same].mean(), accepted[~is_same].mean()) == pytest.approx((point.tar, point.far))


def test_the_nearest_rule_may_exceed_the_stated_far():
    # Ten impostors. FAR 0.15 lies between one of ten (0.1) and two of ten (0.2): InsightFace takes the larger FAR.
    cosines = np.array([0.95, 0.85, 0.75, 0.9, 0.8, *np.linspace(0.5, 0.1, 8)], np.float32)
    is_same = np.array([True] * 3 + [False] * 10)

    exact, nearest = (verify(cosines, is_same, (0.16,), nearest=rule).vr[0] for rule in (False, True))

    assert (exact.tar, exact.far) == (pytest.approx(2 / 3), 0.1)
    assert (nearest.tar, nearest.far) == (1.0, 0.2)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=12, max_size=60), st.sampled_from([0.1, 0.25, 1.0])
)
@settings(deadline=None)
def test_the_nearest_rule_with_ties(pairs, far):
    cosines, is_same = (np.array(part) for part in zip(*pairs, strict=True))
    if not 10 <= (~is_same).sum() < len(is_same):
        return
    cosines = (cosines / 10).astype(np.float32)

    point = verify(cosines, is_same, (far,), nearest=True).vr[0]

    assert (point.tar, point.far) == pytest.approx(insightface_points(cosines, is_same, (far,))[0], abs=1e-12)


# ---------------------------------------------------------------------------------------------------------------- 1:N


def test_identification_by_hand():
    def at(degrees):
        return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]

    # Templates 0-1: gallery G1, subjects 1 at 0 and 2 at 90 degrees. Template 2: gallery G2, subject 3 at 180.
    # Probes: subject 1 at 20, subject 2 at 40 (subject 1 is nearer), subject 3 at 120.
    templates = np.array([at(a) for a in (0, 90, 180, 20, 40, 120)], np.float32)
    galleries = {"G1": (np.array([0, 1]), np.array([1, 2])), "G2": (np.array([2]), np.array([3]))}
    probes = (np.array([3, 4, 5]), np.array([1, 2, 3]))

    found = identify_galleries(templates, galleries, probes, ranks=(1, 2), fpirs=(0.5, 1.0))

    assert list(found) == ["G1", "G2", "G1+G2"]
    one, two, both = found.values()
    # G1 alone: subjects 1 and 2 are mated, one of two right. Subject 3 is the only unmated probe: FPIR 0.5 is not to be
    # had of one probe. At FPIR 1 all are accepted: FNIR is the share with another identity first, 1/2.
    assert (one.gallery, one.mated, one.unmated, one.rank) == (2, 2, 1, {1: 0.5, 2: 1.0})
    assert [point.fnir for point in one.fnir] == [None, 0.5]
    # G2 alone: subject 3 mated, 60 degrees away, right. Unmated: 160 and 140 away. FPIR 1/2 lets the second in.
    assert (two.gallery, two.mated, two.unmated, two.rank) == (1, 1, 2, {1: 1.0, 2: 1.0})
    assert [point.fnir for point in two.fnir] == [0.0, 0.0]
    # All together: nobody is unmated. The probe at 120 is nearer to subject 2 (30) than to its own (60): rank 2.
    assert (both.gallery, both.mated, both.unmated) == (3, 3, 0)
    assert both.rank == {1: pytest.approx(1 / 3), 2: 1.0}
    assert mean_of([one, two]) == {"rank": {"1": 0.75, "2": 1.0}, "fnir": {"0.5": {"fnir": None}, "1": {"fnir": 0.25}}}
