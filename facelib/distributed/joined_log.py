"""Joins the output of several processes to one log, line by line (launch.py)."""

import os
import sys
import threading

_WRITING = threading.Lock()  # keeps the lines of two processes apart
_is_mid_line: dict[int, bool] = {}  # by file descriptor
_MOST_BYTES_A_LINE = 65_536


def copy_lines(source, target: int, prefix: bytes) -> None:
    """Copies the output of a process until it ends.

    Args:
        source: file object of a pipe.
        target: file descriptor.
        prefix: of each line; with b"" bytes are copied as they are, so a progress bar works.
    """
    rest = b""
    while data := os.read(source.fileno(), 65_536):
        lines, rest = cut_lines(rest + data) if prefix else cut_whole(rest + data)
        _write_all(target, b"".join(prefix + line for line in lines))
    if prefix and rest.strip(b"\r"):
        rest = prefix + cut_lines(rest + b"\n")[0][0]
    _write_all(target, rest)


def cut_lines(data: bytes) -> tuple[list[bytes], bytes]:
    """(complete lines, the beginning of the next). Of a progress bar, which overwrites its line, the last state."""
    *lines, rest = data.split(b"\n")
    lines = [line.rstrip(b"\r").rpartition(b"\r")[2] + b"\n" for line in lines]
    body = rest.rstrip(b"\r")
    rest = body.rpartition(b"\r")[2] + rest[len(body) :][:1]
    if len(rest) > _MOST_BYTES_A_LINE:
        lines, rest = [*lines, rest + b"\n"], b""
    return lines, rest


def cut_whole(data: bytes) -> tuple[list[bytes], bytes]:
    """([everything up to the last line end], the beginning of the next line)."""
    end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    if len(data) - end > _MOST_BYTES_A_LINE:
        end = len(data)
    return [data[:end]], data[end:]


def say(line: str) -> None:
    """Writes a line to the standard error; on a new line if a progress bar is open."""
    with _WRITING:
        print("\n" * _is_mid_line.get(2, False) + line, file=sys.stderr, flush=True)
        _is_mid_line[2] = False


def _write_all(target: int, data: bytes) -> None:
    with _WRITING:
        _is_mid_line[target] = not data.endswith(b"\n") if data else _is_mid_line.get(target, False)
        try:
            while data:
                data = data[os.write(target, data) :]
        except OSError:  # nobody reads our output any more; the pipe of the worker must still be emptied
            return
