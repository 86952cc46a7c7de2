"""Toy faces: pure functions of their numbers, and hard enough that colours and pixels alone do not tell them apart."""

import itertools
from dataclasses import fields

import cv2
import numpy as np
import pytest
from sklearn.metrics.pairwise import paired_distances
from synthetic_faces import main

from facelib.data.readers.mxnet_rec import RecordFile, unpack
from facelib.data.synthetic.faces import draw_face, draw_identity, encode_jpeg, synthetic_face
from facelib.data.synthetic.files import HELD_OUT_IDENTITY, SyntheticSet, write_insightface, write_pairs, write_tfrecord
from facelib.data.tfrecord import check_frame, decode_example, map_file, payload_of, scan
from facelib.data.verification.bins import load_bin
from facelib.data.verification.pair_lists import sample_pairs
from facelib.errors import FaceError

NUM_IDENTITIES, NUM_IMAGES, NUM_PAIRS = 120, 8, 960


@pytest.fixture(scope="module")
def pairs():
    """(images uint8 [N, 112, 112, 3], idx [2P], is_same [P]) of held-out identities."""
    people = range(HELD_OUT_IDENTITY, HELD_OUT_IDENTITY + NUM_IDENTITIES)
    images = np.stack([synthetic_face(0, who, k) for who in people for k in range(NUM_IMAGES)])
    return images, *sample_pairs(np.repeat(np.arange(NUM_IDENTITIES), NUM_IMAGES), NUM_PAIRS, seed=0)


def best_accuracy(distances, is_same):
    """Accuracy at the best threshold over all pairs: an upper bound of what ten folds would report."""
    genuine, impostor = np.sort(distances[is_same]), np.sort(distances[~is_same])
    accepted = np.searchsorted(genuine, distances, "right") + len(impostor)
    return (accepted - np.searchsorted(impostor, distances, "right")).max() / len(distances)


def paired(metric, features, idx):
    """Distances [P] of the rows of each pair; every metric that a simple baseline would try."""
    if metric == "hellinger":
        metric, features = "euclidean", np.sqrt(features)
    if metric == "correlation":
        metric, features = "cosine", features - features.mean(axis=1, keepdims=True)
    return paired_distances(features[idx[::2]], features[idx[1::2]], metric=metric)


def test_a_face_is_a_function_of_its_numbers():
    first = synthetic_face(3, 14, 15)

    assert first.shape == (112, 112, 3) and first.dtype == np.uint8
    assert np.array_equal(first, synthetic_face(3, 14, 15))
    for other in ((4, 14, 15), (3, 15, 15), (3, 14, 16)):
        assert not np.array_equal(first, synthetic_face(*other))


def test_the_identity_survives_and_everything_else_changes():
    who = draw_identity(0, 5)

    assert who == draw_identity(0, 5) != draw_identity(0, 6)
    first, second = (draw_face(who, np.random.default_rng(shot)) for shot in (1, 2))
    assert np.abs(first.astype(int) - second).mean() > 5


def test_every_parameter_of_an_identity_varies():
    people = [draw_identity(0, i) for i in range(60)]

    for field in fields(people[0]):
        assert len({getattr(who, field.name) for who in people}) > 1, field.name


def test_eyes_and_mouth_lie_where_aligned_crops_have_them():
    # Over many faces the darkest rows beside the nose are the eyes: ArcFace's template puts them at y = 51.6.
    mean = np.mean(
        [cv2.cvtColor(synthetic_face(0, i, k), cv2.COLOR_RGB2GRAY) for i in range(80) for k in range(3)], axis=0
    )

    for left, x in ((28, 38.3), (63, 73.5)):
        eye = mean[44:60, left : left + 21]
        dark = np.clip(np.percentile(eye, 25) - eye, 0, None)
        rows, columns = np.indices(eye.shape)
        assert abs((dark * rows).sum() / dark.sum() + 44 - 51.6) < 3
        assert abs((dark * columns).sum() / dark.sum() + left - x) < 3


@pytest.mark.parametrize("bins", [4, 8])
@pytest.mark.parametrize("space", ["rgb", "hsv", "grey world", "face only"])
def test_colour_histograms_do_not_tell_faces_apart(pairs, space, bins):
    images, idx, is_same = pairs

    def histogram(image):
        if space == "hsv":
            image = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            return cv2.calcHist([image], [0, 1], None, [2 * bins, bins], [0, 180, 0, 256]).ravel()
        if space in ("grey world", "face only"):  # background cut off, and the colour of the light divided out
            image = np.ascontiguousarray(image[30:100, 30:82])
        if space == "grey world":
            image = np.clip(image / image.mean((0, 1)) * 110, 0, 255).astype(np.uint8)
        return cv2.calcHist([image], [0, 1, 2], None, [bins] * 3, [0, 256] * 3).ravel()

    histograms = np.stack([histogram(image) for image in images])
    histograms /= histograms.sum(axis=1, keepdims=True)

    for metric in ("manhattan", "euclidean", "correlation", "cosine", "hellinger"):
        assert 0.5 < best_accuracy(paired(metric, histograms, idx), is_same) < 0.72, metric


