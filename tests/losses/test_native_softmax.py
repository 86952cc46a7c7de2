"""Ops in C++: compiled once, kept, and done without where they cannot be had."""

import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from facelib.errors import FaceError
from facelib.losses import compile_ops, native_softmax
from facelib.losses.blockwise_softmax import own_and_others

pytestmark = pytest.mark.needs_tool("c++")

SOURCE = Path(native_softmax.__file__).with_name("class_tiles.cc")


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
    compiler = shutil.which("c++")
    monkeypatch.setenv("CXX", script(tmp_path / "c++", f'exec {compiler} "$@"'))
    first = load(monkeypatch)
    script(tmp_path / "c++", f'[ "$1" = --version ] && exec {compiler} --version')  # compiles nothing any more
    assert load(monkeypatch) == first
    assert [file.name for file in (tmp_path / "cache" / "mobilearc").iterdir()] == [Path(first).name]


def test_another_cpu_has_another_library(monkeypatch):
    first = load(monkeypatch)
    monkeypatch.setattr(compile_ops, "_cpu", lambda: b"another")
    assert load(monkeypatch) != first


def test_a_compiler_may_have_arguments(monkeypatch, tmp_path):
    path = script(tmp_path / "my wrapper", '[ "$1" = -x ] && shift && exec "$@"')
    monkeypatch.setenv("CXX", f"'{path}' -x {shutil.which('c++')}")
    assert Path(load(monkeypatch)).is_file()


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(FaceError, match=r"There is no C\+\+ compiler 'no-such-compiler -m64'. Install"):
        load(monkeypatch)


@pytest.mark.parametrize(
    ("does", "message"),
    [
        (
            "echo 'x.cc:1: error: no such thing' >&2; exit 1",
            r"does not compile our C\+\+: x\.cc:1: error: no such",
        ),
        ("printf 'cosa\\nparte \\351 mala\\n' >&2; exit 1", r"does not compile our C\+\+: parte . mala"),
        ("exit 1", r"does not compile our C\+\+: exit code 1"),
        ("exit 0", r"does not compile our C\+\+: exit code 0"),
        ("exec sleep 60", r"has not ended after 1 s"),
    ],
)
def test_what_the_compiler_says_is_told_and_nothing_is_left(monkeypatch, tmp_path, does, message):
    monkeypatch.setenv("CXX", script(tmp_path / "c++", does))
    monkeypatch.setattr(compile_ops, "_PATIENCE", 1)
    with pytest.raises(FaceError, match=message):
        load(monkeypatch)
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_what_is_no_program_is_no_compiler(monkeypatch, tmp_path):
    path = Path(script(tmp_path / "c++", ""))
    path.write_bytes(b"\0\1\2")
    monkeypatch.setenv("CXX", str(path))
    with pytest.raises(FaceError, match="c\\+\\+' cannot be run: Exec format error"):
        load(monkeypatch)


def test_a_user_without_a_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user id that has no entry
    with pytest.raises(FaceError, match=r"home folder.*Set XDG_CACHE_HOME"):
        load(monkeypatch)


@pytest.mark.parametrize("home", ["/proc/nowhere", "/tmp/" + 300 * "x"])
def test_a_cache_that_cannot_be(monkeypatch, home):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    with pytest.raises(FaceError, match=r"Compiled ops are kept in .*Set XDG_CACHE_HOME"):
        load(monkeypatch)


def test_a_library_that_does_not_load_is_named(monkeypatch):
    def refuse(path):
        raise tf.errors.NotFoundError(None, None, "undefined symbol")

    with pytest.raises(FaceError, match=r"does not load '.*class_tiles-.*so': undefined symbol\. Delete it"):
        load(monkeypatch, refuse)


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(FaceError, match="must be a folder to write"):
        load(monkeypatch)


def test_the_head_goes_by_blocks_where_nothing_compiles(monkeypatch, capsys):
    def refuse(source):
        raise FaceError("There is no C++ compiler.")

    native_softmax._ops.cache_clear()
    monkeypatch.setattr(native_softmax, "load_ops", refuse)
    monkeypatch.setattr(native_softmax, "_FEWEST", 0)
    rng = np.random.default_rng(0)
    for _ in range(2):
        found = own_and_others(
            tf.eye(2, 16), tf.constant(rng.standard_normal((5, 16)), "float32"), tf.range(2, dtype=tf.int64), 9.0, 5
        )
    native_softmax._ops.cache_clear()

    assert np.isfinite(found).all()
    said = capsys.readouterr().err
    assert said.count("note: ") == 1 and "There is no C++ compiler." in said
