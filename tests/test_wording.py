"""Text that people read: counts, names that no terminal obeys, commands to copy."""

import io
import shlex
import sys

import pytest

from facelib.cli import print_notes, run_cli
from facelib.errors import FaceError
from facelib.wording import command, counted, printable

HOSTILE = "a\x1b[2Jb\nc\rd\x07\x9b\u202ee\udce9"
ESCAPED = r"a\x1b[2Jb\nc\rd\x07\x9b\u202ee\udce9"


def test_one_is_singular():
    assert (counted(0, "image"), counted(1, "image"), counted(1200, "image")) == ("0 images", "1 image", "1,200 images")
    assert (counted(1, "identity", "identities"), counted(2, "identity", "identities")) == (
        "1 identity",
        "2 identities",
    )


def test_control_characters_are_escaped_and_letters_are_not():
    assert printable(HOSTILE) == ESCAPED
    assert printable("张三 José ½") == "张三 José ½"


def test_a_command_can_be_copied():
    words = ["python", "train.py", "my faces/it's", "$(x)"]
    assert shlex.split(command(*words)) == words


@pytest.mark.parametrize("ending", ["print", "error", "note"])
def test_no_printed_name_moves_the_cursor(monkeypatch, ending):
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    def main():
        if ending == "error":
            raise FaceError(f"Bad: {HOSTILE}")
        if ending == "note":
            print_notes([HOSTILE])
        else:
            print(HOSTILE, "\ttab")
        return 0

    with pytest.raises(SystemExit):
        run_cli(main)
    said = out.getvalue() + err.getvalue()
    assert "[2J" in said and not set(said) & set("\x1b\r\x07\x9b\u202e\udce9") and said.count("\n") <= 2
