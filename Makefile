# `make help` lists the targets. PYTHON is any Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
MODEL ?= $(shell $(BIN)/python -c "from onnx.backend.test.data import __path__ as p; print(p[0])" 2>/dev/null)/light/light_resnet50.onnx

.DEFAULT_GOAL := help
.PHONY: help setup run check lint types docs bench

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(VENV)/.installed ## install Polystage, editable, with the tools for its development, into .venv

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -e '.[dev]'
	touch $@

run: setup ## compile and simulate the ResNet-50 that ships with onnx
	$(BIN)/polystage run $(MODEL) --target neuroncore_v2

check: setup ## run all tests
	$(BIN)/lit -sv test
	$(BIN)/pytest -n auto test

lint: setup ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## check types
	cmake -S . -B build -DPython3_EXECUTABLE=$(abspath $(BIN)/python)
	$(BIN)/pyright

docs: setup ## write docs/reference from the code
	$(BIN)/python -m polystage.tools.docs

bench: setup ## run the benchmarks behind the README's figures
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done
