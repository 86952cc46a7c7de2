"""The first moments of a script: Ctrl-C ends it without a traceback, and its files 0, 1 and 2 are open.

`import facelib` calls `guard_start`, and every script imports facelib first. Python raises KeyboardInterrupt wherever
it is; in the imports of NumPy or TensorFlow it becomes another error, or is lost. So Ctrl-C ends the process at once
until `main` runs, and while it imports something.
"""

import _signal  # type: ignore[import-not-found]  # `signal` imports enum: 10 ms in which Ctrl-C is a traceback
import os
import sys

_FOLDERS = (
    "",
    "tools",
    "om",
    "k210",
    "mcu",
    "ncnn",
    "rknn",
    "coreml",
    "esp",
    "arm",
    "board",
    os.path.join("docs", "demo"),
)  # of the scripts, in a checkout or in `mobilearc`
_main_runs = False


def guard_start() -> None:
    """Takes over Ctrl-C, and opens /dev/null for what was closed (`>&-`); in a script of the project only.

    A file that is opened later would else get the number 1 or 2, and what C++ libraries print would go into it.
    """
    if not _is_script():
        return
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # not ignored, as in the background
        is_child = "--multiprocessing-fork" in sys.orig_argv  # Ctrl-C is for the command, which then ends its children
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN if is_child else _on_ctrl_c)
    if hasattr(_signal, "pthread_sigmask"):  # `hold_ctrl_c` of the process that became this one
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {_signal.SIGINT})
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest free number: this one


def hold_ctrl_c() -> None:
    """Lets a Ctrl-C wait until the script that takes the place of this process has called `guard_start`."""
    if hasattr(_signal, "pthread_sigmask"):
        _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGINT})


class Interruptible:
    """A context in which Ctrl-C is a KeyboardInterrupt, so that files are put in order."""

    def __enter__(self):
        global _main_runs
        _main_runs = True

    def __exit__(self, *exc):
        global _main_runs
        _main_runs = False


def _is_script() -> bool:
    """Whether this process was started as a script of the project, not as a notebook or a program of others."""
    name = sys.argv[0] if sys.argv else ""
    # `python -m facelib`, while Python looks for its module; and the command of an installation.
    if name == "-m" or os.path.basename(name) == "mobilearc":
        return True
    try:
        path = os.path.realpath(name)
    except FileNotFoundError:  # the current folder was removed: no script was found in it
        return False
    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if not os.path.isfile(os.path.join(home, "train.py")):  # installed: see `facelib.files.scripts_folder`
        home = os.path.join(home, "mobilearc")
    return path.endswith(".py") and os.path.dirname(path) in {
        os.path.normpath(os.path.join(home, folder)) for folder in _FOLDERS
    }


def _on_ctrl_c(number, frame):
    is_importing = False
    while frame is not None and not is_importing:
        is_importing = frame.f_code.co_filename.startswith("<frozen importlib")
        frame = frame.f_back
    if _main_runs and not is_importing:
        raise KeyboardInterrupt
    try:
        sys.stdout.flush()
        os.write(2, b"interrupted\n")
    except Exception:  # the terminal is gone, or it was interrupted while it was printing
        pass
    finally:
        os._exit(130)
