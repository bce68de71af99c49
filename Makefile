# Set-up and checks on Linux and macOS. On Windows, use pip: see README.md.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tried in this order, by running them: a shim can be there and fail.
PYTHON ?= python3.12 python3.13 python3.14 python3 python

# A file's tests stay together, as they share fixtures. OpenMP's threads, as many in each
# worker as there are cores, must not spin while they wait.
ON_ALL_CORES ?= -n logical --maxprocesses 8 --dist loadfile
test test-media test-long: export OMP_WAIT_POLICY ?= PASSIVE

# An environment whose interpreter has gone (upgraded, moved) is made anew.
ALIVE := $(shell $(BIN)/python -c 'print("yes")' 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-media test-long test-gpu check lint lock clean anew

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

venv: $(STAMP)  ## make .venv with everything pinned in constraints.txt

anew:

# The stamp is written last and taken away first, so that whatever is interrupted
# starts over the next time.
$(STAMP): pyproject.toml constraints.txt $(if $(ALIVE),,anew)
	@if [ ! -e $(STAMP) ] || [ -z "$(ALIVE)" ]; then \
	  rm -rf $(VENV); \
	  for python in $(PYTHON); do \
	    "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' \
	      >/dev/null 2>&1 || continue; \
	    "$$python" -m venv $(VENV) >/dev/null 2>&1 && break; \
	    rm -rf $(VENV); \
	  done; \
	  if [ ! -d $(VENV) ]; then \
	    echo "No working Python >= 3.12 with venv found (tried: $(PYTHON)); install" \
	      "python3.12 and python3.12-venv, or name one: make PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	  fi; \
	fi
	@rm -f $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)  ## upscale a real clip 4x, sound and timing kept
	@mkdir -p demo
	$(BIN)/python -m hatvid upscale tests/data/bunny_320x180.mp4 \
	  -o demo/bunny_1280x720.mp4 --scale 4 --overwrite
	@echo "The result lies at demo/bunny_1280x720.mp4"

test: $(STAMP)  ## the tests that need nothing but this, some minutes
	$(BIN)/python -m pytest $(ON_ALL_CORES)

test-media: $(STAMP)  ## those with ffmpeg and ffprobe, a browser and a C++ compiler
	$(BIN)/python -m pytest -m "media and not long and not calm" $(ON_ALL_CORES)

test-long: $(STAMP)  ## kills, fuzzing, long clips
	$(BIN)/python -m pytest -m long $(ON_ALL_CORES)

test-gpu: $(STAMP)  ## the tests that need an NVIDIA GPU; a missing GPU is a failure
	$(BIN)/python -m pytest -m needs_cuda --require-cuda

lint: $(STAMP)  ## ruff and mypy --strict
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy --strict
	$(BIN)/python -m mypy --strict benchmarks

check: lint test  ## lint, then test

# A clean install of everything but tensorrt, with no pins, becomes the new pins.
# torch stays at the release that the newest torch-tensorrt (2.14) is built for.
lock: $(STAMP)  ## make constraints.txt anew from the newest releases
	@rm -rf build/lock
	$(BIN)/python -m venv build/lock
	build/lock/bin/python -m pip install --disable-pip-version-check --quiet \
	  -e '.[dev,train,bench,cluster]' 'torch<2.15'
	@{ sed -n '/^#/p' constraints.txt; \
	  build/lock/bin/python -m pip freeze --exclude-editable; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt
	@rm -rf build/lock

clean:  ## remove what was built and cached, but not .venv
	rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find hatvid plugins tests -name __pycache__ -type d -prune -exec rm -rf {} +
