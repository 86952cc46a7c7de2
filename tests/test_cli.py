"""facelib/cli.py: what `run_cli` does when the terminal or the current folder is gone."""

import errno
import io
import sys
from pathlib import Path

import pytest

from facelib.alignment.align_folders import align_folders
from facelib.cli import add_set_flag, run_cli, script_parser
from facelib.data.synthetic.files import SyntheticSet, write_folders
from facelib.files import write_bytes
from facelib.script_start import guard_start

ROOT = Path(__file__).parents[1]


class _DeadTerminal(io.StringIO):
    def write(self, text=""):
        raise OSError(errno.EIO, "Input/output error")

    flush = write


@pytest.mark.parametrize("stream", [None, _DeadTerminal()])
def test_a_terminal_that_is_gone_silences_the_output_only(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    done = []

    def main():
        print("one line")
        print("one line", file=sys.stderr)
        sys.stderr.flush()
        done.append(True)
        return 0

    with pytest.raises(SystemExit) as end:
        run_cli(main)

    assert (end.value.code, done) == (0, [True])


@pytest.fixture
def removed_folder(tmp_path, monkeypatch):
    """The current folder, which is gone."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()


@pytest.mark.parametrize(
    "work",
    [
        lambda: Path.cwd(),
        lambda: Path("out").resolve(),
        lambda: write_bytes(Path("folder/file"), b"1"),
        lambda: align_folders(ROOT / "docs", Path("out"), rule="largest", workers=1, progress=False),
        lambda: write_folders(Path("out"), SyntheticSet(1, 1)),
    ],
)
def test_a_removed_current_folder_is_one_line(removed_folder, capsys, work):
    with pytest.raises(SystemExit) as end:
        run_cli(work)

    assert end.value.code == 1
    assert capsys.readouterr().err == "error: The current folder was removed. Go to an existing folder: cd FOLDER.\n"


def test_facelib_can_be_imported_in_a_removed_folder(removed_folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["-c"])
    guard_start()


def test_a_file_that_is_not_there_keeps_its_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        run_cli((tmp_path / "nowhere").read_bytes)


def test_a_link_to_itself_is_one_line(tmp_path, capsys):
    (tmp_path / "self").symlink_to("self")
    with pytest.raises(SystemExit):
        run_cli((tmp_path / "self").resolve)

    assert capsys.readouterr().err.startswith("error: A link leads back to itself")


@pytest.mark.parametrize(
    ("words", "sets", "recipe"),
    [
        ("r.toml --set a=1 b.c=2 --out x", ["a=1", "b.c=2"], "r.toml"),
        ("--set a=1 b.c=2 --set d=3 e=[4] r.toml", ["a=1", "b.c=2", "d=3", "e=[4]"], "r.toml"),
        ("--set=a=1 --set a r.toml", ["a=1", "a"], "r.toml"),
        ("--set a=1 dir/with=in.toml", ["a=1"], "dir/with=in.toml"),
        ("r.toml", [], "r.toml"),
    ],
)
def test_several_settings_may_follow_one_set(words, sets, recipe):
    parser = script_parser("")
    parser.add_argument("recipe")
    parser.add_argument("--out")
    add_set_flag(parser, "a=1")

    args = parser.parse_args(words.split())

    assert (args.set, args.recipe) == (sets, recipe)
