"""One try: a script is killed, or its disk is full; then the same command must give the undisturbed result."""

import random
import shutil
from pathlib import Path

from tests.chaos.children import End, Kill, run_script
from tests.chaos.contents import contents_of, differences, hash_of, leftovers
from tests.chaos.full_disk import only_free, small_disk
from tests.chaos.writers import WRITERS

_PAGE = 4096


class Bench:
    """Where one writer is tried. It makes an undisturbed run first.

    Args:
        name: of the writer.
        folder: holds `inputs`; the scripts run in `now` beside them.

    Attributes:
        writer: the writer.
        events: of the undisturbed run.
        needed: bytes that it needed on a disk.
    """

    def __init__(self, name: str, folder: Path):
        self.writer, self._inputs, self._now = WRITERS[name], folder / "inputs", folder / "now"
        self._renew()
        before, self._given = _bytes_of(self._now), contents_of(self._now)
        end = self._run()
        if end.code:
            raise RuntimeError(f"{name} ends with {end.code} when nothing disturbs it:\n{end.text}")
        self.events, self.needed = end.events, max(_bytes_of(self._now) - before, _PAGE)
        self._right = contents_of(self._now)
        if found := self._left():
            raise RuntimeError(f"{name} leaves {found} when nothing disturbs it")

    def draw_kill(self, draw: random.Random, has_moment: bool) -> Kill:
        """A kill at a random event, or at a random moment between two events if `has_moment`."""
        event = draw.randrange(len(self.events)) + 1
        if not has_moment:
            return Kill(event)
        times = [at for at, _, _ in self.events]
        moment = draw.uniform(0, times[-1])
        event = sum(at <= moment for at in times)
        return Kill(event, moment - times[event - 1])

    def kill(self, kill: Kill) -> list[str] | None:
        """What is wrong after a kill and a second run; None if the script had ended before."""
        self._renew()
        end = self._run(kill)
        if not end.is_killed:
            return None if end.code == 0 else [f"it ended with {end.code} before the kill: {end.text[-2000:]}"]
        _, what, path = end.events[-1]
        faults = self._look_finished() + self._complete()
        return [f"killed at {what} {path}", *faults] if faults else []

    def fill(self, free: int) -> list[str]:
        """What is wrong after a run with `free` bytes, and one with room."""
        shutil.rmtree(self._now, ignore_errors=True)
        self._now.mkdir()
        with small_disk(self._now):
            self._copy()
            with only_free(self._now, free):
                end = self._run()
            faults = _is_one_line(end) + self._look_finished()
            may_stay = (".part", ".progress") if self.writer.is_training else "/"  # a teacher's, to continue
            faults += [f"left: {name}" for name in self._left() if not name.endswith(may_stay)]
            return faults + (self._complete() if end.code else self._compare())

    def _renew(self) -> None:
        shutil.rmtree(self._now, ignore_errors=True)
        self._now.mkdir()
        self._copy()

    def _copy(self) -> None:
        for name in self.writer.copies:
            shutil.copytree(self._inputs / name, self._now / name)

    def _run(self, kill: Kill | None = None) -> End:
        return run_script(self.writer.words, self._now, kill=kill, set_up=self.writer.set_up)

    def _complete(self) -> list[str]:
        """Runs the command to its end, and compares the result."""
        end = self._run()
        if end.code:
            return [f"the second run ended with {end.code}: {end.text[-2000:]}"]
        return self._compare()

    def _compare(self) -> list[str]:
        """What is not as after an undisturbed run."""
        faults = differences(contents_of(self._now), self._right)
        return faults + [f"left: {name}" for name in self._left()]

    def _left(self) -> list[str]:
        return [name for name in leftovers(self._now) if name not in self.writer.keeps]

    def _look_finished(self) -> list[str]:
        """Files with their final name that are not finished."""
        faults = []
        for whole in self.writer.whole:
            if (self._now / whole).exists():
                right = {name: value for name, value in self._right.items() if name.startswith(f"{whole}/")}
                found = {f"{whole}/{name}": value for name, value in contents_of(self._now / whole).items()}
                faults += [f"looks finished: {line}" for line in differences(found, right)]
        for path in sorted(self._now.rglob("*")):
            name = path.relative_to(self._now).as_posix()
            if not path.is_file() or any(part.startswith(".") for part in path.relative_to(self._now).parts):
                continue
            if path.suffix in (".part", ".progress", ".log", ".jsonl") or "tfevents" in name:
                continue  # no result: what is read of it is checked line by line
            try:
                value = hash_of(path, path.read_bytes())
            except Exception as error:
                faults.append(f"looks finished: {name} is damaged ({type(error).__name__}: {error})")
                continue
            if not self.writer.is_training and value not in (self._right.get(name), self._given.get(name)):
                faults.append(f"looks finished: {name} is not what it should be")
        return faults


def _is_one_line(end: End) -> list[str]:
    """Whether a script ended on a full disk as it should: exit code 1 and one line, or done with room to spare."""
    lines = [line for line in end.text.splitlines() if line.startswith("error: ")]
    if end.code == 0 and "Traceback" not in end.text:
        return []
    if end.code == 1 and len(lines) == 1 and "Traceback" not in end.text:
        return []
    return [f"it ended with {end.code} and {len(lines)} lines: {end.text[-2000:]}"]


def _bytes_of(folder: Path) -> int:
    """Bytes that the files of a folder take in whole pages, as on the small disk."""
    return sum(-(-path.stat().st_size // _PAGE) * _PAGE for path in folder.rglob("*") if path.is_file())
