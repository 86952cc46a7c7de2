"""report.py --watch: the page of a run is made again whenever the files of the run change, and reloads by itself."""

import time
from collections.abc import Callable
from pathlib import Path

from facelib.errors import FaceError
from facelib.evaluation.projector import INDEX
from facelib.files import write_bytes
from facelib.reports.read_run import REPORT_SUFFIX

LOOK_SECONDS = 2.0  # between two looks at the files
RELOAD_SECONDS = 10  # of the browser
REST = 9  # times as long as a page took, before the next one: a training beside it loses a tenth of one core at most

_HEAD = "<head>\n"
_RELOAD = f'<meta http-equiv="refresh" content="{RELOAD_SECONDS}">\n'

Stamps = dict[Path, tuple[int, int]]


def watch_run(
    run: Path,
    out: Path,
    make_page: Callable[[], tuple[str, str]],
    *,
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Writes the page now and after each change of the run's files, until Ctrl-C; the last page no longer reloads.

    A file that cannot be read yet is named once, and the page stays as it was until the files change again.

    Args:
        run: the run directory.
        out: where the page is written.
        make_page: gives (HTML, one line about the run).
        wait: sleeps for so many seconds.
        clock: seconds, for the time that a page takes.
    """
    page, said, seen = "", "", None
    try:
        while True:
            stamps, pause = stamps_of(run), LOOK_SECONDS
            if stamps != seen:
                started, seen = clock(), stamps
                try:
                    page, line = make_page()
                    write_bytes(out, page.replace(_HEAD, _HEAD + _RELOAD, 1).encode())
                    line = f"wrote {out}: {line}"
                except (FaceError, FileNotFoundError) as error:  # half-written, or just replaced
                    line = f"the page was not changed: {error}"
                if line != said:
                    print(line, flush=True)
                said = line
                pause = max(pause, REST * (clock() - started))
            wait(pause)
    except KeyboardInterrupt:
        if page:
            write_bytes(out, page.encode())
        print(f"stopped; {out} no longer reloads" if page else "stopped")


def stamps_of(run: Path) -> Stamps:
    """{file: (time of change in ns, bytes)} of every file of the run that the page shows."""
    files = [run / name for name in ("metrics.jsonl", "config.toml", "provenance.json")]
    files += [file for folder in (run, run / "export") for file in folder.glob(f"*{REPORT_SUFFIX}")]
    files += [file for folder in (run, run / "export") for file in folder.glob(f"*.map/{INDEX}")]
    stamps: Stamps = {}
    for file in files:
        try:
            status = file.stat()
        except OSError:  # not there yet, or just being replaced
            continue
        stamps[file] = (status.st_mtime_ns, status.st_size)
    return stamps
