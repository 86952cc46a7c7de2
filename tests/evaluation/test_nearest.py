"""Brute-force search: NumPy and faiss against a float64 sort of the stored rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelib.errors import FaceError
from facelib.evaluation import nearest
from facelib.evaluation.nearest import Nearest


def unit_rows(rng, count, size):
    rows = rng.standard_normal((count, size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def truth(vectors, query, top):
    """(rows, cosines) in float64; equal cosines by row."""
    cosines = vectors.astype(np.float64) @ query.astype(np.float64)
    rows = np.lexsort((np.arange(len(cosines)), -cosines))[:top]
    return rows, cosines[rows]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 200), size=st.integers(1, 40), top=st.integers(1, 10))
def test_numpy_finds_what_a_float64_sort_finds(seed, count, size, top):
    rng = np.random.default_rng(seed)
    vectors, query = unit_rows(rng, count, size).astype(np.float16), unit_rows(rng, 1, size)[0].astype(np.float32)

    found = Nearest(vectors, large=1000)(query, top)

    _, cosines = truth(vectors, query, top)
    assert len(found.rows) == min(top, count)
    np.testing.assert_allclose(found.cosines, cosines, atol=1e-6)
    np.testing.assert_allclose(truth(vectors[found.rows], query, top)[1], cosines, atol=1e-6)


def test_faiss_finds_the_same_rows_as_a_float64_sort_on_every_query():
    rng = np.random.default_rng(1)
    vectors = unit_rows(rng, 20_000, 128).astype(np.float16)
    near = vectors[:20].astype(np.float64) + 0.05 * rng.standard_normal((20, 128))
    queries = np.concatenate([near / np.linalg.norm(near, axis=1, keepdims=True), unit_rows(rng, 20, 128)])
    search = Nearest(vectors, large=1)

    exact = vectors.astype(np.float64) @ queries.astype(np.float32).astype(np.float64).T

    for query, cosines in zip(queries.astype(np.float32), exact.T, strict=True):
        found, rows = search(query, 5), np.argsort(-cosines)[:6]
        np.testing.assert_allclose(found.cosines, cosines[rows[:5]], atol=1e-6)
        if np.diff(cosines[rows]).max() < -1e-6:  # else two rows tie within float32
            assert found.rows.tolist() == rows[:5].tolist()


def test_a_large_gallery_is_scanned_in_a_byte_a_value_and_few_rows_are_compared(monkeypatch):
    rng = np.random.default_rng(4)
    vectors = unit_rows(rng, 20_000, 128).astype(np.float16)
    search, counts = Nearest(vectors, large=1), []
    scan = nearest._EightBit.__call__
    monkeypatch.setattr(
        nearest._EightBit, "__call__", lambda self, query, count: counts.append(count) or scan(self, query, count)
    )

    for query in unit_rows(rng, 10, 128).astype(np.float32):
        assert search(query, 1).rows.tolist() == truth(vectors, query, 1)[0].tolist()

    codes = sum(shard.codes.size() for shard in search._copies._shards)
    assert codes == vectors.astype(np.float32).nbytes // 4
    assert counts == [nearest.CANDIDATES] * 10


def test_rows_that_8_bits_do_not_tell_apart_are_told_apart(monkeypatch):
    monkeypatch.setattr(nearest, "CANDIDATES", 4)
    rng = np.random.default_rng(5)
    centre = unit_rows(rng, 1, 32)
    close = centre + 1e-3 * rng.standard_normal((500, 32))
    vectors = np.concatenate([close, unit_rows(rng, 2000, 32)]).astype(np.float16)
    query = centre[0].astype(np.float32)

    found = Nearest(vectors, large=1)(query, 3)

    np.testing.assert_allclose(found.cosines, truth(vectors, query, 3)[1], atol=1e-6)
    np.testing.assert_allclose(truth(vectors[found.rows], query, 3)[1], found.cosines, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 300), size=st.integers(1, 70), top=st.integers(1, 10))
def test_the_bound_of_rows_that_are_no_candidates_holds(seed, count, size, top):
    rng = np.random.default_rng(seed)
    vectors, query = unit_rows(rng, count, size).astype(np.float16), unit_rows(rng, 1, size)[0].astype(np.float32)
    top = min(top, count)

    candidates, bound = nearest._EightBit(vectors)(query, top)

    assert len(set(candidates.tolist())) == top
    others = np.setdiff1d(np.arange(count), candidates)
    assert not len(others) or (vectors[others].astype(np.float64) @ query).max() <= bound


@pytest.mark.parametrize("large", [1, 1000])
def test_a_search_on_a_memory_map_reads_the_file_as_it_is(tmp_path, large):
    vectors = unit_rows(np.random.default_rng(2), 50, 8).astype(np.float16)
    np.save(tmp_path / "g.npy", vectors)

    found = Nearest(np.load(tmp_path / "g.npy", mmap_mode="r"), large)(vectors[7].astype(np.float32), 99)

    assert found.rows[0] == 7 and sorted(found.rows.tolist()) == list(range(50))


def test_equal_rows_come_in_their_order():
    vectors = np.array([[0, 1], [1, 0], [0, 1], [0, 1]], np.float16)

    assert Nearest(vectors)(np.array([0, 1], np.float32), 4).rows.tolist() == [0, 2, 3, 1]


@pytest.mark.parametrize("query", [np.ones(3, np.float32), np.ones((1, 4), np.float32), np.full(4, np.nan, np.float32)])
def test_a_query_of_another_size_or_with_nan_is_refused(query):
    with pytest.raises(FaceError, match="4 finite numbers"):
        Nearest(np.eye(4, dtype=np.float16))(query, 1)


@pytest.mark.parametrize("block", [7, 1000])
def test_many_probes_find_what_a_float64_sort_finds_in_any_blocks(monkeypatch, block):
    monkeypatch.setattr(nearest, "BLOCK_ROWS", block)
    rng = np.random.default_rng(3)
    gallery, probes = 5 * unit_rows(rng, 60, 8), 0.1 * unit_rows(rng, 30, 8)

    found = nearest.search_rows(gallery.astype(np.float32), probes.astype(np.float32), 4)

    cosines = (probes / 0.1) @ (gallery / 5).T
    np.testing.assert_array_equal(found.rows, np.argsort(-cosines, axis=1)[:, :4])
    np.testing.assert_allclose(found.cosines, -np.sort(-cosines, axis=1)[:, :4], atol=1e-6)


def test_a_small_gallery_gives_all_its_rows():
    assert nearest.search_rows(np.eye(3, dtype=np.float32), np.ones((2, 3), np.float32), 9).rows.shape == (2, 3)
