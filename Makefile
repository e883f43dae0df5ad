# make demo | demo-curate | evaluate-demo | rft | story | test | test-slow | lint | docs | clean | help     (make help says what each does)
#
# Everything runs from .venv, which the first target makes; after that nothing needs the network.
# Another Python: make demo PYTHON=python3.12

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

PYTHON ?= python3
VENV := .venv
WORKDIR ?= runs/tiny
CURATED ?= runs/demo-curate
RFT ?= runs/rft
SEEDS ?= 1

# An existing .venv keeps its Python unless the caller names another one.
ifeq ($(origin PYTHON),file)
ifneq ($(wildcard $(VENV)/bin/python),)
PYTHON := $(VENV)/bin/python
endif
endif
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# One stamp for each version and list: another Python, or a changed requirements file, installs again.
STAMP := $(VENV)/.installed-$(VERSION)
STAMP_CURATION := $(VENV)/.installed-curation-$(VERSION)
STAMP_LINT := $(VENV)/.installed-lint-$(VERSION)
STAMP_DEV := $(VENV)/.installed-dev-$(VERSION)
VENV_DOCS := .venv-docs
STAMP_DOCS := $(VENV_DOCS)/.installed-$(VERSION)
BIN := $(VENV)/bin/python
INSTALL := PYTHONUNBUFFERED=1 $(BIN) -m pip install --disable-pip-version-check --progress-bar off
DOTS := awk '/^(Collecting|Requirement)/ {printf "."; fflush()} END {print ""}'

.PHONY: help demo demo-curate evaluate-demo rft story test test-slow lint docs clean python

help:
	@echo 'make demo           train gin/tiny.gin on 2 CPU cores and evaluate it, in $(WORKDIR)'
	@echo 'make demo-curate    curate a small web with faults planted: $(CURATED)/corpus/report.html'
	@echo 'make evaluate-demo  answer a few benchmark rows with the demo: $(WORKDIR)/evaluation/report.html'
	@echo 'make rft            rejection sampling on sums, next to two controls: $(RFT)/bars.png'
	@echo 'make story          web pages to weights, in small, and what it cost: story/report.html'
	@echo 'make test           the tests; offline after installation'
	@echo 'make test-slow      the slow tests; installs torch and transformers as well'
	@echo 'make lint           ruff, shellcheck, and types on the lower floors (basedpyright)'
	@echo 'make docs           the documentation, in site/; offline after installation'
	@echo 'make clean          remove .venv, caches, $(WORKDIR), $(CURATED) and $(RFT)'
	@echo 'Python 3.11 or 3.12; choose with PYTHON=python3.12. The first of these targets installs into .venv.'

demo: $(STAMP)
	$(BIN) -m dots_jax.train --gin_file=gin/tiny.gin --workdir=$(WORKDIR)
	$(BIN) -m dots_jax.eval --gin_file=gin/eval_tiny.gin --workdir=$(WORKDIR)

evaluate-demo: $(STAMP)
	@[ -d $(WORKDIR)/checkpoints ] || $(BIN) -m dots_jax.train --gin_file=gin/tiny.gin --workdir=$(WORKDIR)
	$(BIN) -m dots_jax.evaluate --suite=table2 --checkpoint=$(WORKDIR) --data=benchmarks/evaluation_demo \
	  --output=$(WORKDIR)/evaluation --dtype=float32 --ranking

demo-curate: $(STAMP_CURATION)
	$(BIN) -m benchmarks.demo_web --output=$(CURATED)

rft: $(STAMP_CURATION)
	$(BIN) -m benchmarks.rft_demo --output=$(RFT)

story: $(STAMP_CURATION)
	$(BIN) -m benchmarks.story --seeds=$(SEEDS)

test: $(STAMP_CURATION)
	$(BIN) -m pytest -m "not slow" -n 2 --dist loadfile --durations=20

test-slow: $(STAMP_CURATION) $(STAMP_DEV) $(STAMP_DOCS)
	$(BIN) -m pytest -m slow

lint: $(STAMP_LINT)
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	$(VENV)/bin/shellcheck -x tpu_scripts/*
	$(BIN) -m basedpyright --pythonpath $(BIN)

docs: $(STAMP_DOCS)
	NO_MKDOCS_2_WARNING=1 $(VENV_DOCS)/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) $(VENV_DOCS) site .cache .pytest_cache .ruff_cache $(WORKDIR) $(CURATED) $(RFT)
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

python:
	@case "$(VERSION)" in \
	  3.11|3.12) ;; \
	  '') echo "error: there is no Python called $(PYTHON): name one, as in make demo PYTHON=python3.12" >&2; exit 2;; \
	  3.[0-9]|3.10|2.*) echo "error: $(PYTHON) is Python $(VERSION), and 3.11 or 3.12 is needed: name one, as in make demo PYTHON=python3.12" >&2; exit 2;; \
	  *) echo "note: $(PYTHON) is Python $(VERSION); 3.11 and 3.12 are known to work. Trying; if it fails: make demo PYTHON=python3.12" >&2;; \
	esac

$(STAMP): requirements.txt | python
	@if [ ! -x $(BIN) ] || [ "$$($(BIN) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" != "$(VERSION)" ]; then \
	  echo "Making $(VENV) with Python $(VERSION)"; \
	  $(PYTHON) -m venv --clear $(VENV) || { echo "error: $(PYTHON) cannot make $(VENV); on Debian and Ubuntu: apt install python$(VERSION)-venv" >&2; exit 2; }; \
	fi
	@echo 'Installing requirements.txt into $(VENV), once (some 1 GB to download; a few minutes)'
	@$(INSTALL) -r requirements.txt | $(DOTS)
	@touch $@

$(STAMP_CURATION): requirements-curation.txt $(STAMP)
	@echo 'Installing requirements-curation.txt into $(VENV), once (30 MB)'
	@$(INSTALL) -r requirements-curation.txt | $(DOTS)
	@touch $@

$(STAMP_LINT): requirements-lint.txt $(STAMP)
	@echo 'Installing requirements-lint.txt into $(VENV), once (100 MB)'
	@$(INSTALL) -r requirements-lint.txt | $(DOTS)
	@touch $@

$(STAMP_DEV): requirements-dev.txt $(STAMP)
	@echo 'Installing requirements-dev.txt into $(VENV), once (torch is large)'
	@$(INSTALL) -r requirements-dev.txt | $(DOTS)
	@touch $@

$(STAMP_DOCS): requirements-docs.txt | python
	@echo 'Installing requirements-docs.txt into $(VENV_DOCS), once'
	@[ -x $(VENV_DOCS)/bin/python ] || $(PYTHON) -m venv $(VENV_DOCS)
	@PYTHONUNBUFFERED=1 $(VENV_DOCS)/bin/python -m pip install --disable-pip-version-check --progress-bar off \
	  -r requirements-docs.txt | $(DOTS)
	@touch $@
