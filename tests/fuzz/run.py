"""Opens changed inputs of every format, and keeps those that do more than end in one line.

    python -m tests.fuzz.run --minutes 10                       both halves, half of the time each
    python -m tests.fuzz.run --inputs 20000 --native 3000       so many, however long it takes
    python -m tests.fuzz.run --formats bin data_dir --inputs 500
    python -m tests.fuzz.run --again tests/fuzz/found/NAME      opens a found input again

A failure is: an exception other than FaceError and BadRecord, more than 20 s, more than 2 GB, a signal. The first input
of each kind of failure is made smaller and written to tests/fuzz/found/, with the command that repeats it.
"""

import argparse
import contextlib
import multiprocessing
import random
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.changes import Tree
from tests.fuzz.formats import FORMATS, IN_PROCESS, NATIVE
from tests.fuzz.seeds import read_tree, write_native_seeds, write_seeds, write_tree
from tests.fuzz.worker import Outcome, Worker

FOUND = Path(__file__).parent / "found"
CAUSE, COMMAND = "cause.txt", "again.txt"


def main(argv: list[str] | None = None) -> int:
    """Returns 1 where an input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="how long, instead of how many")
    parser.add_argument("--inputs", type=int, default=0, help="how many in process")
    parser.add_argument("--native", type=int, default=0, help="how many for native parsers")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS), help="only these")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other inputs")
    parser.add_argument("--again", type=Path, help="a folder of tests/fuzz/found")
    args = parser.parse_args(argv)
    if args.again:
        return _again(args.again)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        seeds = _make_seeds(Path(folder) / "seeds", has_native=bool(args.native or args.minutes))
        for formats, count in ((IN_PROCESS, args.inputs), (NATIVE, args.native)):
            names = [name for name in formats if name in args.formats]
            if names and (count or args.minutes):
                seconds = 30 * args.minutes if args.minutes else float("inf")
                failures += _run(names, seeds, count or 10**9, seconds, args.seed)
    return 1 if failures else 0


def draw_input(name: str, seeds: dict[str, Tree], seed: int, number: int) -> Tree:
    """Input `number` of a format: the same for the same numbers and seeds. It is changed once, or a few times."""
    draw = random.Random(f"{name} {seed} {number}")
    tree = seeds[draw.choice(sorted(seeds))]
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        with contextlib.suppress(Exception):  # this change needs a part that the one before has damaged
            tree = FORMATS[name].change(tree, draw)
    return tree


def _make_seeds(folder: Path, has_native: bool) -> dict[str, dict[str, Tree]]:
    """In a process of its own, since it needs TensorFlow."""
    for write in (write_seeds, write_native_seeds)[: 1 + has_native]:
        process = multiprocessing.get_context("spawn").Process(target=write, args=(folder,))
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError("the seeds could not be written")
    return {
        one.name: {seed.name: read_tree(seed) for seed in one.iterdir() if seed.is_dir()} for one in folder.iterdir()
    }


def _run(names: list[str], seeds, count: int, seconds: float, seed: int) -> int:
    started, tried, was_read, failed = time.monotonic(), Counter[str](), Counter[str](), Counter[str]()
    worker = Worker(is_native=names[0] in NATIVE)
    try:
        for number in range(count):
            name = names[number % len(names)]
            if time.monotonic() - started > seconds:
                break
            tree = draw_input(name, seeds[name], seed, number)
            tried[name] += 1
            outcome = worker.open(name, tree)
            was_read[name] += outcome.kind == "read"
            if outcome.is_failure:
                failed[outcome.kind] += 1
                if failed[outcome.kind] == 1:
                    print(f"{outcome.kind}  (seed {seed}, input {number})", flush=True)
                    keep(worker, name, tree, seeds[name], outcome)
            if number % 2000 == 1999:
                print(
                    f"{number + 1:,} inputs, {time.monotonic() - started:,.0f} s, {sum(failed.values())} failures",
                    flush=True,
                )
    finally:
        worker.close()
    print(f"\n{sum(tried.values()):,} inputs in {time.monotonic() - started:,.0f} s, {sum(failed.values())} failures")
    print("  format        inputs    read refused  failed")
    for name in names:
        bad = sum(times for kind, times in failed.items() if kind.startswith(f"{name}:"))
        print(f"  {name:<12}{tried[name]:>8,}{was_read[name]:>8,}{tried[name] - was_read[name] - bad:>8,}{bad:>8,}")
    for kind, times in failed.most_common():
        print(f"  {times:>6,} x {kind}")
    return sum(failed.values())


def keep(worker: Worker, name: str, tree: Tree, seeds: dict[str, Tree], failure: Outcome) -> Path:
    """Makes a failing input smaller and writes it to tests/fuzz/found."""
    tries = 12 if name in NATIVE or " s" in failure.kind[-4:] else 200
    tree = minimise(tree, lambda smaller: worker.open(name, smaller), failure.kind, seeds, tries)
    folder = FOUND / re.sub(r"\W+", "-", failure.kind)
    write_tree(folder / "input", tree)
    (folder / CAUSE).write_text(f"{failure.kind}\n\n{failure.text}", encoding="utf-8", errors="backslashreplace")
    (folder / COMMAND).write_text(f"python -m tests.fuzz.run --again {folder.relative_to(FOUND.parents[2])}\n")
    return folder


def minimise(tree: Tree, open_input, kind: str, seeds: dict[str, Tree], tries: int) -> Tree:
    """A smaller input that fails in the same way: unchanged files as in the seed, then without blocks of bytes."""

    def still_fails(smaller: Tree) -> bool:
        nonlocal tries
        tries -= 1
        return open_input(smaller).kind == kind

    seed = max(seeds.values(), key=lambda one: sum(one.get(name) == data for name, data in tree.items()))
    for name in [name for name in seed if tree.get(name) != seed[name]]:
        if tries > 0 and still_fails(smaller := {**tree, name: seed[name]}):
            tree = smaller
    changed = [name for name in tree if tree[name] != seed.get(name)]
    for name in changed:
        size = len(tree[name]) // 2
        while size >= 1 and tries > 0:
            at = 0
            while at < len(tree[name]) and tries > 0:
                smaller = {**tree, name: tree[name][:at] + tree[name][at + size :]}
                if still_fails(smaller):
                    tree = smaller
                else:
                    at += size
            size //= 2
    return tree


def _again(folder: Path) -> int:
    name = (folder / CAUSE).read_text(encoding="utf-8").split(":")[0]
    worker = Worker(is_native=name in NATIVE)
    outcome = worker.open(name, read_tree(folder / "input"))
    worker.close()
    print(f"{outcome.kind}\n{outcome.text}")
    return int(outcome.is_failure)


if __name__ == "__main__":
    sys.exit(main())
