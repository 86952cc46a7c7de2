# make setup | demo | export | demo-page | test | test-all | fuzz | chaos | lint | docs. Each does the set-up that it needs. Only
# python3 (3.11 or newer) with pip and venv must be there.
# make k210: nncase for the K210, which also needs Python 3.10 (PYTHON310=...; one of pyenv is found).
# make mcu: TFLite Micro and Vela for microcontrollers.
# make ncnn: pnnx and ncnn.
# make rknn: RKNN-Toolkit2 for the NPUs of Rockchip.
# make coreml: coremltools for Apple's systems.
# make esp: esp-ppq for ESP-DL, with PyTorch.
PYTHON ?= python3
DATA ?=
VALID ?=
RECIPE ?=
DEVICE ?=
GPU ?=
RUN ?=
CALIBRATION ?=
MODEL ?=
PYTHON310 ?= $(firstword $(shell for p in python3.10 $(HOME)/.pyenv/versions/3.10*/bin/python; do \
  $$p -c pass 2> /dev/null && echo $$p; done))

MINUTES ?= 10

.PHONY: setup demo export demo-page test test-all fuzz chaos lint docs k210 mcu ncnn rknn coreml esp arm clean

# make setup           TensorFlow for the CPU
# make setup GPU=1     with the CUDA libraries too, 2.8 GB to download
setup: .venv/ready $(if $(GPU),.venv/gpu)

.venv/ready: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: MobileArc needs Python 3.11 or newer. $(PYTHON) is older: make setup PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch .venv/ready

.venv/gpu: .venv/ready
	.venv/bin/python -m pip install --quiet --disable-pip-version-check \
	  "$$(sed -n 's/^tensorflow==/tensorflow[and-cuda]==/p' requirements.txt)"
	touch .venv/gpu

# make demo                          synthetic faces, drawn here
# make demo DATA=DIR [VALID=BIN]     your data: identity folders, an InsightFace directory, train.rec, ...
# make demo DEVICE=cpu               on the CPU, also where there is a GPU
demo: setup
	@./demo.sh  # it gets the variables of the command line

# make export RUN=DIR [VALID=BIN] [CALIBRATION=DATA]     a run through every target, each gated
export: setup
	@test -n "$(RUN)" || { echo "error: Which run? make export RUN=runs/NAME [VALID=BIN] [CALIBRATION=DATA]" >&2; exit 1; }
	.venv/bin/python export_all.py "$(RUN)" $(if $(VALID),--valid "$(VALID)") $(if $(CALIBRATION),--calibration "$(CALIBRATION)")

# make demo-page MODEL=X.tflite      docs/demo/dist, for any static file server
demo-page: setup
	@test -n "$(MODEL)" || { echo "error: Which model? make demo-page MODEL=X.tflite" >&2; exit 1; }
	.venv/bin/python docs/demo/build.py "$(MODEL)"

# Three files at a time on two cores, the longest first: one of the three often waits for a process or a clock.
PYTEST = .venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST) $(ARGS)

# The slow tests too.
test-all: setup
	$(PYTEST) -m "slow or not slow" --cov=facelib --cov-report= $(ARGS)
	@echo "coverage of facelib, without what scripts run in processes of their own: $$(.venv/bin/coverage report --format=total) %"

# make fuzz [MINUTES=n] [ARGS="--formats bin rec --seed 7"]     changed inputs of every format, see docs/reliability.md
fuzz: setup
	.venv/bin/python -m tests.fuzz.run --minutes $(MINUTES) $(ARGS)

# make chaos [MINUTES=n] [ARGS="--writers train --seed 7"]      kills and full disks of every script that writes
chaos: setup
	.venv/bin/python -m tests.chaos.run --minutes $(MINUTES) $(ARGS)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: setup
	.venv/bin/mkdocs build --strict

k210: k210/.venv/ready

k210/.venv/ready: k210/requirements.txt
	@"$(PYTHON310)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' 2> /dev/null || \
	  { echo "error: nncase 1.9 needs Python 3.10. '$(PYTHON310)' is none: make k210 PYTHON310=python3.10" >&2; exit 1; }
	"$(PYTHON310)" -m venv k210/.venv
	k210/.venv/bin/python -m pip install --quiet --disable-pip-version-check -r k210/requirements.txt
	touch k210/.venv/ready

mcu: .venv-mcu/ready

.venv-mcu/ready: mcu/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: TFLite Micro's package needs Python 3.11 to 3.13. $(PYTHON) is another: make mcu PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv-mcu
	.venv-mcu/bin/python -m pip install --quiet --disable-pip-version-check -r mcu/requirements.txt
	touch .venv-mcu/ready

ncnn: .venv-ncnn/ready

# pnnx asks for PyTorch, which only the Python package needs, not its program.
.venv-ncnn/ready: ncnn/requirements.txt
	$(PYTHON) -m venv .venv-ncnn
	.venv-ncnn/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r ncnn/requirements.txt
	touch .venv-ncnn/ready

rknn: .venv-rknn/ready

# RKNN-Toolkit2 asks for PyTorch, which ONNX models do not need.
.venv-rknn/ready: rknn/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "error: RKNN-Toolkit2 needs Python 3.10 to 3.12. $(PYTHON) is another: make rknn PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv-rknn
	.venv-rknn/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r rknn/requirements.txt
	touch .venv-rknn/ready

coreml: .venv-coreml/ready

.venv-coreml/ready: coreml/requirements.txt
	$(PYTHON) -m venv .venv-coreml
	.venv-coreml/bin/python -m pip install --quiet --disable-pip-version-check -r coreml/requirements.txt
	touch .venv-coreml/ready

esp: .venv-esp/ready

.venv-esp/ready: esp/requirements.txt
	$(PYTHON) -m venv .venv-esp
	.venv-esp/bin/python -m pip install --quiet --disable-pip-version-check -r esp/requirements.txt
	touch .venv-esp/ready

arm: .venv-arm/ready

# An emulated ARM computer in ~/.cache/mobilearc; .venv-arm is a link to it.
.venv-arm/ready: requirements-board.txt arm/set_up.py | setup
	.venv/bin/python arm/set_up.py

clean:
	rm -rf .venv .venv-arm .venv-mcu .venv-ncnn .venv-rknn .venv-coreml .venv-esp build site mobilearc.egg-info demo_out k210/.venv docs/demo/dist docs/demo/node_modules
