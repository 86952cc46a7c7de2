"""Runs scripts in one process in which some modules are not there, as in a smaller installation or on another system.

    python -m tests.helpers.blocked < JOBS

JOBS: {"blocked": [module, ...], "removed": ["os.O_DIRECTORY", ...], "commands": [[script, argument, ...], ...]}. The
command ["import", MODULE] imports a module. Prints a JSON list, for each command its exit code and what it wrote to the
terminal; "traceback" is that of an exception, else empty.
"""

import importlib
import importlib.abc
import io
import json
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Blocked(importlib.abc.MetaPathFinder):
    """Finds none of the modules in `names`, as where they are not installed."""

    def __init__(self, names):
        self.names = frozenset(names)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def run(blocked, commands, cwd, removed=(), timeout=600):
    """The results of `commands` in a process of their own without modules and attributes of modules: list of dict."""
    commands = [[str(word) for word in words] for words in commands]
    jobs = json.dumps({"blocked": list(blocked), "removed": list(removed), "commands": commands})
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.blocked"], input=jobs, cwd=cwd, capture_output=True, text=True,
        timeout=timeout, env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def run_script(words):
    """What the command line `words` does: {code, out, err, traceback}."""
    kept = sys.argv, sys.path[:], sys.stdout, sys.stderr
    out, err = io.StringIO(), io.StringIO()
    sys.argv, sys.stdout, sys.stderr = [str(ROOT / words[0]), *words[1:]], out, err
    sys.path.insert(0, str((ROOT / words[0]).parent))
    code, last = 0, ""
    try:
        if words[0] == "import":
            importlib.import_module(words[1])
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        code, last = 1, traceback.format_exc()
    finally:
        sys.argv, sys.path[:], sys.stdout, sys.stderr = kept
    return {"words": words, "code": code or 0, "out": out.getvalue(), "err": err.getvalue(), "traceback": last}


def main():
    jobs = json.load(sys.stdin)
    for name in list(sys.modules):
        if name.partition(".")[0] in jobs["blocked"]:
            del sys.modules[name]
    sys.meta_path.insert(0, Blocked(jobs["blocked"]))
    for name in jobs["removed"]:
        delattr(importlib.import_module(name.partition(".")[0]), name.partition(".")[2])
    print(json.dumps([run_script(words) for words in jobs["commands"]]))


if __name__ == "__main__":
    main()
