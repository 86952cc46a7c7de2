#!/bin/sh
# The speed of trainings on this machine, as a Markdown table: ./benchmarks/bench_gpu.sh [--small]   (more: --help)
# Runs from any folder, with the project's .venv if there is one.
set -e
here=$(cd "$(dirname "$0")/.." && pwd)
python="$here/.venv/bin/python"
[ -x "$python" ] || python=python3
exec "$python" "$here/benchmarks/bench_gpu.py" "$@"
