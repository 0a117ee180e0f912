# `make demo` and `make test` work on a fresh machine with Python 3.11 or 3.12, gcc, make and a package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= $(if $(IMAGES)$(TEACHER),runs/demo-mine,runs/demo)
PYTEST_FLAGS ?=
# As many tests at a time as there are cores, in an order that is drawn anew; the seed is printed.
PYTEST = $(BIN)/python -m pytest --numprocesses logical --dist worksteal $(PYTEST_FLAGS)

# Clusters are tested one after the other: they have been run in no other way, and wait more than they compute.
ALONE = --numprocesses 0 -p no:randomly

# DeepSpeed must not compile its GPU operators while being installed.
export DS_BUILD_OPS := 0

.PHONY: help demo test test-cluster test-all test-changed docs lint setup-downstream clean
help:
	@echo "make demo [IMAGES=folder] [TEACHER=timm:NAME] [OUT=folder]   the main job on real photographs, in minutes"
	@echo "make test                                                    the tests; docs/testing.md says what they cost"
	@echo "make test-cluster                                            hosts, Slurm and images of its own; needs root"
	@echo "make test-all                                                and every exhaustive sweep: the check of a release"
	@echo "make setup-downstream                                        MMSegmentation and MMDetection, mmcv compiled once"
	@echo "make docs                                                    the documentation site, in docs/_build/html"
	@echo "make lint                                                    ruff and mypy"

demo: $(VENV)/demo.stamp
	$(BIN)/fd-scale demo --out $(OUT) $(if $(IMAGES),--images $(IMAGES)) $(if $(TEACHER),--teacher $(TEACHER))

test: $(VENV)/dev.stamp $(VENV)/downstream.stamp
	$(PYTEST)

# Hosts are network namespaces with daemons of their own; docs/testing.md says which packages of Debian they need.
test-cluster: $(VENV)/dev.stamp $(VENV)/downstream.stamp
	$(PYTEST) $(ALONE) -m cluster --timeout 900 tests/cluster

# With the sweeps of which `make test` runs a spread. What passed is recorded in tests/parts.json.
test-all: $(VENV)/dev.stamp $(VENV)/downstream.stamp
	$(PYTEST) -m "exhaustive or not exhaustive and not cluster" --timeout 1800
	$(PYTEST) $(ALONE) -m cluster --timeout 900 tests/cluster
	cd tests && ../$(BIN)/python -m support.parts record

# The sweeps of the files that have changed since `make test-all` passed; tests/support/parts.py is the map.
test-changed: $(VENV)/dev.stamp $(VENV)/downstream.stamp
	cd tests && ../$(BIN)/python -m support.parts
	changed="$$(cd tests && ../$(BIN)/python -m support.parts changed)" && \
		sweeps="$$(echo "$$changed" | grep -v ^tests/cluster/ || true)" && \
		clusters="$$(echo "$$changed" | grep ^tests/cluster/ || true)" && \
		if [ -n "$$sweeps" ]; then $(PYTEST) -m exhaustive --timeout 1800 $$sweeps; fi && \
		if [ -n "$$clusters" ]; then $(PYTEST) $(ALONE) -m cluster --timeout 900 $$clusters; fi

# Strictly: a warning, such as a link that leads nowhere, is an error. tests/docs/test_site.py builds it likewise.
docs: $(VENV)/docs.stamp
	$(BIN)/python -m sphinx --builder html --fail-on-warning docs docs/_build/html

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup-downstream: $(VENV)/downstream.stamp

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
		{ echo "fd_scale needs Python 3.11 or 3.12, and $(PYTHON) is another; try make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

# A stamp says for which pyproject.toml the packages were installed.
$(VENV)/%.stamp: pyproject.toml | $(BIN)/python
	@echo "installing the pinned packages into $(VENV); torch alone is several GB, a few minutes when nothing is cached"
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

# mmcv is compiled once for each torch and Python, into a cache outside of the checkout; tools/build_mmcv.py says how.
# The libraries ask for both builds of OpenCV, which overwrite each other; the one for servers needs no libGL and wins.
$(VENV)/downstream.stamp: pyproject.toml tools/build_mmcv.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[mmcv-build]'
	wheels="$$($(BIN)/python tools/build_mmcv.py)" && \
		$(BIN)/python -m pip install --quiet --find-links "$$wheels" --only-binary onedl-mmcv --editable '.[downstream]'
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps \
		"opencv-python-headless==$$($(BIN)/python -c 'from importlib import metadata; print(metadata.version("opencv-python-headless"))')"
	touch $@
