# Each target sets up what it needs in .venv. TORCH=cpu takes PyTorch's small CPU build on Linux (after `make clean`).
PYTHON ?= python3
TORCH ?= default
BIN := .venv/bin
CPU_INDEX := --index-url https://download.pytorch.org/whl/cpu
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
OFFLINE := DISTAR_PROFILE=ci PYTHONPATH=tests/offline

.PHONY: demo test lint lab notebooks bench clean

demo: .venv/base
	$(BIN)/distar demo

test: .venv/dev lint
	$(PYTEST) -n auto --dist worksteal
	$(OFFLINE) $(PYTEST) --nbmake --durations=0 notebooks/*.ipynb
	DISTAR_STRICT=1 $(OFFLINE) $(PYTEST) --nbmake --durations=0 notebooks/solutions

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: .venv/notebooks .venv/models
	$(BIN)/jupyter lab notebooks/00_score_vs_kl.ipynb

notebooks: .venv/notebooks
	$(BIN)/python -m tools.build

bench: .venv/base
	$(BIN)/distar bench toy

.venv/base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, and $(PYTHON) is older; pass PYTHON=python3.12, say"; exit 1; }
	@echo "Setting up .venv: on Linux 2.9 GB to download and 5.5 GB on disk, with TORCH=cpu about 0.3 and 1 GB; pip is silent for minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
ifeq ($(TORCH),cpu)
	$(BIN)/python -m pip install --quiet torch torchvision $(CPU_INDEX)
endif
	$(BIN)/python -m pip install --quiet -e .
	touch $@

.venv/notebooks .venv/models .venv/dev: .venv/base
	$(BIN)/python -m pip install --quiet -e ".[$(@F)]"
	touch $@

clean:
	rm -rf .venv build
