# Every chore has a target here; `make` alone lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := demo

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The installed package is what is tested, so it is installed again when a file of it changes.
$(INSTALLED): pyproject.toml setup.py $(wildcard wgan_cli/*.py)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check '.[dev]'
	touch $@

demo: $(DEMO)/ranking.tsv ## train on the embedded digits, draw a grid, rank the digits (a few minutes)
	@echo "the most and the least typical digits: $(DEMO)/ranking.tsv; samples: $(DEMO)/grid.png"

$(DEMO)/ckpt.pt: $(INSTALLED) examples/digits.zip
	$(BIN)/wgan train --data examples/digits.zip --width 24 --batch 32 --lr 1e-3 --n-critic 2 \
	  --ema 0.98 --steps 1500 --save-every 250 --sample-every 250 -o $(DEMO)
	@touch $@

$(DEMO)/grid.png: $(DEMO)/ckpt.pt
	$(BIN)/wgan sample $< -n 64 -o $@

$(DEMO)/ranking.tsv: $(DEMO)/ckpt.pt $(DEMO)/grid.png
	$(BIN)/wgan critic-score $< examples/digits.zip --summary | sort -g > $@
	@head -n 3 $@; echo ...; tail -n 3 $@

test: $(INSTALLED) ## the whole test suite
	$(BIN)/pytest

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove what the targets made
	rm -rf $(VENV) $(DEMO) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
