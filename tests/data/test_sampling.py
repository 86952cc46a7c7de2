"""The PK sampler's order, by its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset import TrainingData
from facelib.data.conversion.job import convert
from facelib.data.sampling import pk_order
from facelib.data.synthetic.files import SyntheticSet, write_folders
from facelib.errors import FaceError


@st.composite
def cases(draw):
    counts = draw(st.lists(st.integers(1, 9), min_size=2, max_size=12))
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.repeat(np.arange(len(counts)), counts))
    num_images = draw(st.integers(2, 5))
    return labels, num_images * draw(st.integers(2, 6)) + draw(st.integers(0, 1)), num_images, draw(st.integers(0, 5))


@given(cases())
@settings(max_examples=80, deadline=None)
def test_every_batch_has_k_images_of_each_of_p_identities_and_all_take_turns(case):
    labels, batch_size, k, epoch = case
    counts = np.bincount(labels)
    p = min(batch_size // k, len(counts))

    order = pk_order(labels, batch_size, k, 7, epoch)

    assert order.dtype == np.uint32
    batches = order.reshape(-1, p, k)
    assert len(batches) == -(-len(labels) // (p * k))
    for batch in batches:
        identities = labels[batch]
        assert (identities == identities[:, :1]).all()
        assert len(set(identities[:, 0])) == p
        for images, identity in zip(batch, identities[:, 0], strict=True):
            assert len(set(images)) == min(k, counts[identity])
    for identity in np.unique(labels[order]):  # a cycle through its images: none comes again before all have come
        seen = order[labels[order] == identity]
        uses = np.bincount(seen, minlength=len(labels))[labels == identity]
        assert uses.max() - uses.min() <= 1
    a_pass = len(counts) // p
    for first in range(0, len(batches) - a_pass + 1, a_pass):
        identities = labels[batches[first : first + a_pass, :, 0]].ravel()
        assert len(set(identities)) == len(identities)


def test_the_order_is_of_seed_and_epoch_alone():
    labels = np.repeat(np.arange(6), 5)
    orders = [pk_order(labels, 8, 2, seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]

    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]


@pytest.mark.parametrize("labels, batch_size, k", [([0, 0, 0], 8, 2), ([0, 1, 2], 5, 4)])
def test_a_batch_without_two_identities_is_refused(labels, batch_size, k):
    with pytest.raises(FaceError, match="must hold at least two identities"):
        pk_order(np.array(labels), batch_size, k, 0, 0)


def test_training_data_gives_such_batches_and_resumes_in_them(tmp_path):
    write_folders(tmp_path / "faces", SyntheticSet(5, 4))
    convert(tmp_path / "faces", tmp_path / "data")
    plain = TrainingData(tmp_path / "data", 6, shuffle="blocks")

    data = plain.balanced(2)

    whole = list(data.batches(epoch=1))
    assert (len(data), data.steps_per_epoch, len(whole)) == (24, 4, 4)
    for batch in whole:
        assert sorted(np.unique(batch.labels, return_counts=True)[1]) == [2, 2, 2]
        assert (plain.records.labels[batch.record_idx] == batch.labels).all()
    for one, other in zip(whole[2:], data.batches(epoch=1, start_step=2), strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.keys, other.keys)
    assert (plain.shuffle, len(plain)) == ("blocks", 20)
