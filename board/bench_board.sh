#!/bin/sh
# Measure models on this board: board/bench_board.sh MODEL ... [--out JSON]   (more: --help)
# Runs from any folder, with the project's .venv if there is one.
set -e
here=$(cd "$(dirname "$0")/.." && pwd)
python="$here/.venv/bin/python"
[ -x "$python" ] || python=python3
exec "$python" "$here/board/bench_board.py" "$@"
