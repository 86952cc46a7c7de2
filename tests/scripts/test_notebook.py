"""docs/notebook.ipynb, its cells in order in one process, on fewer faces."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.checkout import ROOT, link_tracked_files

CELLS = list(json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"])
SIZES = "IDENTITIES, IMAGES, PAIRS, EPOCHS = 100, 12, 600, 3"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    link_tracked_files(tmp_path)
    program = "\n\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code")
    assert SIZES in program
    (tmp_path / "cells.py").write_text(program.replace(SIZES, "IDENTITIES, IMAGES, PAIRS, EPOCHS = 20, 8, 240, 1"))

    done = subprocess.run(
        [sys.executable, "cells.py"], cwd=tmp_path, env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "cosine of int8 to float: mean 0." in done.stdout
    assert "int8  AUC" in done.stdout


def test_the_notebook_is_stored_without_results():
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CELLS if "outputs" in cell)
