# What a developer types. On a machine with python3, git and make, `make demo` and `make test` do the rest themselves:
# .tools gets a pinned uv, .venv gets exactly what requirements/all.txt pins (with hashes) and the `palate` command.

PYTHON ?= python3
OUT ?= demo-out
PYTEST_ARGS ?=
THREADS ?= 2

VENV := .venv
UV := .tools/bin/uv
READY := $(VENV)/.ready
DOCS_VENV := .venv-docs
DOCS_READY := $(DOCS_VENV)/.ready
FOLDERS := client server shared simulations
CODE := $(FOLDERS) tests benchmarks docs

# Two small cores are the yardstick; unbounded thread pools fight each other there.
export OMP_NUM_THREADS ?= $(THREADS)
export TOKENIZERS_PARALLELISM = false
export HF_HUB_OFFLINE = 1
# The interpreter is the machine's own; uv must not fetch another.
export UV_PYTHON_DOWNLOADS = never

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo federation-demo test test-all lint format format-check types bench docs requirements clean

help: ## say what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(READY) ## make .venv with the palate command in it

# The stamp is older than its causes whenever the pins, the packaging or the installer's version change.
$(READY): pyproject.toml requirements/all.txt $(UV)
	@$(UV) venv --quiet --allow-existing --python .tools/bin/python $(VENV)
	@echo "Installing what requirements/all.txt pins into $(VENV) (about 2.5 GB to fetch the first time) ..."
	@# Compiled now: where Python may not write beside the packages, every start would compile them anew, ten seconds for a picture.
	@$(UV) pip sync --quiet --compile-bytecode --python $(VENV)/bin/python --require-hashes requirements/all.txt
	@$(UV) pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

$(UV): requirements/tools.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Palate needs Python 3.11 or newer as $(PYTHON) (found: $$($(PYTHON) --version 2>&1)); name another with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv --clear .tools || { \
		echo "$(PYTHON) -m venv failed; on Debian and Ubuntu install the package python3-venv, then run make again" >&2; exit 1; }
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/tools.txt
	@touch $@

# mypy and editors see the folders as palate.<folder> through this tree of links.
.typing/palate: Makefile
	@rm -rf .typing && mkdir -p $@
	@for folder in $(FOLDERS); do ln -s ../../$$folder $@/$$folder; done

demo: $(READY) ## the main job on pictures and comments that ship with the project; OUT=folder
	$(VENV)/bin/palate demo --out $(OUT)

federation-demo: $(READY) ## a server and three devices as processes, killed and restarted; what they sent is searched; OUT=folder
	$(VENV)/bin/python -m palate.simulations.federation_demo --out $(OUT)/federation

test: $(READY) ## the tests that need no GPU, browser or network and no patience; PYTEST_ARGS=...
	$(VENV)/bin/python -m pytest -m "not slow and not gpu and not browser and not network" $(PYTEST_ARGS)

test-all: $(READY) ## the slow tests too
	$(VENV)/bin/python -m pytest -m "not gpu and not browser and not network" $(PYTEST_ARGS)

lint: $(READY) ## ruff's rules
	$(VENV)/bin/ruff check $(CODE)

format: $(READY) ## lay the code out
	$(VENV)/bin/ruff check --select I --fix $(CODE)
	$(VENV)/bin/ruff format $(CODE)

format-check: $(READY) ## is the code laid out?
	$(VENV)/bin/ruff format --check $(CODE)

types: $(READY) .typing/palate ## mypy, strict, on our own code
	$(VENV)/bin/mypy

bench: $(READY) ## every row of the benchmark table; writes benchmarks/results.json
	$(VENV)/bin/python -m benchmarks

# Apart from .venv, so that nobody needs it who does not build the pages; it has no torch.
$(DOCS_READY): requirements/docs.txt $(UV)
	@$(UV) venv --quiet --allow-existing --python .tools/bin/python $(DOCS_VENV)
	@$(UV) pip sync --quiet --python $(DOCS_VENV)/bin/python --require-hashes requirements/docs.txt
	@touch $@

docs: $(DOCS_READY) .typing/palate ## the documentation as pages, in docs-out/; a dead link is an error
	PYTHONPATH=.typing NO_MKDOCS_2_WARNING=true $(DOCS_VENV)/bin/python -m mkdocs build --strict --site-dir docs-out

requirements: $(UV) ## pin anew what pyproject.toml asks for
	$(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		requirements/tools.in --output-file requirements/tools.txt
	$(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		--extra device --extra heic --extra federate --extra tensorboard --extra simulate --extra recipes --extra dev \
		--constraints requirements/constraints.txt pyproject.toml --output-file requirements/all.txt
	$(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		--extra docs --constraints requirements/all.txt pyproject.toml --output-file requirements/docs.txt

clean: ## remove what make made
	rm -rf $(VENV) $(DOCS_VENV) .tools .typing .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info demo-out docs-out
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
