# Each target sets up what it needs in .venv. TORCH=cpu takes PyTorch's small CPU build on Linux (after `make clean`);
# CONSTRAINTS=constraints.txt takes the versions with which the tests last passed.
PYTHON ?= python3
TORCH ?= default
CONSTRAINTS ?=
ONLY ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
CPU_INDEX := --index-url https://download.pytorch.org/whl/cpu
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL := -n auto --dist worksteal
OFFLINE := DISTAR_PROFILE=ci PYTHONPATH=tests/offline

.PHONY: demo check test unit course lint lab notebooks site generated constraints wheel web bench clean

demo: .venv/base
	$(BIN)/distar demo

check: .venv/dev lint
	$(PYTEST) $(PARALLEL) -m "not slow"

test: lint unit course

unit: .venv/dev
	$(PYTEST) $(PARALLEL)

course: .venv/dev
	$(OFFLINE) $(PYTEST) $(PARALLEL) --nbmake --durations=0 notebooks/*.ipynb
	DISTAR_STRICT=1 $(OFFLINE) $(PYTEST) $(PARALLEL) --nbmake --durations=0 notebooks/solutions

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: .venv/notebooks .venv/models
	$(BIN)/jupyter lab notebooks/00_score_vs_kl.ipynb

notebooks: .venv/notebooks
	$(BIN)/python -m tools.build

# The course's site in build/site/html. ONLY=00,04 runs these notebooks alone and shows the others as they were run before, if they were.
site: .venv/site
	$(BIN)/python -m tools.site $(if $(ONLY),--only $(ONLY))

# Notebooks, EXPERIMENTS.md and the world's card from their sources; fails if that changes any of them.
generated: .venv/dev
	$(BIN)/python -m tools.generated
	git diff --exit-code --stat -- notebooks distar_core/world/weights/README.md

# After a green `make test`: the versions it passed with, names and versions only.
constraints: .venv/dev
	$(BIN)/python -m tools.constraints > constraints.txt

wheel: .venv/dev
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# For developers of the playgrounds: docs/web/leash.js, theorem.js and painters.js from their sources, by Node.js and npm.
web:
	cd docs/web && npm ci --no-audit --no-fund && npm run check && npm run build

bench: .venv/base
	$(BIN)/distar bench toy

.venv/base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, and $(PYTHON) is older; pass PYTHON=python3.12, say"; exit 1; }
	@echo "Setting up .venv: on Linux 2.9 GB to download and 5.5 GB on disk, with TORCH=cpu about 0.3 and 1 GB; pip is silent for minutes"
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
ifeq ($(TORCH),cpu)
	$(PIP) torch torchvision $(CPU_INDEX)
endif
	$(PIP) -e .
	touch $@

.venv/notebooks .venv/models .venv/site .venv/dev: .venv/base
	$(PIP) -e ".[$(@F)]"
	touch $@

clean:
	rm -rf .venv build dist
