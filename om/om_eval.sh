#!/bin/sh
# Run an Ascend model over a folder of inputs: om/om_eval.sh MODEL.om BIN_DIR OUT_DIR   (more: --help)
# Runs from any folder, with the project's .venv if there is one.
set -e
here=$(cd "$(dirname "$0")/.." && pwd)
python="$here/.venv/bin/python"
[ -x "$python" ] || python=python3
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m facelib.export.om.om_eval "$@"
