# Each target sets up what it needs in .venv. TORCH=cpu takes PyTorch's small CPU build on Linux.
PYTHON ?= python3
TORCH ?= default
BIN := .venv/bin
CPU_INDEX := --index-url https://download.pytorch.org/whl/cpu

.PHONY: demo test lab notebooks bench lint clean

demo: .venv/base
	$(BIN)/distar demo

test: .venv/dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal
	OMP_NUM_THREADS=1 DISTAR_PROFILE=ci PYTHONPATH=tests/offline $(BIN)/python -m pytest --nbmake notebooks

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: .venv/dev
	$(BIN)/python -m distar_core.course.build

lab: .venv/dev notebooks
	$(BIN)/jupyter lab notebooks/00_score_vs_kl.ipynb

bench: .venv/base
	$(BIN)/distar bench toy

.venv/base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is older; pass PYTHON=python3.12, say"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
ifeq ($(TORCH),cpu)
	$(BIN)/python -m pip install --quiet torch torchvision $(CPU_INDEX)
endif
	$(BIN)/python -m pip install --quiet -e .
	touch $@

.venv/dev: .venv/base
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

clean:
	rm -rf .venv demo build
