"""How every script ends: the error a user can mend, and the one place that prints it."""

import errno
import os
import sys
from collections.abc import Callable

from facelib.errors import FaceError


def run_cli(main: Callable[[], int]) -> None:
    """Runs `main` and exits: 0-255 as it returns, 1 and one line for a `FaceError`, 130 for Ctrl-C.

    A full disk and a missing permission are the user's to mend too, wherever they happen. Every other exception is
    our bug and keeps its traceback.
    """
    try:
        code = main()
        sys.stdout.flush()
        sys.exit(code)
    except FaceError as error:
        print(f"error: {' '.join(str(error).split(chr(10)))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            print(f"error: '{error.filename}': {error.strerror}. Mend that, or choose another place.", file=sys.stderr)
            sys.exit(1)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        where = f" while writing '{error.filename}'" if error.filename else ""
        print(
            f"error: The disk is full{where} ({os.strerror(error.errno)}). Free some space and run the command again.",
            file=sys.stderr,
        )
        sys.exit(1)
