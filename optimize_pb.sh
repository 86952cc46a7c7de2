#!/bin/sh
# Optimise a frozen graph: ./optimize_pb.sh IN.pb [OUT.pb]   (--help says more)
# Runs from any folder, with the project's .venv where there is one.
set -e
here=$(cd "$(dirname "$0")" && pwd)
python="$here/.venv/bin/python"
[ -x "$python" ] || python=python3
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m facelib.export.optimize "$@"
