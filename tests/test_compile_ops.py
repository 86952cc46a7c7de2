"""Ops in C++: compiled once, kept, and done without where they cannot be had."""

import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from facelib import class_tiles, compile_ops
from facelib.class_blocks import own_and_others
from facelib.cli import FaceError

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")

SOURCE = Path(class_tiles.__file__).with_suffix(".cc")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def load(monkeypatch, library=lambda path: path):
    """`load_ops` of this process as if it were new; TensorFlow takes ops of the same name but once."""
    monkeypatch.setattr(tf, "load_op_library", library)
    return compile_ops.load_ops.__wrapped__(SOURCE)


def test_a_library_is_compiled_once(monkeypatch, tmp_path):
    first = load(monkeypatch)
    monkeypatch.setenv("CXX", script(tmp_path / "c++", f'[ "$1" = --version ] && exec {shutil.which("c++")} --version'))
    assert load(monkeypatch) == first
    assert [file.name for file in (tmp_path / "cache" / "mobilearc").iterdir()] == [Path(first).name]


def test_another_cpu_has_another_library(monkeypatch):
    first = load(monkeypatch)
    monkeypatch.setattr(compile_ops, "_cpu", lambda: b"another")
    assert load(monkeypatch) != first


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(FaceError, match=r"There is no C\+\+ compiler 'no-such-compiler'. Install"):
        load(monkeypatch)


def test_what_the_compiler_says_is_told_and_nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", script(tmp_path / "c++", "echo 'x.cc:1: error: no such thing' >&2; exit 1"))
    with pytest.raises(FaceError, match=r"does not compile class_tiles\.cc: x\.cc:1: error: no such thing"):
        load(monkeypatch)
    assert not list((tmp_path / "cache" / "mobilearc").iterdir())


def test_a_library_that_does_not_load_is_named(monkeypatch):
    def refuse(path):
        raise tf.errors.NotFoundError(None, None, "undefined symbol")

    with pytest.raises(FaceError, match=r"does not load '.*class_tiles-.*so': undefined symbol\. Delete it"):
        load(monkeypatch, refuse)


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(FaceError, match=r"must be a folder to write 'class_tiles-.*\.so' into"):
        load(monkeypatch)


def test_the_head_goes_by_blocks_where_nothing_compiles(monkeypatch, capsys):
    def refuse(source):
        raise FaceError("There is no C++ compiler.")

    class_tiles._ops.cache_clear()
    monkeypatch.setattr(class_tiles, "load_ops", refuse)
    monkeypatch.setattr(class_tiles, "_FEWEST", 0)
    rng = np.random.default_rng(0)
    for _ in range(2):
        found = own_and_others(
            tf.eye(2, 16), tf.constant(rng.standard_normal((5, 16)), "float32"), tf.range(2, dtype=tf.int64), 9.0, 5
        )
    class_tiles._ops.cache_clear()

    assert np.isfinite(found).all()
    said = capsys.readouterr().err
    assert said.count("note: ") == 1 and "There is no C++ compiler." in said
