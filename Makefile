# Each target sets up .venv first if need be; nothing but Python 3.11 or newer, make and a C compiler is asked for.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: venv demo test test-all studio test-torch-free test-published lint format docs bench clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[data,train,dev]"
	touch $@

demo: venv
	mkdir -p demo
	$(BIN)/diffusionsat generate "a river through green fields" --lnglat 7.44,46.95 --date 2019-07 --gsd 10 --seed 7 -o demo/river.tif --overwrite
	$(BIN)/diffusionsat generate "a river through green fields" --lnglat 7.44,46.95 --date 2019-07 --gsd 10 --seed 7 -o demo/river.png --overwrite
	@echo "A synthetic satellite image lies in demo/river.tif (GeoTIFF) and demo/river.png (to look at)."

test: venv
	$(BIN)/python -m pytest -m "not slow"

test-all: venv
	$(BIN)/python -m pytest

lint: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: venv
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: venv
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "The documentation lies in docs/_build/html/index.html."

# The studio's vendored files, again from npm; not needed for anything else.
studio:
	node scripts/build_studio.mjs

bench: venv
	$(BIN)/python benchmarks/generate.py

clean:
	rm -rf $(VENV) $(TORCH_FREE) $(PUBLISHED) build dist demo docs/_build

# The rooms that need no torch, on another Python: make test-torch-free PYTHON=python3.13
TORCH_FREE := .venv-torch-free
test-torch-free:
	$(PYTHON) -m venv --clear $(TORCH_FREE)
	$(TORCH_FREE)/bin/pip install --quiet --disable-pip-version-check affine click numpy pillow pydantic pyproj pyyaml \
		rasterio rich rio-cogeo hypothesis jsonschema pystac pytest pytest-socket scipy
	$(TORCH_FREE)/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	$(TORCH_FREE)/bin/python -m pytest tests/test_metadata.py tests/test_noise_keys.py tests/test_files.py \
		tests/test_config.py tests/geo tests/tasks/test_scene.py

# Scripts of the published package, in an environment with nothing but the extra [published].
PUBLISHED := .venv-published
test-published:
	$(PYTHON) -m venv --clear $(PUBLISHED)
	$(PUBLISHED)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt ".[published]"
	$(PUBLISHED)/bin/pip install --quiet --disable-pip-version-check pytest pytest-socket
	$(PUBLISHED)/bin/python -m pytest tests/compat tests/checkpoints/test_published.py
