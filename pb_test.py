"""Test a frozen or optimised graph on verification sets: the table and report of evaluate_data.py.

python pb_test.py runs/demo/export/optimized.pb --valid valid_dataset/
"""

from collections.abc import Sequence
from pathlib import Path

from evaluate_data import BATCH_SIZE, test_main
from facelib.cli import run_cli
from facelib.embedder import RuntimeEmbedder
from facelib.graph import open_frozen
from facelib.quiet import quiet_tensorflow
from facelib.sidecar import Io


class GraphEmbedder(RuntimeEmbedder):
    """An `Embedder` over a frozen TensorFlow graph."""

    def __init__(self, path: Path, io: Io, threads: int | None = None, batch_size: int = BATCH_SIZE):
        quiet_tensorflow()
        super().__init__(Path(path).name, io, batch_size)
        self.run = open_frozen(path, io.input, io.output, threads)


def main(argv: Sequence[str] | None = None) -> int:
    return test_main(argv, GraphEmbedder, __doc__, "frozen_pb")


if __name__ == "__main__":
    run_cli(main)
