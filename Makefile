# Every chore has a target here; `make` alone lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CUDA_VENV ?= .venv-cuda
INSTALLED := $(VENV)/.installed
DEMO_INSTALLED := $(VENV)/.demo-installed
# On Linux the usual index has torch for CUDA alone, with gigabytes of NVIDIA's libraries. `make demo TORCH_INDEX=` takes it.
TORCH_INDEX := https://download.pytorch.org/whl/cpu
PACKAGE := pyproject.toml setup.py $(wildcard wgan_cli/*.py wgan_cli/*/*.py csrc/*)
PIP := $(BIN)/pip --disable-pip-version-check install --quiet
DEMO := demo
GPU_OUT := build/gpu

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint verdicts stress fuzz test-processors test-kernels mutate-kernels test-cuda-build test-gpu gpu bench recipe systems clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The installed package is what is tested, so it is installed again when a file of it changes.
$(INSTALLED): $(PACKAGE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) '.[dev]'
	touch $@

# What a user needs, and a torch for the CPU where there is one; `make test` after it takes that torch too.
$(DEMO_INSTALLED): $(PACKAGE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0 $(TORCH_INDEX:%=--extra-index-url %)
	$(PIP) '.[plot]'
	touch $@

demo: $(DEMO)/ranking.tsv ## train on the embedded digits, draw a grid, rank the digits (a few minutes)
	@echo "the most and the least typical digits: $(DEMO)/ranking.tsv; samples: $(DEMO)/grid.png"

# Always asked for: an interrupted run goes on, and a finished one is left alone, its time too, so that what is made
# from it is not made again.
$(DEMO)/ckpt.pt: $(DEMO_INSTALLED) FORCE
	$(BIN)/wgan train --data examples/digits.zip --preset fast --steps 3000 --save-every 250 --sample-every 250 -o $(DEMO)

FORCE:
.PRECIOUS: $(DEMO)/ckpt.pt

$(DEMO)/grid.png: $(DEMO)/ckpt.pt
	$(BIN)/wgan sample $< -n 64 -o $@

$(DEMO)/ranking.tsv: $(DEMO)/ckpt.pt $(DEMO)/grid.png
	$(BIN)/wgan critic-score $< examples/digits.zip --summary | sort -g > $@
	@head -n 3 $@; echo ...; tail -n 3 $@

test: $(INSTALLED) ## the whole test suite, in two processes, a file in one of them (8 minutes)
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

stress: $(INSTALLED) ## kill 50 runs at random moments, then 30 of two processes, and see each end as one never killed (20 minutes)
	$(BIN)/python tests/stress.py
	$(BIN)/python tests/stress.py --processes 2 --kills 30

fuzz: $(INSTALLED) ## 2,400 mutated files and command lines, and see each end as documented (minutes)
	$(BIN)/python tests/fuzz.py

verdicts: $(INSTALLED) ## runs of some minutes made to show each verdict (a quarter of an hour)
	$(BIN)/pytest -m long tests/test_verdict.py

test-processors: $(INSTALLED) ## the tests that compute, under three processors' arithmetic, in 1 and 2 threads (20 minutes)
	$(BIN)/python tests/processors.py $(WORDS)

test-kernels: $(INSTALLED) ## the kernels on a CPU emulator: plain, with ASan and UBSan, with TSan (minutes)
	$(BIN)/pytest -q tests/test_emulator.py tests/test_kernels.py
	$(BIN)/python tests/emulator/build.py asan $(BIN)/python -m pytest -q --capture=sys tests/test_kernels.py
	$(BIN)/python tests/emulator/build.py tsan $(BIN)/python -m pytest -q --capture=sys tests/test_kernels.py

mutate-kernels: $(INSTALLED) ## plant bugs in the kernels and see that the suite catches each (a quarter of an hour)
	$(BIN)/python tests/emulator/mutate.py

test-cuda-build: ## build the kernels against a CUDA torch (several GB) and look at them without a GPU
	test -x $(CUDA_VENV)/bin/python || $(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_VENV)/bin/pip install --quiet --disable-pip-version-check torch==2.14.1 numpy ninja 'setuptools>=77' wheel pytest
	rm -rf build
	WGAN_CUDA=1 $(CUDA_VENV)/bin/pip install --disable-pip-version-check --no-build-isolation --force-reinstall --no-deps .
	$(CUDA_VENV)/bin/pip install --quiet --disable-pip-version-check 'click>=8.1' 'pillow>=11.0'
	$(CUDA_VENV)/bin/pytest tests/test_cuda_build.py tests/test_ops.py tests/test_penalty.py

test-gpu: $(INSTALLED) ## the kernels on a CUDA device
	$(BIN)/pytest -m gpu

gpu: ## all there is to learn on a GPU, with the torch of $(PYTHON), into $(GPU_OUT) (8 minutes)
	$(PYTHON) tests/gpu.py --out $(GPU_OUT)

bench: $(INSTALLED) ## steps, whole runs, loading, commands, ops; WGAN_TORCHVISION=PYTHON for loading (half an hour)
	$(BIN)/python tests/bench/step.py
	$(BIN)/python tests/bench/train.py
	$(BIN)/python tests/bench/load.py
	$(BIN)/python tests/bench/commands.py
	$(BIN)/python tests/bench/ops.py

recipe: $(INSTALLED) ## how soon each preset reaches good samples, WORDS="--data photos.zip ..." (of digits: an hour and a half)
	$(BIN)/python tests/bench/recipe.py $(WORDS)

systems: $(INSTALLED) ## each variant with each architecture for a minute, three seeds: what trains (three hours)
	$(BIN)/python tests/bench/systems.py

clean: ## remove what the targets made
	rm -rf $(VENV) $(CUDA_VENV) $(DEMO) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