def test_raw_pixels_do_not_tell_faces_apart(pairs):
    images, idx, is_same = pairs
    grey = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images])[:, 20:108, 20:92]

    for size, metric in itertools.product((8, 14, 28, 72), ("manhattan", "euclidean", "correlation")):
        small = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).ravel() for image in grey])
        assert 0.5 < best_accuracy(paired(metric, small.astype(float), idx), is_same) < 0.8, (size, metric)


def test_two_pictures_of_one_person_are_further_apart_than_jpeg_can_explain(pairs):
    images, idx, is_same = pairs
    genuine = idx.reshape(-1, 2)[is_same]
    apart = np.abs(images[genuine[:, 0]].astype(int) - images[genuine[:, 1]]).mean((1, 2, 3))
    copies = [cv2.imdecode(np.frombuffer(encode_jpeg(i, 60), np.uint8), cv2.IMREAD_COLOR_RGB) for i in images[:20]]
    jpeg = np.abs(images[:20].astype(int) - np.stack(copies)).mean()

    assert np.percentile(apart, 5) > 2 * jpeg


def test_jpeg_keeps_red_red():
    red = np.full((112, 112, 3), (200, 30, 20), np.uint8)

    copy = cv2.imdecode(np.frombuffer(encode_jpeg(red, 95), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]

    np.testing.assert_allclose(copy, red, atol=4)


# ------------------------------------------------------------------------------------------------ files

FACES = SyntheticSet(num_identities=4, num_images=3, first_identity=7, seed=2)


def jpegs():
    return [FACES.jpeg(i) for i in range(len(FACES))]


def test_folders_hold_one_identity_each(tmp_path):
    out = tmp_path / "toy"

    assert main([str(out), "--identities", "4", "--images", "3", "--first-identity", "7", "--seed", "2"]) == 0

    files = sorted(out.rglob("*.jpg"))
    assert [str(file.relative_to(out)) for file in files][:4] == [
        "0008/0001.jpg", "0008/0002.jpg", "0008/0003.jpg", "0009/0001.jpg"]  # fmt: skip
    assert [file.read_bytes() for file in files] == jpegs()
    with pytest.raises(FaceError, match="new or empty folder"):
        main([str(out)])


def test_the_rec_is_laid_out_as_insightface_reads_it(tmp_path):
    write_insightface(tmp_path / "toy", FACES)

    record = RecordFile(tmp_path / "toy" / "train.rec")
    header, _ = unpack(record.read(0))
    assert header.labels == [13, 17]  # images at keys 1..12, identities at 13..16
    images = [unpack(record.read(key)) for key in range(1, 13)]
    assert [image for _, image in images] == jpegs()
    assert [header.labels[0] for header, _ in images] == FACES.labels.tolist()
    assert [unpack(record.read(key))[0].labels for key in range(13, 17)] == [[1, 4], [4, 7], [7, 10], [10, 13]]
    assert (tmp_path / "toy" / "property").read_text().strip() == "4,112,112"


def test_the_older_tfrecord_holds_jpeg_and_label_identity_by_identity(tmp_path):
    path = tmp_path / "toy.tfrecord"

    write_tfrecord(path, FACES)

    data = map_file(path)
    frames = [data[at : at + size + 16] for at, size in zip(*scan(path), strict=True)]
    for frame in frames:
        check_frame(frame, len(frame) - 16)
    examples = [decode_example(payload_of(frame)) for frame in frames]
    assert [bytes(example["image_raw"][0]) for example in examples] == jpegs()
    assert [example["label"][0] for example in examples] == FACES.labels.tolist()


def test_the_bin_holds_balanced_pairs_of_held_out_identities(tmp_path):
    path, people = tmp_path / "toy.bin", SyntheticSet(20, 4, HELD_OUT_IDENTITY)

    write_pairs(path, people, num_pairs=40)

    bin_pairs = load_bin(path)
    known = {people.jpeg(i): i // 4 for i in range(len(people))}
    owners = np.array([known[bytes(image)] for image in bin_pairs.images]).reshape(-1, 2)
    assert np.array_equal(owners[:, 0] == owners[:, 1], bin_pairs.is_same) and bin_pairs.is_same.sum() == 20
    blocks = [set(block.ravel().tolist()) for block in np.split(owners, 10)]
    assert sum(map(len, blocks)) == len(set.union(*blocks))


def test_an_impossible_set_is_refused(tmp_path):
    with pytest.raises(FaceError, match="at least 1 identity"):
        main([str(tmp_path / "toy"), "--identities", "0"])
    assert not (tmp_path / "toy").exists()
