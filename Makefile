# Everything that people and CI run. A bare machine needs make, Python 3.11 or newer with venv, and a package index.
#
#   make demo        set up, train on digits, evaluate, predict three images
#   make test        lint, the whole default suite, the docs site
#   make test-all    also the slow, network and accelerator tests, and parity with other implementations
#   make lint        ruff, pyright, the floors
#   make docs        the site, in site/
#   make bench       every script in benchmarks/, beside the libraries that some compare with: hours
#   make bench QUICK=--quick   the same in minutes, with nothing recorded
#   make venv        only set up .venv
#
# Another Python: make PYTHON=python3.13 demo

PYTHON ?= python3
BIN := .venv/bin

# mkdocs-material tells of its own future at every build.
export NO_MKDOCS_2_WARNING := 1

.PHONY: venv peers demo test test-all lint docs bench

venv: .venv/.stamp

# The stamp is touched last, so an interrupted installation is done again. uv does not read pip's settings: where pip has
# a file of constraints, uv is given the same one.
.venv/.stamp: pyproject.toml
	@echo "installing PyTorch, the library and the developers' tools into .venv: once; 1 to 10 minutes, up to 7 GB"
	@set -eu; \
	if command -v uv >/dev/null 2>&1; then \
		constraint="$${PIP_CONSTRAINT:-$$($(PYTHON) -m pip config get global.constraint 2>/dev/null || true)}"; \
		if [ -n "$$constraint" ]; then export UV_CONSTRAINT="$${UV_CONSTRAINT:-$$constraint}"; fi; \
		[ -x $(BIN)/python ] || uv venv --python "$(PYTHON)" .venv; \
		uv pip install --python $(BIN)/python -e '.[all,dev]'; \
	else \
		[ -x $(BIN)/pip ] || "$(PYTHON)" -m venv .venv; \
		$(BIN)/pip install --disable-pip-version-check --quiet -e '.[all,dev]'; \
	fi
	@touch $@

demo: venv
	@$(BIN)/python -m perceivers.cli.demo

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright src
	$(BIN)/lint-imports

# Two test processes with one thread each: more threads than cores only wait for one another.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
	$(BIN)/mkdocs build --strict

# Tests that need an accelerator skip where there is none; -rs counts them and says why.
test-all: test peers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -rs -m 'slow or parity or network or gpu'

# Not --quiet: mkdocs then counts no warnings, and --strict has nothing to fail on.
docs: venv
	$(BIN)/mkdocs build --strict

# The libraries that the parity tests and the benchmarks compare with.
peers: venv
	@$(BIN)/python -c 'import transformers, perceiver_pytorch' 2>/dev/null || { \
		if [ -x $(BIN)/pip ]; then $(BIN)/pip install --disable-pip-version-check --quiet -e '.[bench]'; \
		else uv pip install --python $(BIN)/python -e '.[bench]'; fi; }

# peers.py and record.py are what the scripts share; models.py runs io_models.py.
bench: peers
	@set -e; for script in $(filter-out $(addprefix benchmarks/,peers.py record.py io_models.py),$(wildcard benchmarks/*.py)); do \
		echo "== $$script"; $(BIN)/python "$$script" $(QUICK); \
	done
