"""What is shared by the readers of pickles of strangers: a pickle is a program, so its opcodes are checked first.

Each reader has its own list of opcodes and its own names; every name becomes a stand-in that checks its arguments, and
nothing that the pickle names is ever called.
"""

import itertools
import pickle
import pickletools
from typing import IO

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


class RefusedPickleError(pickle.UnpicklingError):
    """The pickle asks for something that its kind of file does not need."""


class StandIn:
    """The callable that a pickle gets instead of the real one. It has no state, so BUILD cannot change it."""

    __slots__ = ("_call",)

    def __init__(self, call):
        self._call = call

    def __call__(self, *args):
        return self._call(*args)

    def __setstate__(self, state):
        raise RefusedPickleError("BUILD on a name")


def check_opcodes(stream: IO[bytes], allowed: frozenset[str]) -> None:
    """Reads one pickle to its end without running it.

    Args:
        stream: at the start of the pickle; afterwards at its end.
        allowed: names of opcodes.

    Raises:
        RefusedPickleError: another opcode, or a place of the memo that is out of order.
        Exception: of nearly any kind, on damaged data; the caller turns them into one message.
    """
    frame_end = 0
    for count in itertools.count():
        # The C unpickler drops what is left of a frame and takes the length of an object from the bytes after it.
        if stream.tell() > frame_end > 0:
            raise pickle.UnpicklingError("an object extends past the end of its frame")
        frame_end = frame_end if stream.tell() < frame_end else 0
        code = stream.read(1)
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise pickle.UnpicklingError(f"no opcode at byte {stream.tell() - len(code)}")
        if opcode.name not in allowed:
            raise RefusedPickleError(f"opcode {opcode.name}")
        if opcode.name == "STOP":
            return
        if opcode.name == "STRING":  # pickletools refuses what Python 2 writes: escapes of bytes that are not ASCII
            stream.readline()
            continue
        argument = opcode.arg.reader(stream) if opcode.arg else None  # type: ignore[attr-defined]
        if opcode.name == "FRAME":
            if frame_end:
                raise pickle.UnpicklingError("a frame begins inside another frame")
            frame_end = stream.tell() + int(argument or 0)
        # The C unpickler sizes its memo by the index it is told: honest writers number objects in order.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument is None or int(argument) > count):
            raise RefusedPickleError(f"memo index {argument}")
