# On a machine with Python 3.11+, make and git: `make demo` and `make test` do everything by themselves.
# Another Python has an environment of its own: `make test PYTHON=python3.14` makes .venv-3.14.
PYTHON ?= python3
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2] + sys.abiflags)'))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test pyodide mcp check lint types contracts viewer viewer-test bench compat machines lock clean

$(STAMP): dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "recursor needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r dev.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)
	$(BIN)/recursor demo

# What tests/test_wasm.py runs; without it those tests are skipped. Needs npm.
pyodide:
	npm ci --silent --ignore-scripts --no-audit --no-fund --prefix tests/pyodide

# What tests/test_mcp_others.py runs; without it those tests are skipped. Needs npm.
mcp:
	npm ci --silent --ignore-scripts --no-audit --no-fund --prefix tests/mcp_node

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

check: lint types contracts test

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

contracts: $(STAMP)
	$(BIN)/lint-imports

# The viewer's page, from viewer/ into the package; needs Node.js 20 or newer. `viewer-test` drives it in Chromium.
viewer: viewer/node_modules/.installed
	cd viewer && npm run --silent build

viewer-test: $(STAMP) viewer/node_modules/.installed
	cd viewer && PYTHON=$(CURDIR)/$(BIN)/python npm test --silent

viewer/node_modules/.installed: viewer/package-lock.json
	cd viewer && npm ci --silent
	@touch $@

# Long; makes environments for the peers under .bench/ and writes benchmarks/results/.
# With BOOKS=folder, of some 20 MB of Markdown, also the run over 331 MB; with SNIPS=folder, of the
# labelled requests of SNIPS, also the pairs of users.
bench: $(STAMP)
	$(BIN)/python benchmarks/core.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/sandbox.py
	$(BIN)/python benchmarks/text.py
	$(BIN)/python benchmarks/attacks.py
	$(if $(SNIPS),$(BIN)/python benchmarks/pairs.py $(SNIPS))
	$(if $(BOOKS),$(BIN)/python benchmarks/large.py $(BOOKS))

# Clients that nobody here wrote against `recursor serve`; makes environments for them under .compat/, needs npm,
# and writes benchmarks/results/compat.md. Some minutes.
compat: $(STAMP)
	$(BIN)/python compat/run.py

# The sandbox in virtual machines with other kernels, processors and engines of containers; as root on Debian, with
# debootstrap, qemu-system-x86, qemu-system-arm, kmod and e2fsprogs. Keeps 10 GB under .bench/machines, takes hours
# where the processor has to be emulated, and writes benchmarks/results/machines.md. MACHINES="arm sid": only these.
machines: $(STAMP)
	$(BIN)/python benchmarks/machines.py $(MACHINES)

# Resolves dependencies anew, for all platforms and Python versions, with hashes.
lock: $(STAMP)
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --group dev --output-file dev.lock pyproject.toml

clean:
	rm -rf .venv .venv-* viewer/node_modules .bench .compat .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
