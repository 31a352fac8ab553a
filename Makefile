# Every target sets up what it needs; `make` alone tells what there is.
PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
DATA ?= archive.zip
MINUTES ?= 12
NPM ?= npm

.DEFAULT_GOAL := help
.PHONY: help venv demo model model-gpu page page-if-npm wheel test lint check docs benchmark clean

help:  ## tell what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

venv: $(READY)  ## set up .venv with everything (done by the others, where the requirements have changed)

$(READY): pyproject.toml requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: $(READY)  ## the whole path on drawn faces: data, training, report, prediction (minutes, no download)
	$(BIN)/python scripts/demo.py

model: $(READY)  ## make the shipped models again from DATA=archive.zip (hours; goes on where it was stopped)
	$(BIN)/python scripts/remake.py --data "$(DATA)"

# Sets up nothing: on a lent machine there may be neither a network nor the time. PYTHON is one with PyTorch.
model-gpu:  ## make the models on a GPU within MINUTES=12 from DATA=archive.zip; TEACHERS=, MINI= and NANO= are folders
	PYTHONPATH="src:$$PYTHONPATH" $(PYTHON) scripts/model_gpu.py --data "$(DATA)" --minutes $(MINUTES) \
		$(if $(OUT),--share "$(OUT)") $(if $(TEACHERS),--teachers $(TEACHERS)) \
		$(if $(MINI),--mini "$(MINI)") $(if $(NANO),--nano "$(NANO)") $(if $(FOLDS),--folds $(FOLDS))

page: $(READY) node_modules/.package-lock.json  ## the page of mien serve, and dist/page for any web server (needs npm)
	PYTHONPATH=src $(BIN)/python scripts/build_page.py

node_modules/.package-lock.json: package.json package-lock.json
	$(NPM) ci --no-progress
	@touch $@

page-if-npm:
	@if command -v $(NPM) > /dev/null; then $(MAKE) --no-print-directory page; \
		else echo "make: there is no npm: the page of this wheel reads pictures on the server only" >&2; fi

wheel: $(READY)  ## dist/mien-VERSION-py3-none-any.whl, with the page if there is npm
	rm -rf build dist
	@$(MAKE) --no-print-directory page-if-npm
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

test: $(READY)  ## the tests; MIEN_FER2013=archive.zip adds those on real data
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## style, types and tests

docs: $(READY)  ## site/: the pages, from docs/ and docstrings
	$(BIN)/python -m mkdocs build --strict --site-dir site

benchmark: $(READY)  ## images a second of the input pipeline beside torchvision's loader
	$(BIN)/python benchmarks/input_pipeline.py

clean:  ## remove .venv, caches and what the demo wrote
	rm -rf $(VENV) build dist node_modules site src/mien/web/page/built src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
	rm -rf runs/demo reports/demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
