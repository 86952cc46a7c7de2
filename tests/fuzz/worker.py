"""A child process that opens inputs, one after another, under limits. A crash, a hang or a full memory ends only it."""

import contextlib
import io
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.changes import Tree

SECONDS = 20
MEMORY = 2 << 30  # bytes above what the libraries take once they are loaded


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes:
        kind: one line, the same for inputs that fail in the same place; 'read' or 'refused' for what is no failure.
        text: the traceback, or the message of what was refused.
    """

    kind: str
    text: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether the reader did more than read or refuse in one line."""
        return self.kind not in ("read", "refused")


class Worker:
    """Opens inputs in a child process, which is started again after a crash.

    Args:
        is_native: the child loads TensorFlow and the runtimes first, so that their memory does not count.
    """

    def __init__(self, is_native: bool):
        self.is_native, self._process = is_native, None
        root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=root))

    def open(self, name: str, tree: Tree) -> Outcome:
        """Opens one input: 'refused' is a FaceError or BadRecord."""
        if self._process is None:
            self._start()
        try:
            self._pipe.send((name, tree))
            if self._pipe.poll(SECONDS):
                return self._pipe.recv()
            outcome = Outcome(f"{name}: more than {SECONDS} s")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(10)
            code = self._process.exitcode or 0
            outcome = Outcome(f"{name}: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}")
        self._end()
        return outcome

    def close(self) -> None:
        """Ends the child and removes its folder."""
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._folder, self.is_native), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(180) or self._pipe.recv() != "ready":
            raise RuntimeError("the child did not start")

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(pipe, folder: Path, is_native: bool) -> None:
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(folder.parent)
    from facelib.training import run_dir
    from tests.fuzz.formats import FORMATS

    run_dir.git_commit = lambda: "0123abcd"  # git takes longer than all readers together
    if is_native:
        _load_libraries()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe.send("ready")
    while True:
        try:
            name, tree = pipe.recv()
        except EOFError:
            return
        pipe.send(open_input(name, tree, folder / "input", FORMATS[name].read))


def open_input(name: str, tree: Tree, folder: Path, read) -> Outcome:
    """Writes an input and opens it in this process."""
    from facelib.errors import BadRecord, FaceError
    from tests.fuzz.seeds import write_tree

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_tree(folder, tree)
    started = time.monotonic()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            read(folder)
        outcome = Outcome("read")
    except (FaceError, BadRecord) as error:
        if len(str(error)) > 3000:
            return Outcome(f"{name}: a message of more than 3,000 characters", str(error)[:3000])
        outcome = Outcome("refused", str(error))
    except BaseException as error:
        last = [place for place in traceback.extract_tb(error.__traceback__) if "facelib" in place.filename]
        where = f"{Path(last[-1].filename).name}:{last[-1].name}" if last else "?"
        return Outcome(f"{name}: {type(error).__name__} in {where}", traceback.format_exc()[-6000:])
    if time.monotonic() - started > SECONDS:
        return Outcome(f"{name}: more than {SECONDS} s")
    return outcome


def _load_libraries() -> None:
    import keras  # noqa: F401
    import onnxruntime  # noqa: F401
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter  # noqa: F401

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.reduce_sum(tf.ones((64, 64)) @ tf.ones((64, 64)))
    import facelib.runtimes.open_embedder  # noqa: F401
