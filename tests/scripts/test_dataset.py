"""dataset.py: exact shuffle, positions, augmentation, both reading modes. Truth: the images that went into the data."""

import gc
import math
import os
import tracemalloc
import weakref
import zlib
from collections import Counter
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dataset
from dataset import TrainingData
from facelib.data import sampling
from facelib.data.augment import AugmentConfig, make_augment, random_flip
from facelib.data.conversion.job import convert
from facelib.data.readers.mxnet_rec import face_payloads, write_rec
from facelib.data.readers.open_records import open_records
from facelib.data.record_reader import INDEX_DTYPE, Records
from facelib.data.sampling import block_order, record_keys, record_order
from facelib.data.synthetic.faces import synthetic_face
from facelib.data.tfrecord import encode_image_example, frame
from facelib.errors import FaceError
from facelib.image_decoding import decode_image
from facelib.model_input import fit_faces
from tests.helpers.slow import slow_unless_quick

SIZE = (16, 16)
NUM_CLASSES, IMAGES_EACH = 60, 30
NUM_IMAGES = NUM_CLASSES * IMAGES_EACH


def scattered_order(num_records, seed, epoch):
    """The order of `record_order` as it is made above SCATTERED_RECORDS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "SCATTERED_RECORDS", 0)
        return record_order(num_records, seed, epoch)


ORDERS = {"records": record_order, "blocks": block_order, "scattered": scattered_order}
both_modes = pytest.mark.parametrize("shuffle", ["records", "blocks"])
all_orders = pytest.mark.parametrize("shuffle", list(ORDERS))


def picture(k):
    """Image number k: its number in red and green, its left half blue. uint8 [16, 16, 3], RGB."""
    image = np.zeros((*SIZE, 3), np.uint8)
    image[..., 0], image[..., 1] = divmod(k, 256)
    image[:, :8, 2] = 255
    return image


def number(image):
    return int(image[0, 0, 0]) * 256 + int(image[0, 0, 1])


def is_flipped(image):
    return bool(image[0, 0, 2] == 0)


def png(image):
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data directory whose source lies identity by identity: image k is of identity k // 30. Five shards."""
    root = tmp_path_factory.mktemp("data")
    labels = [k // IMAGES_EACH for k in range(NUM_IMAGES)]
    write_rec(root / "train.rec", face_payloads([png(picture(k)) for k in range(NUM_IMAGES)], labels))
    convert(root / "train.rec", root / "data", shards=5, image_size=SIZE, progress=False)
    return root / "data"


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks and pools small enough that the data directory has many: 113 blocks, the last one short, and 29 pools."""
    monkeypatch.setattr(sampling, "BLOCK_RECORDS", 16)
    monkeypatch.setattr(sampling, "POOL_RECORDS", 64)


def open_data(path, batch_size=64, **options):
    return TrainingData(path, batch_size, image_size=SIZE, **options)


def assert_same_batches(found, expected):
    assert [(b.epoch, b.step) for b in found] == [(b.epoch, b.step) for b in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.record_idx, theirs.record_idx)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(ours.images, theirs.images)


# ------------------------------------------------------------------------------------------------- the order


@all_orders
@given(st.integers(1, 20_000), st.integers(0, 2**40), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_a_permutation_of_all_records(shuffle, num_records, seed, epoch):
    order = ORDERS[shuffle](num_records, seed, epoch)

    np.testing.assert_array_equal(np.sort(order), np.arange(num_records))
    np.testing.assert_array_equal(order, ORDERS[shuffle](num_records, seed, epoch))


@all_orders
def test_epochs_and_seeds_have_orders_of_their_own(shuffle):
    orders = [ORDERS[shuffle](20_000, seed, epoch) for seed in range(3) for epoch in range(3)]

    for i, first in enumerate(orders):
        for second in orders[:i]:
            assert np.mean(first == second) < 0.01  # chance: 0.00005


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", ["records", "scattered"])
def test_every_permutation_comes_as_often(shuffle):
    orders = Counter(tuple(ORDERS[shuffle](4, 0, epoch).tolist()) for epoch in range(4800))

    assert len(orders) == 24
    assert sum((count - 200) ** 2 / 200 for count in orders.values()) < 49.7  # chi-square, 23 degrees: p = 0.001


def test_the_scattered_order_of_many_chunks_is_a_permutation_without_a_pattern():
    num_records = 3_000_001
    order = scattered_order(num_records, 1, 2)

    assert np.bincount(order, minlength=num_records).max() == 1
    places = np.arange(num_records)
    for shifted in (order, np.roll(order, 1)):
        assert abs(np.corrcoef(places, shifted)[0, 1]) < 5 / math.sqrt(num_records)
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 5 / math.sqrt(num_records)
    assert abs(np.mean(order[1:] > order[:-1]) - 0.5) < 5 * math.sqrt(1 / 12 / num_records)


def test_smaller_data_keep_the_order_that_they_always_had():
    assert record_order(10, 0, 0).tolist() == [4, 6, 3, 7, 5, 2, 8, 9, 0, 1]


@all_orders
def test_the_order_of_five_million_records_fits_in_24_bytes_each_with_the_index(shuffle):
    num_records = 5_000_000
    tracemalloc.start()
    order = ORDERS[shuffle](num_records, 0, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert order.nbytes == 4 * num_records
    assert INDEX_DTYPE.itemsize + peak / num_records < 24


@both_modes
def test_only_one_order_lives_at_a_time(data_dir, monkeypatch, small_blocks, shuffle):
    made, living = [], []
    make = ORDERS[shuffle]

    def watched(*args):
        gc.collect()
        living.append(sum(ref() is not None for ref in made))
        order = make(*args)
        made.append(weakref.ref(order))
        return order

    monkeypatch.setattr(dataset, make.__name__, watched)
    num_batches = sum(1 for _ in open_data(data_dir, shuffle=shuffle).stream(last_epoch=2))

    assert num_batches == 3 * 29
    assert living == [0, 0, 0]


@pytest.mark.parametrize("shuffle, has_small_blocks", [("records", False), ("blocks", False), ("blocks", True)])
def test_identities_do_not_come_in_clusters(data_dir, request, shuffle, has_small_blocks):
    if has_small_blocks:
        request.getfixturevalue("small_blocks")
    data = open_data(data_dir, shuffle=shuffle)
    labels = np.asarray(data.records.labels)

    neighbours = sum(int(np.sum(np.diff(labels[data.order(epoch)]) == 0)) for epoch in range(10))

    # Of two records next to each other, the second is one of the 29 others of the identity by chance alone.
    expected = 10 * (NUM_IMAGES - 1) * (IMAGES_EACH - 1) / (NUM_IMAGES - 1)
    assert abs(neighbours - expected) < 6 * math.sqrt(expected)
    mean_run = 10 * NUM_IMAGES / (10 * NUM_IMAGES - neighbours)
    assert mean_run < 1.03  # the source has 30


@both_modes
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_shuffle_does_not_undo_the_one_that_wrote_the_data(tmp_path, shuffle, seed):
    labels = [k // IMAGES_EACH for k in range(NUM_IMAGES)]
    write_rec(tmp_path / "train.rec", face_payloads([png(picture(7))] * NUM_IMAGES, labels))
    convert(tmp_path / "train.rec", tmp_path / "data", seed=seed, image_size=SIZE, progress=False)
    data = open_data(tmp_path / "data", seed=seed, shuffle=shuffle)

    for epoch in range(3):
        neighbours = np.sum(np.diff(np.asarray(data.records.labels)[data.order(epoch)]) == 0)
        assert neighbours < IMAGES_EACH + 6 * math.sqrt(IMAGES_EACH)


# ------------------------------------------------------------------------------------------------ the batches


@both_modes
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1799, 1800, 5000])
def test_every_record_is_in_one_batch_with_its_image_and_label(data_dir, small_blocks, shuffle, batch_size):
    seen = Counter()
    sizes = []
    for batch in open_data(data_dir, batch_size, shuffle=shuffle, augment=None).batches(epoch=1):
        sizes.append(len(batch.labels))
        assert batch.images.shape == (len(batch.labels), *SIZE, 3)
        assert (batch.images.dtype, batch.labels.dtype, batch.record_idx.dtype) == (np.uint8, np.int64, np.uint32)
        for image, label in zip(batch.images, batch.labels, strict=True):
            np.testing.assert_array_equal(image, picture(number(image)))
            assert label == number(image) // IMAGES_EACH
            seen[number(image)] += 1

    assert seen == Counter(range(NUM_IMAGES))
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == math.ceil(NUM_IMAGES / batch_size)


@both_modes
def test_a_position_gives_what_an_uninterrupted_epoch_would_have_given(data_dir, small_blocks, shuffle):
    whole = list(open_data(data_dir, seed=5, shuffle=shuffle).batches(epoch=3))

    for start in (0, 1, 13, len(whole) - 1, len(whole)):
        again = open_data(data_dir, seed=5, shuffle=shuffle, num_threads=3)
        assert_same_batches(list(again.batches(3, start)), whole[start:])


@both_modes
def test_a_stream_resumes_in_any_epoch(data_dir, small_blocks, shuffle):
    data = open_data(data_dir, 500, shuffle=shuffle)
    whole = list(data.stream(last_epoch=3))

    assert_same_batches(whole, [b for epoch in range(4) for b in data.batches(epoch)])
    assert_same_batches(list(data.stream(2, 1, last_epoch=3)), whole[2 * data.steps_per_epoch + 1 :])
    assert list(data.stream(3, data.steps_per_epoch, last_epoch=3)) == []


def test_the_number_of_threads_changes_nothing(data_dir):
    one = list(open_data(data_dir, num_threads=1).batches(2))

    assert_same_batches(list(open_data(data_dir, num_threads=8).batches(2)), one)


def test_an_abandoned_epoch_leaves_no_threads(data_dir):
    import threading

    before = threading.active_count()
    batches = open_data(data_dir, num_threads=4).batches()
    next(batches)
    assert threading.active_count() > before
    batches.close()

    assert threading.active_count() == before


# ------------------------------------------------------------------------------------------- several workers


def joined(batches):
    """One batch from the parts of all workers, in the order of their ranks."""
    assert len({(b.epoch, b.step) for b in batches}) == 1
    return [np.concatenate([getattr(b, key) for b in batches]) for key in ("images", "labels", "record_idx", "keys")]


@pytest.mark.parametrize(
    "shuffle, images_each", slow_unless_quick([("records", 1), ("blocks", 1), ("records", 4)], [("blocks", 1)])
)
@given(batch_size=st.integers(40, 500), count=st.integers(1, 5), epoch=st.integers(0, 3), start=st.floats(0, 1))
@settings(max_examples=12, deadline=None)
def test_the_parts_of_all_workers_are_the_batches_of_one(
    data_dir, shuffle, images_each, batch_size, count, epoch, start
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "BLOCK_RECORDS", 16)
        patch.setattr(sampling, "POOL_RECORDS", 64)
        whole = open_data(data_dir, batch_size, shuffle=shuffle, seed=3)
        workers = [whole.shard(rank, count) for rank in range(count)]
        if images_each > 1:
            whole = whole.balanced(images_each)
            workers = [
                w.balanced(images_each) if rank % 2 else whole.shard(rank, count) for rank, w in enumerate(workers)
            ]
        first = int(start * (whole.steps_per_epoch - 1))
        streams = [worker.batches(epoch, first) for worker in workers]

        for batch, *parts in zip(whole.batches(epoch, first), *streams, strict=True):
            assert min(len(part.labels) for part in parts) >= 1
            for found, expected in zip(joined(parts), joined([batch]), strict=True):
                np.testing.assert_array_equal(found, expected)

    for worker in workers:
        assert (len(worker), worker.steps_per_epoch) == (len(whole), whole.steps_per_epoch)
        assert [worker.bounds(k) for k in range(3)] == [whole.bounds(k) for k in range(3)]
        np.testing.assert_array_equal(worker.order(epoch), whole.order(epoch))


def test_a_shard_is_a_copy_and_a_shard_of_a_shard_is_of_the_whole(data_dir):
    data = open_data(data_dir, 64)
    shard = data.shard(1, 2)

    assert (data.part(0), shard.part(0)) == ((0, 62), (31, 62))
    assert shard.shard(3, 4).part(0) == data.shard(3, 4).part(0)


def test_workers_of_blocks_read_every_byte_once_in_all(data_dir, monkeypatch, small_blocks):
    pread, num_bytes = os.pread, Counter()
    records = open_records(data_dir)
    everything = int(records.index["length"].sum()) + 16 * NUM_IMAGES
    for count in (1, 3, 4):

        def counted(handle, size, offset, count=count):
            num_bytes[count] += size
            return pread(handle, size, offset)

        monkeypatch.setattr(os, "pread", counted)
        for rank in range(count):
            list(open_data(records, 64, shuffle="blocks").shard(rank, count).batches(2))

    assert num_bytes == dict.fromkeys((1, 3, 4), everything)


def test_more_workers_than_a_batch_can_feed_are_refused(data_dir):
    data = open_data(data_dir, 9)
    assert data.shard(3, 4).num_workers == 4

    for refused in (
        lambda: data.shard(0, 5),
        lambda: open_data(data_dir, 5000).shard(0, 2000),  # one batch of all 1,800
        lambda: open_data(data_dir, 5000).balanced(2).shard(0, 121),  # 60 identities, 2 images each
        lambda: open_data(data_dir, 5000).shard(0, 121).balanced(2),
    ):
        with pytest.raises(FaceError, match="at least two images for each worker"):
            refused()
    with pytest.raises(ValueError, match="rank=2, count=2"):
        data.shard(2, 2)


@pytest.mark.parametrize("shuffle", ["records", "blocks"])
def test_identities_beyond_two_to_the_31_are_exact(tmp_path, shuffle):
    labels = [0, 2**24 + 1, 2**31 - 1, 2**31 + 1, 2**32 + 1, 2**40 + 1]
    frames = [frame(encode_image_example(png(picture(k)), label)) for k, label in enumerate(labels)]
    (tmp_path / "a.tfrecord").write_bytes(b"".join(frames))
    sizes = np.array([len(f) for f in frames])
    index = np.zeros(len(labels), INDEX_DTYPE)
    index["offset"], index["length"], index["label"] = np.cumsum(sizes) - sizes, sizes - 16, labels
    records = Records(tmp_path, [tmp_path / "a.tfrecord"], index, range(2**40 + 2))

    (batch,) = open_data(records, shuffle=shuffle).batches()

    assert dict(zip(batch.record_idx.tolist(), batch.labels.tolist(), strict=True)) == dict(enumerate(labels))


# ------------------------------------------------------------------------------------------- augmentation


def flips(data, epoch):
    """{image number: is it mirrored} of one epoch; checks that nothing else was done to the images."""
    found = {}
    for batch in data.batches(epoch):
        for image in batch.images:
            expected = picture(number(image))
            np.testing.assert_array_equal(image, expected[:, ::-1] if is_flipped(image) else expected)
            found[number(image)] = is_flipped(image)
    return found


def test_a_flip_depends_on_record_epoch_and_seed_alone(data_dir, small_blocks):
    first = flips(open_data(data_dir, 64, seed=1), 2)

    assert flips(open_data(data_dir, 7, seed=1, num_threads=5), 2) == first
    assert flips(open_data(data_dir, 100, seed=1, shuffle="blocks"), 2) == first


def test_half_of_the_images_are_mirrored_and_every_epoch_and_seed_has_its_own_half(data_dir):
    halves = [flips(open_data(data_dir, seed=seed), epoch) for seed in (0, 1) for epoch in (0, 1)]

    bound = 5 * 0.5 / math.sqrt(NUM_IMAGES)  # five standard deviations of a share
    for i, half in enumerate(halves):
        assert abs(np.mean(list(half.values())) - 0.5) < bound
        for other in halves[:i]:
            assert abs(np.mean([half[k] == other[k] for k in half]) - 0.5) < bound


def test_every_bit_of_the_keys_is_fair():
    keys = record_keys(np.arange(100_000, dtype=np.uint32), seed=3, epoch=9)

    shares = [np.mean((keys >> np.uint64(bit)) & np.uint64(1)) for bit in range(64)]
    assert np.abs(np.array(shares) - 0.5).max() < 0.01
    assert len(np.unique(keys)) == len(keys)


def test_no_augmentation_leaves_the_images_alone(data_dir):
    assert not any(flips(open_data(data_dir, augment=None), 0).values())


@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(color=0.01)])
@pytest.mark.parametrize("flip", [True, False])
def test_a_batch_says_which_of_its_images_are_mirrored(data_dir, flip, config):
    data = open_data(data_dir, augment=make_augment(config, flip))
    for batch in data.batches():
        seen = [image[0, 0, 2] < image[0, -1, 2] for image in batch.images.astype(int)]  # the left half is blue
        assert batch.is_flipped.dtype == bool and batch.is_flipped.tolist() == seen
        assert flip or not any(seen)


def test_random_flip_mirrors_by_the_top_bit():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)

    np.testing.assert_array_equal(random_flip(image, 2**63), image[:, ::-1])
    np.testing.assert_array_equal(random_flip(image, 2**63 - 1), image)


# ------------------------------------------------------------------------------------------------- reading


def test_blocks_are_read_in_sequence(data_dir, monkeypatch, small_blocks):
    sizes = []
    pread = os.pread

    def counted(handle, size, offset):
        sizes.append(size)
        return pread(handle, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    records = open_records(data_dir)
    num_reads = {}
    for shuffle in ("records", "blocks"):
        sizes.clear()
        for _ in open_data(records, shuffle=shuffle).batches():
            pass
        num_reads[shuffle] = len(sizes)

    num_blocks, num_pools = math.ceil(NUM_IMAGES / 16), math.ceil(NUM_IMAGES / 64)
    assert num_reads["records"] == NUM_IMAGES
    # A block may reach over the end of a shard, or of a pool after the short block.
    assert num_blocks <= num_reads["blocks"] <= num_blocks + num_pools + 5


def test_a_pool_is_read_once_however_many_threads_want_it(data_dir, monkeypatch, small_blocks):
    pools = Counter()
    load = dataset._Pools._load

    def counted(self, wanted):
        pools[int(wanted[0])] += 1
        return load(self, wanted)

    monkeypatch.setattr(dataset._Pools, "_load", counted)
    for _ in open_data(data_dir, 100, shuffle="blocks", num_threads=16).batches():
        pass

    assert set(pools.values()) == {1}
    assert len(pools) == math.ceil(NUM_IMAGES / 64)


def test_older_tfrecords_are_read_without_conversion(tmp_path):
    import tensorflow as tf

    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    with tf.io.TFRecordWriter(str(tmp_path / "train.tfrecords")) as writer:
        for k in range(40):
            features = {"image_raw": feature(png(picture(k))), "label": feature(k // 4)}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())

    data = open_data(tmp_path / "train.tfrecords", 16, augment=None)
    found = {number(image): int(label) for b in data.batches() for image, label in zip(b.images, b.labels, strict=True)}
    assert found == {k: k // 4 for k in range(40)}


# ---------------------------------------------------------------------------------------------------- errors


def undecodable_png():
    """A PNG with a right header and end whose pixels are no zlib stream."""
    good = png(picture(7))
    at = good.index(b"IDAT")
    length = int.from_bytes(good[at - 4 : at], "big")
    body = b"IDAT" + b"\xff" * length
    return good[:at] + body + zlib.crc32(body).to_bytes(4, "big") + good[at + 8 + length :]


@both_modes
def test_an_image_that_does_not_decode_is_named(tmp_path, shuffle):
    images = [png(picture(k)) for k in range(20)]
    images[11] = undecodable_png()
    write_rec(tmp_path / "train.rec", face_payloads(images, [k // 2 for k in range(20)]))
    convert(tmp_path / "train.rec", tmp_path / "data", shards=2, image_size=SIZE, progress=False)
    records = open_records(tmp_path / "data")
    bad = next(i for i in range(20) if records.read(i)[0] == images[11])

    with pytest.raises(FaceError, match=r"valid image of.*--skip-bad") as caught:
        list(open_data(tmp_path / "data", shuffle=shuffle).batches())
    shard, place = divmod(bad, 10)
    assert f"train-0000{shard}-of-00002.tfrecord record {place} " in str(caught.value)


def test_an_image_of_another_size_is_named(data_dir):
    with pytest.raises(FaceError, match=r"train-0000\d-of-00005.tfrecord record \d+ .* is 16x16"):
        list(TrainingData(data_dir, 64).batches())


@pytest.mark.parametrize("fit, size", [("crop", (16, 8)), ("resize", (8, 8)), ("resize", (24, 24))])
def test_images_of_another_size_are_cut_or_scaled(data_dir, fit, size):
    data = TrainingData(data_dir, 7, augment=None, image_size=size, fit=fit, num_threads=1)
    whole = TrainingData(data_dir, 7, augment=None, image_size=SIZE, num_threads=1)

    batch, original = next(data.batches()), next(whole.batches())

    np.testing.assert_array_equal(batch.images, fit_faces(original.images, size, fit))
    np.testing.assert_array_equal(batch.labels, original.labels)


def test_a_crop_larger_than_the_images_names_the_record(data_dir):
    data = TrainingData(data_dir, 7, image_size=(32, 32), fit="crop")

    with pytest.raises(FaceError, match=r"record \d+.*needs 32x32 pixels, but the faces have 16x16"):
        next(data.batches())


@pytest.mark.parametrize("options, message", [({"shuffle": "buffer"}, "shuffle='buffer'"), ({"batch_size": 0}, "=0")])
def test_bad_arguments_are_named(data_dir, options, message):
    with pytest.raises(FaceError, match=message):
        TrainingData(data_dir, **{"batch_size": 4, **options})


def test_batches_have_bounds_that_touch(data_dir):
    data = open_data(data_dir, 7)
    bounds = [data.bounds(step) for step in range(data.steps_per_epoch)]

    assert (bounds[0][0], bounds[-1][1]) == (0, NUM_IMAGES)
    assert all(before[1] == after[0] for before, after in pairwise(bounds))


@pytest.mark.parametrize("quality", [50, 80, 95])
@pytest.mark.parametrize("subsampling", [cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444])
def test_pixels_are_those_of_opencv(quality, subsampling):
    face = synthetic_face(0, 1, 2)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, subsampling]
    for suffix in (".jpg", ".png"):
        encoded = cv2.imencode(suffix, face, options if suffix == ".jpg" else [])[1].tobytes()

        decoded = decode_image(encoded, np.empty((112, 112, 3), np.uint8))

        np.testing.assert_array_equal(decoded, cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB))
