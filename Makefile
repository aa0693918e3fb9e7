# Every target makes the virtual environment .venv first if need be, and only
# once; `make clean` removes it.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Tests compare with mamba-ssm's reference functions, for which its Python
# files suffice: no CUDA, no compiler, none of its own requirements.
MAMBA_SSM := mamba-ssm==2.3.1

# Compiled on installation.
KERNELS := ascmamba_modules/selective_scan/cpu/kernels

.PHONY: demo test test-gpu lint bench bench-gpu clean

demo: $(READY)
	$(BIN)/python recipes/ASC/run_all.py demo --demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(READY)
	$(BIN)/pip install --quiet -e '.[bench]'
	$(BIN)/python benchmarks/selective_scan.py
	$(BIN)/python benchmarks/model.py
	$(BIN)/python benchmarks/classify.py

bench-gpu: $(READY)
	$(BIN)/pip install --quiet -e '.[bench]'
	$(BIN)/python benchmarks/gpu.py

$(READY): setup.py $(wildcard $(KERNELS)/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'Python 3.10 or newer is needed: make PYTHON=python3.12 ...'; \
	    exit 1; }
	@echo '== Making the virtual environment .venv (once, a few minutes)'
	@$(PYTHON) -m venv .venv || \
	  { echo 'venv is missing: install it, e.g. apt install python3-venv'; \
	    rm -rf .venv; exit 1; }
	$(BIN)/pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/pip install --quiet -e '.[test]'
	MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE $(BIN)/pip install \
	  --quiet --no-deps --no-build-isolation $(MAMBA_SSM)
	@touch $@

clean:
	rm -rf .venv
