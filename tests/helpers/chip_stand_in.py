"""Scripts of a chip's folder as modules, and a project folder whose environment is this one with a stand-in worker."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def load_script(folder, name):
    """A script of `folder` as a module: they are run by path."""
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stand_in_for(target, worker, folder, monkeypatch):
    """Lets a target's scripts run `worker`, the text of a script, in this Python; returns the project folder.

    Args:
        target: 'ncnn', 'rknn', ...: facelib.runtimes.TARGET and facelib.export.TARGET.convert have its `WORKER`.
        worker: finds the project in the environment variable STAND_IN_ROOT.
        folder: an empty folder.
        monkeypatch: pytest's.
    """
    python = folder / f".venv-{target}" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (folder / f".venv-{target}" / "ready").touch()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    script = folder / f"{target}_worker.py"
    script.write_text(worker)
    monkeypatch.setattr("facelib.runtimes.array_worker.scripts_folder", lambda: folder)
    monkeypatch.setattr(f"facelib.runtimes.{target}.WORKER", script)
    monkeypatch.setattr(f"facelib.export.{target}.convert.WORKER", script)
    monkeypatch.setenv("STAND_IN_ROOT", str(ROOT))
    return folder
