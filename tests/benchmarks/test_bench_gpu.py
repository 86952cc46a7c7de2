"""The rows and the table of benchmarks/bench_gpu.py, and what it says of a row that fails."""

import subprocess
from types import SimpleNamespace

import pytest

from benchmarks import bench_gpu as bench
from benchmarks.bench_gpu import Row, Speeds
from facelib.errors import FaceError

ROW = Row(2, "mobilefacenet", 85_742, "mixed_float16", "none", "none", 128)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_a_cell_for_each_head():
    heads, rule = bench.head().split("\n")

    assert cells(heads) == list(bench.HEADS) and cells(rule) == ["---"] * len(bench.HEADS)
    for found in (Speeds(1000.0, 990.0, 20.4, 2_340_000_000), "out of memory"):
        assert len(cells(bench.line(ROW, found))) == len(bench.HEADS)


@pytest.mark.parametrize(("whole", "bound"), [(12_345.6, "no"), (11_700.0, "yes")])
def test_a_row_is_input_bound_if_the_input_takes_a_twentieth(whole, bound):
    line = bench.line(ROW, Speeds(12_345.6, whole, 20.4, 2_340_000_000))

    what = ["2", "mobilefacenet", "85,742", "mixed_float16", "none", "none", "128"]
    assert cells(line) == [*what, "12,346", f"{whole:,.0f}", bound, "20", "2.3"]


def test_on_one_gpu_every_combination_is_measured_and_on_more_those_without_xla():
    one, four = ([row for row in bench.all_rows(6, 128) if row.workers == count] for count in (1, 4))

    assert {row.workers for row in bench.all_rows(6, 128)} == {1, 2, 4, 6}
    assert (
        len({(r.backbone, r.identities, r.precision, r.compile) for r in one if r.augment == "none"}) == 3 * 2 * 2 * 2
    )
    assert {row.compile for row in four} == {"none"} and len(set(four)) == len(four) == 3 * 2 * 2 + 1


def test_a_small_run_has_each_value_once():
    rows = bench.small_rows(gpus=0)

    assert {row.backbone for row in rows} == set(bench.EMBEDDING_SIZE)
    assert {row.compile for row in rows} == {"none", "xla"} and {row.workers for row in rows} == {1, 2}
    assert {row.precision for row in rows} == {"float32", "mixed_float16"}
    assert {row.workers for row in bench.small_rows(gpus=1)} == {1}


@pytest.mark.parametrize(("code", "output", "said"), [
    (1, "Traceback\ntensorflow...ResourceExhaustedError: OOM when allocating tensor", "out of memory"),
    (-9, "", "out of memory"), (137, "error: Worker 1 was killed by SIGKILL", "out of memory"),
    (1, "first\nerror: a | b\n\n", "failed (1): error: a / b"),
])  # fmt: skip
def test_a_row_that_fails_says_why(code, output, said, monkeypatch, tmp_path):
    ran = []

    def fail(words, **_):
        ran.append(words)
        return SimpleNamespace(returncode=code, stdout="", stderr=output)

    monkeypatch.setattr(bench.subprocess, "run", fail)

    assert bench.run(ROW, tmp_path, 3) == said
    assert ran[0][1].endswith("launch.py") and ran[0][2:4] == ["-n", "2"]


def test_a_row_without_an_end_is_given_up(monkeypatch, tmp_path):
    def hang(words, timeout, **_):
        raise subprocess.TimeoutExpired(words, timeout)

    monkeypatch.setattr(bench.subprocess, "run", hang)

    assert bench.run(ROW, tmp_path, 3) == "not finished after 30 minutes"


def test_the_speeds_are_read_from_what_worker_0_prints(monkeypatch, tmp_path):
    printed = 'note\n[worker 1] note\nRESULT {"alone": 2.0, "whole": 1.0, "first_seconds": 9.0, "memory": 5}\n'
    done = SimpleNamespace(returncode=0, stdout=printed, stderr="")
    monkeypatch.setattr(bench.subprocess, "run", lambda *_, **__: done)

    assert bench.run(ROW, tmp_path, 3) == Speeds(2.0, 1.0, 9.0, 5)


@pytest.mark.parametrize("flag", ["--steps=0", "--batch-size=1"])
def test_what_cannot_be_measured_is_refused(flag):
    with pytest.raises(FaceError, match="at least"):
        bench.parse_args([flag])
