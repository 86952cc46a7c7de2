"""The arithmetic of benchmarks/bench_growth.py against docs/scaling.md, and what its flags refuse."""

import pytest

from benchmarks import bench_growth as bench
from benchmarks.head_step import image_side
from facelib.errors import FaceError


def test_one_worker_sends_nothing():
    assert bench.planned_bytes(1, 128, 128, 1_000_000, is_sampled=True) == 0


def test_what_is_sent_is_the_sum_of_the_rings():
    batch, size, parameters = 8192, 512, 65_000_000
    gathered = 16_777_216 + 2 * 65_536  # embeddings; labels, twice
    summed = 16_777_216 + 4 * 32_768 + 260_000_000

    sent = bench.planned_bytes(64, batch, size, parameters, is_sampled=True)

    assert sent == 63 / 64 * (gathered + 2 * summed)
    assert round(sent / 1e6) == 562  # the example of docs/scaling.md


def test_the_dense_layer_has_about_as_many_parameters_as_asked_for():
    assert 3 * 128 * image_side(1_000_000, 128) ** 2 == pytest.approx(1_000_000, rel=0.02)


@pytest.mark.parametrize("flag", ["--steps=0", "--rate=1", "--workers=0", "--workers=200", "--classes=3"])
def test_what_cannot_be_measured_is_refused(flag):
    with pytest.raises(FaceError, match=r"Received|at least one"):
        bench.parse_args([flag])
