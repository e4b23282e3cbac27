# Every target works from a fresh clone, with no step before it, and repeats nothing that is done.
# Needs Python 3.11 to 3.13 with venv. To choose one: make PYTHON=/path/to/python3.12 run
# The environment is made here: keep its bytecode, or each start of TensorFlow takes 10 s instead of 4.
unexport PYTHONDONTWRITEBYTECODE
export IPYTHONDIR := $(CURDIR)/build/ipython$(shell mkdir -p build/ipython 2>/dev/null)
PARAMS ?= params/quick.yaml
SWEEP ?= sweeps/seeds.yaml
VENV := .venv
PY := $(VENV)/bin/python
STEADY := TF_ENABLE_ONEDNN_OPTS=0 ONEDNN_MAX_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=SSE41 \
	TF_NUM_INTRAOP_THREADS=1,TF_NUM_INTEROP_THREADS=1 TF_NUM_INTRAOP_THREADS=2,TF_NUM_INTEROP_THREADS=2
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11 python; do \
	"$$p" -c '$(SUPPORTED)' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
# Was the environment made in this very folder? One that was moved, copied or left half made is made anew.
IN_PLACE := ( . $(VENV)/bin/activate && [ "$$VIRTUAL_ENV" -ef $(VENV) ] && $(PY) -c "" ) 2>/dev/null
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
UV := $(PY) -m uv pip install --quiet --python $(PY) -c constraints.txt

.PHONY: run test test-slow test-all coverage mutants steady setup data lab notebooks slides book sweep bench lint lock help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*##/ {printf "%-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: data  ## notebooks 01 to 04 on the real data, into runs/quick (PARAMS=params/full.yaml: runs/full)
	@$(PY) -m fmnist_utils.pipeline "$(PARAMS)"

test: dev-tools data  ## unit tests, contracts of the notebooks, strict nbval
	@$(PY) -m pytest tests -m "not slow" -n 2 --dist loadfile
	@$(PY) -m pytest --nbval notebooks/[0-9][0-9]_*[a-z].ipynb --nbval-cell-timeout=1200 -n 2 --dist loadfile

test-slow: dev-tools data  ## the slow tests alone
	@$(PY) -m pytest tests -m slow
	@$(PY) -m pytest --nbval notebooks/solutions --nbval-cell-timeout=600

test-all: test test-slow  ## the slow tests too: faults, twice-run cells, a browser, solutions

coverage: dev-tools data  ## which lines of the package do the unit tests run? fails below 95 %
	@rm -rf build/coverage && mkdir -p build/coverage
	@$(PY) -m coverage run -m pytest tests -m "not slow" -n 2 --dist loadfile
	@$(PY) -m coverage combine -q
	@$(PY) -m coverage report

mutants: dev-tools data  ## do the tests catch a wrong result? small faults against every gate (over an hour)
	@$(PY) tests/mutants.py

steady: dev-tools data  ## make test under settings that stand in for other processors, one by one (an hour)
	@for s in $(STEADY); do echo "== $$s"; env $$(echo $$s | tr , ' ') $(MAKE) -s test || red="$$red $$s"; done; \
		test -z "$$red" || { echo "not green:$$red"; exit 1; }

setup: $(VENV)/.ready  ## the virtual environment

ifneq ($(shell $(IN_PLACE) && echo yes),yes)
.PHONY: $(VENV)/.ready
endif
$(VENV)/.ready: requirements.txt constraints.txt pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "No Python 3.11 to 3.13 with venv found (Debian, Ubuntu: apt install python3-venv). Name one: make PYTHON=/path/to/python3.12"; exit 1; fi
	@$(IN_PLACE) && $(PY) -m pip --version >/dev/null 2>&1 || { \
		echo "making $(VENV) with $$("$(PYTHON)" --version)"; "$(PYTHON)" -m venv --clear $(VENV); }
	@echo "installing requirements.txt (about 800 MB on the first time)"
	@$(PIP) uv && $(UV) -r requirements.txt -e . || { echo "trying pip alone"; $(PIP) -r requirements.txt -e .; }
	@touch $@

data: setup  ## the data set, fetched once and checked
	@$(PY) -m fmnist_utils.data

lab: data  ## JupyterLab on the notebooks
	@$(PY) -m jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/notebooks/01_data_exploration.ipynb

notebooks: dev-tools data  ## execute the committed notebooks afresh and store them, the reference run too
	@$(PY) tools/store_notebooks.py

slides: setup  ## reveal.js slides of the notebooks, build/slides/*.html, that open without a network (needs npm)
	@$(PY) tools/make_slides.py

book: dev-tools  ## a site of the notebooks as stored, build/book, that opens without a network (REPOSITORY=https://github.com/OWNER/NAME)
	@REPOSITORY="$(REPOSITORY)" $(PY) tools/make_book.py

sweep: data  ## many runs side by side: make sweep SWEEP=sweeps/seeds.yaml OPTIONS="--workers 2"
	@$(PY) -m fmnist_utils.sweep "$(SWEEP)" $(OPTIONS)

bench: data  ## time to accuracy, beside the recipes people would use instead (hours; goes on where it was stopped)
	@$(PY) benchmarks/time_to_accuracy.py

lint: dev-tools  ## ruff on package, tests and notebooks
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

lock: dev-tools  ## renew constraints.txt
	@$(PY) -m uv pip compile --universal --python-version 3.11 --no-header --no-annotate --upgrade requirements.txt requirements-dev.txt -o constraints.txt

.PHONY: dev-tools
dev-tools: $(VENV)/.dev-ready
$(VENV)/.dev-ready: requirements-dev.txt $(VENV)/.ready
	@$(UV) -r requirements-dev.txt || { echo "trying pip alone"; $(PIP) -r requirements-dev.txt; }
	@touch $@
