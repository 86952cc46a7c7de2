"""How a user stops a training early without losing anything: SIGTERM, SIGHUP, Ctrl-C, or `n` + Enter."""

import os
import select
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facelib.distributed.workers import Workers

AFTER_EPOCH = "n + Enter"


def exit_code(stopped_by: str | None) -> int:
    """The exit code of a training: 128 + the number of the signal that stopped it, as in a shell, else 0.

    A scheduler mistakes a stopped run with exit code 0 for a completed one.
    """
    if stopped_by is None or stopped_by not in signal.Signals.__members__:
        return 0
    return 128 + signal.Signals[stopped_by]


class StopRequests:
    """A context in which SIGTERM, SIGHUP and SIGINT ask for a stop instead of killing the process.

    The training loop reads `now` and `after_epoch` between steps. A second Ctrl-C interrupts at once. SIGHUP, which a
    terminal sends when it closes, counts as SIGTERM; where it is ignored, as under nohup, it stays ignored.

    Attributes:
        now: 'SIGTERM' or 'SIGINT', by the first signal; or None.
    """

    def __init__(self) -> None:
        self.now: str | None = None
        self._after_epoch = False
        self._typed = b""  # the line that is not complete yet

    def __enter__(self):
        handled = [signal.SIGTERM, signal.SIGINT]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            handled.append(signal.SIGHUP)
        self._previous = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, *exc):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        if self.now and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.now = "SIGINT" if number == signal.SIGINT else "SIGTERM"

    @property
    def after_epoch(self) -> bool:
        """Whether the user typed `n` and Enter; reads the terminal, or a pipe, without waiting."""
        try:
            while not self._after_epoch and _may_read() and select.select([sys.stdin], [], [], 0)[0]:
                # Not readline: it buffers the lines after the first, and select no longer sees them.
                text = os.read(sys.stdin.fileno(), 4096)
                if not text:
                    break  # end of file
                *lines, self._typed = (self._typed + text).split(b"\n")
                self._after_epoch = any(line.strip().lower() == b"n" for line in lines)
        except (OSError, ValueError):  # no terminal at all, as under nohup
            return False
        return self._after_epoch


def agree_on_stop(requests: StopRequests, workers: "Workers", is_epoch_end: bool) -> str | None:
    """What stops the training after this step, the same on every worker: all must call this together.

    Args:
        requests: those of this worker.
        workers: all processes of the training.
        is_epoch_end: whether an epoch has just ended; `n` + Enter counts only then, on worker 0.

    Returns:
        'SIGTERM', 'SIGINT' or 'n + Enter'; None to go on.
    """
    after_epoch = AFTER_EPOCH if is_epoch_end and workers.is_chief and requests.after_epoch else None
    mine = requests.now or after_epoch
    if not workers.any(mine is not None):
        return None
    return next(why for why in ("SIGTERM", "SIGINT", AFTER_EPOCH) if workers.any(mine == why))


def _may_read() -> bool:
    """Whether this process may read its standard input: a shell stops a background job that reads its terminal."""
    if sys.stdin is None:
        return False
    return not sys.stdin.isatty() or not hasattr(os, "tcgetpgrp") or os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
