"""Ways to end a training early without losing anything: SIGTERM, Ctrl-C, and `n` + Enter."""

import os
import select
import signal
import sys


def exit_code(stopped_by: str | None) -> int:
    """Of a training that a signal has stopped, as a shell has it: with 0 a scheduler would take it for complete."""
    return 128 + signal.Signals[stopped_by] if stopped_by in signal.Signals.__members__ else 0


class StopRequests:
    """Used as a context: while it lasts, SIGTERM and SIGINT ask for a stop instead of killing the process.

    `now` becomes the signal's name at the first signal; a second Ctrl-C interrupts at once. `after_epoch` becomes True
    when the user has typed `n` and Enter. Both are polled by the training loop between steps.
    """

    def __init__(self):
        self.now: str | None = None
        self._after_epoch = False

    def __enter__(self):
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exc):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        if self.now and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.now = signal.Signals(number).name

    @property
    def after_epoch(self) -> bool:
        """Whether `n` + Enter was typed; reads the terminal, or a pipe, without waiting."""
        try:
            while not self._after_epoch and _may_read() and select.select([sys.stdin], [], [], 0)[0]:
                line = sys.stdin.readline()
                if not line:
                    break  # end of file, not a wish
                self._after_epoch = line.strip().lower() == "n"
        except (OSError, ValueError):  # no terminal at all, as under nohup
            return False
        return self._after_epoch


def _may_read() -> bool:
    """A background job that reads its terminal is stopped by the shell."""
    if sys.stdin is None:
        return False
    return not sys.stdin.isatty() or os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
