# setup · demo · test · lint. `make demo` and `make test` each do all that they need, set-up included.
#
#   make setup PYTHON=python3.12                             with another Python, 3.11 or later
#   make setup TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
#                                                            PyTorch without several GB of CUDA

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
TORCH ?= torch
BIN := $(VENV)/bin

.PHONY: setup demo test lint
.DELETE_ON_ERROR:

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later was found; give one: make setup PYTHON=..." >&2; exit 1; }
	@echo "Installing into $(VENV); this takes some minutes and about 3 GB."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: setup
	@$(BIN)/bpbench run experiments/xor.py experiments/digits.py \
		--dtype float64 --dtype float32 --rounds 12 --processes 1 --out results/demo; code=$$?; \
	$(BIN)/bpbench report results/demo --output results/demo.md && exit $$code

test: setup
	@# two files side by side; those that take longest first, as tests/conftest.py orders them
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder --require-backends

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# mypy looks for bpbench.backends below bpbench/, where the installed package has it
	@rm -rf build/typed && mkdir -p build/typed && cp -R bpbench build/typed/ && cp -R backends build/typed/bpbench/
	cd build/typed && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache
