"""The settings of Keras and matplotlib that a computer or a notebook brings do not change results."""

import ast
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from facelib.tensorflow_env import settle_environment
from tests.helpers.checkout import ROOT

PROBE = """
import mobilefacenet
import keras
import numpy as np
from facelib.figure_style import begin, finish
keras.utils.set_random_seed(0)
net = mobilefacenet.mobilefacenet(embedding_size=8, width=0.25)
print(len(finish(begin("light")[0])) > 0, keras.config.epsilon(), keras.backend.backend())
print(net.output.dtype, net(np.full((1, 112, 112, 3), 99, np.float32)).numpy().tobytes().hex())
"""


@pytest.mark.slow
def test_a_keras_json_and_a_notebooks_matplotlib_change_nothing(tmp_path, capsys):
    content = {"backend": "theano", "image_data_format": "channels_first", "floatx": "float16", "epsilon": 0.5}
    (tmp_path / "keras.json").write_text(json.dumps(content))
    theirs = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "torch",
              "MPLBACKEND": "module://matplotlib_not_here.backend_inline"}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, env={**os.environ, **theirs}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == _probe(capsys)


def _probe(capsys):
    """What the probe prints in this process."""
    exec(PROBE, {})
    return capsys.readouterr().out


def test_a_backend_for_figures_that_is_here_stays(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://json.tool")
    settle_environment()
    assert os.environ["MPLBACKEND"] == "module://json.tool"
    monkeypatch.setenv("MPLBACKEND", "module://not_here_at_all.backend")
    settle_environment()
    assert os.environ["MPLBACKEND"] == "agg"


@pytest.mark.parametrize(("set_by_user", "expected"), [(None, "1"), ("0", "0")])
def test_onednn_is_on_unless_the_user_says_no(set_by_user, expected, monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if set_by_user is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", set_by_user)
    settle_environment()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == expected


def test_keras_that_was_imported_before_is_set_back():
    import keras

    keras.config.set_floatx("float16")
    keras.config.set_image_data_format("channels_first")
    settle_environment()
    assert (keras.config.floatx(), keras.config.image_data_format()) == ("float32", "channels_last")


def test_modules_at_the_top_level_import_facelib_before_keras():
    late = []
    for path in sorted(ROOT.glob("*.py")):
        names = [
            alias.name if isinstance(node, ast.Import) else node.module
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        ]
        slow = [i for i, name in enumerate(names) if name.split(".")[0] in ("keras", "tensorflow", "matplotlib")]
        ours = [i for i, name in enumerate(names) if name.split(".")[0] == "facelib"]
        if slow and not (ours and min(ours) < min(slow)):
            late.append(path.name)
    assert not late


@pytest.mark.slow
@pytest.mark.needs_tool("nbclient", "ipykernel")
def test_a_real_kernel_trains_nothing_wrong(tmp_path, monkeypatch, capsys):
    import nbformat
    from nbclient import NotebookClient

    (tmp_path / "keras.json").write_text(json.dumps({"backend": "theano", "floatx": "float16"}))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    run = "subprocess.run([sys.executable, '-c', open('probe.py').read()], cwd=ROOT, capture_output=True)"
    script = f"import subprocess\nprint({run})"
    (tmp_path / "probe.py").write_text(PROBE)
    cells = [f"import sys; ROOT = {str(ROOT)!r}; sys.path.insert(0, ROOT)", PROBE, script]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    printed = ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells]
    assert printed[1] == _probe(capsys)
    assert "returncode=0" in printed[2]
    assert importlib.util.find_spec("matplotlib_inline"), "the kernel of the test has no inline figures"
