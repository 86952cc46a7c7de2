# make setup | demo | test | lint. Each does its own set-up; only python3 (3.11 or newer) with pip and venv is needed.
PYTHON ?= python3
DATA ?=
VALID ?=
RECIPE ?=

.PHONY: setup demo test lint clean

setup: .venv/ready

.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: MobileArc needs Python 3.11 or newer. $(PYTHON) is older: make setup PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch .venv/ready

# make demo                          toy faces, drawn here
# make demo DATA=DIR [VALID=BIN]     your data: identity folders, an InsightFace directory, train.rec, ...
demo: setup
	@DATA="$(DATA)" VALID="$(VALID)" RECIPE="$(RECIPE)" ./demo.sh

test: setup
	.venv/bin/python -m pytest

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

clean:
	rm -rf .venv demo_out
