PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The oldest Triton that setup.py allows, beside the pinned one: the kernels must compile with both.
OLDEST_TRITON := 3.6.0
BESIDE := $(VENV)/triton-$(OLDEST_TRITON)

# CUDA=13 swaps the DALI build: an extra of pip can only add packages.

.PHONY: install demo test check gpu-check fmt clean

install: $(READY)

$(READY): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
ifeq ($(CUDA),13)
	$(BIN)/python -m pip uninstall --quiet --yes nvidia-dali-cuda120
	$(BIN)/python -m pip install --quiet --constraint constraints.txt nvidia-dali-cuda130
endif
	touch $@

demo: $(READY)  ## search the embedded task: makes its videos, finds a plan, trains it
	$(BIN)/fastplan train --state-graph default $(ARGS)

$(BESIDE)/.ready: $(READY)
	rm -rf $(BESIDE)
	$(BIN)/python -m pip install --quiet --no-deps --target $(BESIDE) triton==$(OLDEST_TRITON)
	touch $@

test: $(READY) $(BESIDE)/.ready  ## the whole test suite, in two processes; ARGS="tests/x -k y"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY)  ## format, lint, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

gpu-check: $(READY)  ## a GPU in 8 minutes: kernels right? how fast? ARGS=--help; --allow-missing where there is none
	$(BIN)/python -m fastplan.benchmarks.gpu_check $(ARGS)

fmt: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
