"""facelib/cli.py: what `run_cli` does when the terminal is gone."""

import errno
import io
import sys

import pytest

from facelib.cli import run_cli


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
