# One script per task, shared by people and CI. Every install goes through constraints.txt.
# On a machine without a GPU, point pip at a CPU build of torch first (see README) or several GB of CUDA come along.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
BUNDLE ?= build/demo/bundle
GPU_WHEEL := build/onnxruntime-gpu
GPU_VERSION := $(shell sed -n 's/^onnxruntime-gpu==//p' constraints.txt)
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test lint format serve chaos gpu-wheel clean

demo: $(VENV)/.installed  ## train, export, serve and label a drawn picture, on two CPU cores, offline after the install
	$(BIN)/python scripts/demo.py

test: $(VENV)/.installed  ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest  # the models are tiny: a second thread costs more than it brings

lint: $(VENV)/.installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

serve: $(VENV)/.installed  ## make serve BUNDLE=path
	$(BIN)/python -m app --bundle $(BUNDLE)

chaos: $(VENV)/.installed  ## hostile requests, requests made from openapi.json, overload; make chaos CHAOS='--requests 300 --cases 10 --seconds 10' BUNDLE=path
	$(BIN)/python -m tests.chaos --bundle $(BUNDLE) $(CHAOS)

gpu-wheel: $(GPU_WHEEL)/onnxruntime_gpu-$(GPU_VERSION).dist-info  ## onnxruntime-gpu beside the CPU one (256 MB), for tests that need no GPU

$(GPU_WHEEL)/onnxruntime_gpu-%.dist-info: | $(VENV)/.installed
	rm -rf $(GPU_WHEEL)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install -q --no-deps --target $(GPU_WHEEL) onnxruntime-gpu

$(VENV)/.installed: pyproject.toml constraints.txt
	command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) was not found; run make PYTHON=python3 with Python 3.11 or newer" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install -q -e '.[training,export,cpu,test]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
