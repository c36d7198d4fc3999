# make demo    set up and run the main job on the embedded default: train on three splits, evaluate, compare
# make test    set up and run the tests
# make docs    set up and build the documentation as pages
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := outputs/demo
KERNEL := psftr/ops/_native/libpsftr_ops.so
BUILD_KERNEL := psftr/ops/build_native.py

.PHONY: setup demo test lint types docs wheel clean

setup: $(VENV)/.installed $(KERNEL)

# the CPU kernel, where there is a C compiler; without it PyTorch computes the same, and the demo takes 1.1 times as long
$(KERNEL): psftr/ops/csrc/temporal_deform_attn.c $(BUILD_KERNEL)
	@$(PYTHON) $(BUILD_KERNEL) > /dev/null 2>&1 || \
		echo "the CPU kernel was not built, and PyTorch computes in its place ($(PYTHON) $(BUILD_KERNEL) says why)"

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "psftr needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/psftr train -m split.index=0,1,2 hydra.launcher.jobs=3 hydra.sweep.dir=$(DEMO)
	$(BIN)/psftr evaluate run=$(DEMO) baseline=true audit=true

# a process for each core; a file's tests stay together, because they share what is slow to make
test: setup
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# the documentation as pages, in site/
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# a wheel with the prebuilt CPU kernel in it (needs a C compiler here, never at the user's)
wheel: setup
	PSFTR_BUILD_NATIVE=1 $(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) $(KERNEL) build dist site *.egg-info
