"""The corpus is read, its changes are the same each time, and a few changed inputs of every format end in one line."""

import pickle
import time

import pytest

from tests.fuzz.formats import FORMATS, IN_PROCESS
from tests.fuzz.run import draw_input, minimise
from tests.fuzz.seeds import read_tree, write_seeds
from tests.fuzz.worker import Outcome, open_input


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """{format: {name: input}}."""
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    write_seeds(folder)
    return {
        one.name: {seed.name: read_tree(seed) for seed in one.iterdir() if seed.is_dir()} for one in folder.iterdir()
    }


@pytest.mark.parametrize("name", IN_PROCESS)
def test_the_corpus_is_read_and_changes_of_it_are_read_or_refused(seeds, name, tmp_path):
    read = FORMATS[name].read
    for tree in seeds[name].values():
        assert open_input(name, tree, tmp_path / "input", read) == Outcome("read")
    for number in range(12):
        outcome = open_input(name, draw_input(name, seeds[name], 5, number), tmp_path / "input", read)
        assert not outcome.is_failure, f"input {number}: {outcome.kind}\n{outcome.text}"


@pytest.mark.parametrize("name", IN_PROCESS)
def test_an_input_is_the_same_each_time_and_most_are_changed(seeds, name):
    inputs = [draw_input(name, seeds[name], 1, number) for number in range(20)]

    assert inputs == [draw_input(name, seeds[name], 1, number) for number in range(20)]
    assert sum(tree not in seeds[name].values() for tree in inputs) >= 12


def _fail(error):
    def read(folder):
        raise error

    return read


@pytest.mark.parametrize("error", [KeyError("x"), MemoryError(), RecursionError(), SystemExit(0)])
def test_what_is_no_error_of_ours_is_a_failure(tmp_path, error):
    outcome = open_input("bin", {"x.bin": b""}, tmp_path / "input", _fail(error))

    assert outcome.is_failure
    assert outcome.kind.startswith(f"bin: {type(error).__name__}")


def test_an_input_that_takes_too_long_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.fuzz.worker.SECONDS", 0.01)

    assert open_input("bin", {}, tmp_path / "input", lambda folder: time.sleep(0.02)).is_failure


def test_a_found_input_is_made_smaller():
    def open_it(tree):
        return Outcome("bin: KeyError" if b"bad" in tree["x.bin"] else "read")

    tree = {"x.bin": b"many bytes, bad, and more bytes", "other": b"changed"}
    smaller = minimise(tree, open_it, "bin: KeyError", {"plain": {"x.bin": b"seed", "other": b"as it was"}}, 100)

    assert smaller == {"x.bin": b"bad", "other": b"as it was"}


def test_a_change_never_runs_the_pickle_that_it_changes(seeds, tmp_path):
    class Code:
        def __reduce__(self):
            return (tmp_path / "ran").write_text, ("x",)

    tree = {"x.bin": pickle.dumps(Code())}
    for number in range(50):
        draw_input("bin", {"code": tree}, 0, number)
    assert not (tmp_path / "ran").exists()
