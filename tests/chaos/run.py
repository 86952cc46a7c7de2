"""Kills every script that writes, at each kind of moment, and fills the disk under it; then runs it again.

    python -m tests.chaos.run --minutes 20                   all writers in turn
    python -m tests.chaos.run --tries 10 --levels 10         so many a writer, however long it takes
    python -m tests.chaos.run --writers train --tries 60 --seed 7
    python -m tests.chaos.run --writers train --event 17 --after 0.003       one kill again
    python -m tests.chaos.run --writers train --free 8192                    one level of free space again

A try fails if the same command, run again to its end, does not give the result of an undisturbed run, if a hidden file
or a part of one is left, or if a file looks finished after the kill and is not. On a full disk the script must end with
exit code 1 and one line. Full disks need root, which may mount a small file system.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.chaos.children import Kill
from tests.chaos.full_disk import may_mount
from tests.chaos.tries import Bench
from tests.chaos.writers import WRITERS, write_inputs

KILL, FULL_DISK = "kills", "full disk"


def main(argv: list[str] | None = None) -> int:
    """Returns 1 where a try failed."""
    args = _parse(argv)
    can_fill = may_mount() if args.levels or args.free is not None else False
    if args.levels and not can_fill:
        print("full disk: skipped, only root may mount a file system")
    has_networks = any(WRITERS[name].needs_tensorflow for name in args.writers)
    with tempfile.TemporaryDirectory() as folder:
        _make_inputs(Path(folder) / "inputs", has_networks)
        if has_networks:
            _load_tensorflow()
        runner = _Runner(Path(folder), args)
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C ends the tries, and shows what they gave
            for name in args.writers:
                runner.run(name, can_fill)
    return runner.print_table()


class _Runner:
    def __init__(self, folder: Path, args: argparse.Namespace):
        self.folder, self.args = folder, args
        self.started = time.monotonic()
        self.tried, self.failed = Counter[tuple[str, str]](), Counter[tuple[str, str]]()

    def run(self, name: str, can_fill: bool) -> None:
        """Tries one writer: the one try that the arguments name, or those that are drawn."""
        bench, args = Bench(name, self.folder), self.args
        end = time.monotonic() + 60 * args.minutes / len(args.writers) if args.minutes else float("inf")
        if args.event:
            tries: Iterable[Kill | int] = [Kill(args.event, args.after)]
        else:
            tries = [args.free] if args.free is not None else self._drawn(bench, name, can_fill)
        for one in tries:
            if time.monotonic() > end:
                break
            if isinstance(one, int):
                self._note(name, FULL_DISK, f"--free {one}", bench.fill(one))
            else:
                self._note(name, KILL, f"--event {one.event} --after {one.seconds:.6f}", bench.kill(one))

    def _drawn(self, bench: Bench, name: str, can_fill: bool) -> Iterator[Kill | int]:
        """Kills, and free bytes of full disks: so many of each, or in turn without end."""
        args, draw = self.args, random.Random(f"{name} {self.args.seed}")
        for number in range(10**9 if args.minutes else args.tries):
            yield bench.draw_kill(draw, has_moment=bench.writer.is_training and number % 3 == 2)
            if args.minutes and can_fill:
                yield draw.randrange(bench.needed)
        for level in range(args.levels if can_fill else 0):
            yield bench.needed * level // args.levels

    def _note(self, name: str, what: str, flags: str, faults: list[str] | None) -> None:
        if faults is None:  # it had ended before: threads do not always write in the same order
            return
        self.tried[what, name] += 1
        if faults:
            self.failed[what, name] += 1
            print(f"{name}: {what}: failed. Again: python -m tests.chaos.run --writers {name} {flags}", flush=True)
            print("".join(f"  {fault}\n" for fault in faults[:12]), end="", flush=True)

    def print_table(self) -> int:
        seconds = time.monotonic() - self.started
        print(f"\n{sum(self.tried.values())} tries in {seconds:,.0f} s, {sum(self.failed.values())} failed")
        print("  what       writer        tries  same  failed")
        for (what, name), tries in self.tried.items():
            failed = self.failed[what, name]
            print(f"  {what:<11}{name:<13}{tries:>6}{tries - failed:>6}{failed:>8}")
        return int(bool(self.failed.total()))


def _make_inputs(folder: Path, has_networks: bool) -> None:
    """In a process of its own, since it runs TensorFlow, which cannot be forked then."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    process = multiprocessing.get_context("spawn").Process(target=write_inputs, args=(folder, has_networks))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError("the inputs could not be written")


def _load_tensorflow() -> None:
    """Imports what the children need, and runs nothing of it."""
    from facelib.tensorflow_env import quiet_tensorflow

    quiet_tensorflow()
    import facelib.runtimes.open_embedder
    import facelib.training.trainer  # noqa: F401


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=float, help="how long, instead of how many")
    add("--tries", type=int, default=10, help="kills of each writer (default: %(default)s)")
    add("--levels", type=int, default=10, help="levels of free space for each writer (default: %(default)s)")
    add("--writers", nargs="+", choices=list(WRITERS), default=list(WRITERS), help="only these")
    add("--seed", type=int, default=0, help="another seed draws other moments")
    add("--event", type=int, help="one kill, at this file-system event, counted from 1")
    add("--after", type=float, default=0.0, metavar="SECONDS", help="... so long after it; 0: before it happens")
    add("--free", type=int, metavar="BYTES", help="one full disk, with so much free space")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
