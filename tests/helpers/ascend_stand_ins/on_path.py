"""Writes the stand-ins for Ascend's atc and msame to a folder as commands, for tests. No chip and no CANN is needed.

python tests/helpers/ascend_stand_ins/on_path.py DIR && PATH=DIR:$PATH ./om/pb_2_om.sh IN.pb
"""

import shlex
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def install(folder: Path, tools=("atc", "msame")) -> Path:
    """Writes the commands `tools` to `folder`, which is to be put on PATH; returns it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for tool in tools:
        command = folder / tool
        words = shlex.join([sys.executable, str(HERE / f"{tool}.py")])
        command.write_text(f'#!/bin/sh\n# A stand-in for {tool}, for tests.\nexec {words} "$@"\n')
        command.chmod(0o755)
    return folder


if __name__ == "__main__":
    install(Path(sys.argv[1]))
