# From a bare machine (python3 >= 3.11, make) to a trained comparison, or to a checked one. `make help` lists the rest.
# pip's own settings (PIP_INDEX_URL and its like) are honoured; on Linux without a GPU, PyTorch's CPU index saves several GB.

PYTHON3 ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install -qq --disable-pip-version-check --no-compile -c constraints.txt
# Python compiles what it imports, once; compiling everything while installing takes longer than the rest of it.
unexport PYTHONDONTWRITEBYTECODE

DEMO_OUT ?= runs/demo
DEMO_ARGS ?= --data shapes --model unet --losses cross_entropy,lovasz_softmax --batch-size 16 --learning-rate 0.003 \
	--pretrain-epochs 10 --epochs 8
PYTEST_ARGS ?=
# The files of tests are dealt out to two processes, of one thread each.
PYTEST_PROCESSES ?= 2
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo install test lint pytest test-minimal browser bench docs format clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-13s %s\n' "$$name" "$$text"; done

demo: $(VENV)/lab ## install, train on drawn shapes with cross-entropy and with Lovász-Softmax, write the report
	@$(BIN)/lovasz compare $(DEMO_ARGS) --out $(DEMO_OUT) $$(test ! -e $(DEMO_OUT) || echo --resume)
	@echo "The report: $(DEMO_OUT)/report.html"

install: $(VENV)/lab ## install the library, the lab and the command lovasz into .venv

test: lint browser pytest ## install what the tests need, then run every check and test

lint: $(VENV)/dev ## ruff (rules and format) and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

pytest: $(VENV)/dev ## the tests alone; PYTEST_ARGS="-k word" chooses
	$(BIN)/python -m pytest -n $(PYTEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-minimal: $(VENV)-minimal/ready ## the library's tests with torch, numpy and pytest only
	$(VENV)-minimal/bin/python -m pytest --ignore=tests/lab --ignore=src/lovasz/lab $(PYTEST_ARGS)

browser: # the report is tested in a real browser: Debian's, where it may be installed; else those tests are skipped
	@if ! command -v chromium >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		echo "Installing Chromium for the tests of the report ..."; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
			chromium; } >/dev/null || echo "No Chromium to be had: the browser tests will be skipped."; \
	fi

bench: $(VENV)/bench ## measure the losses on this machine, beside other libraries; BENCH_ARGS="speed memory" chooses
	PYTHONPATH=$(VENV)/vision $(BIN)/python -m benchmarks $(BENCH_ARGS)

docs: $(VENV)/docs ## install mkdocs, build the documentation strictly into site/; `mkdocs serve` shows it while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "The documentation: site/index.html"

format: $(VENV)/dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environments, caches and builds; runs/ stays
	rm -rf $(VENV) $(VENV)-minimal build dist site .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of packages: a second call installs nothing.

# Prints what an extra of pyproject.toml asks for.
EXTRA := $(BIN)/python -c "import sys, tomllib; \
	print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies'][sys.argv[1]])"

$(VENV)/bin/python $(VENV)-minimal/bin/python:
	@$(PYTHON3) -c 'import sys; sys.exit("lovasz needs Python 3.11 or newer; $(PYTHON3) is " + sys.version.split()[0] \
		+ ". Name another: make PYTHON3=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON3) -m venv $(@:/bin/python=)

$(VENV)/lab: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing lovasz and its lab into $(VENV) (a minute or two) ..."
	@$(BIN)/python $(PIP_INSTALL) -e '.[lab]'
	@touch $@

# torchvision apart, where only the tests and benchmarks that need it look: built for CUDA beside a CPU build of torch, as
# the package index has it, it does not load, and its mere presence breaks torchmetrics and transformers.
$(VENV)/vision/ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	@rm -rf $(@D)
	@$(BIN)/python $(PIP_INSTALL) --no-deps --target $(@D) $$($(EXTRA) vision)
	@touch $@

$(VENV)/dev: pyproject.toml constraints.txt $(VENV)/vision/ready | $(VENV)/bin/python
	@echo "Installing lovasz, its lab and the test tools into $(VENV) (a minute or two) ..."
	@$(BIN)/python $(PIP_INSTALL) -e '.[dev]'
	@$(BIN)/python $(PIP_INSTALL) --no-deps cityscapesScripts==2.3.0 pyquaternion==0.9.9
	@$(BIN)/python $(PIP_INSTALL) pydensecrf2 2>/dev/null || echo "The CRF (pydensecrf2) cannot be built here: its tests will be skipped."
	@touch $@ $(VENV)/lab

# After torch: these take the torch that is there, and so bring no CUDA packages beside a CPU build of it.
$(VENV)/bench: $(VENV)/lab $(VENV)/vision/ready
	@echo "Installing the libraries to compare with into $(VENV) (a minute or two) ..."
	@$(BIN)/python $(PIP_INSTALL) -e '.[bench]'
	@touch $@

# The pages are built from the source's text, which needs neither torch nor the package itself.
$(VENV)/docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing mkdocs into $(VENV) ..."
	@$(BIN)/python $(PIP_INSTALL) $$($(EXTRA) docs)
	@touch $@

$(VENV)-minimal/ready: pyproject.toml constraints.txt | $(VENV)-minimal/bin/python
	@echo "Installing lovasz, pytest and nothing else into $(VENV)-minimal ..."
	@$(@D)/bin/python $(PIP_INSTALL) -e . pytest
	@touch $@
