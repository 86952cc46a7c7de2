"""Child processes that end with their parent."""

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def ends_with_parent() -> Callable[[], None] | None:
    """A `preexec_fn` for subprocess: the kernel kills the child when this process ends in any way, kill -9 too.

    Call it in the thread that starts the child and waits for it: the end of that thread counts. It does nothing on
    systems other than Linux.
    """
    if os.name != "posix":
        return None
    prctl, parent = getattr(ctypes.CDLL(None), "prctl", None), os.getpid()

    def before_exec() -> None:
        if prctl is None:
            return
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent was killed before the line above
            os._exit(128 + signal.SIGKILL)

    return before_exec
