# One command serves (`make serve`), one tests (`make test`); both set up everything in .venv first.

PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= serve_config.yaml
JOBS ?= 2
PROGRAMS := postgresql prometheus chromium  # of Debian, that tests start themselves

.PHONY: serve test units services attacks check lint types reference setup clean

serve: setup
	$(BIN)/apportion serve --config $(CONFIG)

# All parts run, whatever becomes of the others; the attacks alone, since they are held against a quiet service.
test: lint types | $(PROGRAMS)
	@echo "units and services are tested side by side; what they say is shown when they end"
	@beside=failed; attacks=failed; \
	$(MAKE) -j2 --keep-going --output-sync --no-print-directory units services && beside=passed; \
	$(MAKE) --no-print-directory attacks && attacks=passed; \
	echo "units and services: $$beside, attacks: $$attacks"; \
	[ $$beside$$attacks = passedpassed ]

# What starts no Ray, in as many processes as there are JOBS.
units: setup | $(PROGRAMS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not ray" --numprocesses $(JOBS) --dist loadscope

# What starts Ray, of which only one runs at a time.
services: setup | $(PROGRAMS)
	$(BIN)/python -m pytest -m "ray and not hostile and not chaos"

attacks: setup
	$(BIN)/python -m pytest -m "hostile or chaos"

check: lint types

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# The pages of docs/reference, from the code.
reference: setup
	$(BIN)/apportion reference docs/reference

setup: .venv/ready

# PyPI has no CPU-only build of torch; PyTorch's own index has.
.venv/ready: requirements-cpu.lock pyproject.toml | libnuma
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps -r requirements-cpu.lock \
	|| $(BIN)/pip install --quiet --no-deps -r requirements-cpu.lock \
	     --extra-index-url https://download.pytorch.org/whl/cpu
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# vLLM's CPU build links to libnuma, which a slim Debian lacks.
.PHONY: libnuma
libnuma:
	@ldconfig -p 2>/dev/null | grep -q libnuma.so.1 \
	|| apt-get install --yes libnuma1 || sudo apt-get install --yes libnuma1 \
	|| { echo "Install the package libnuma1 (Debian, Ubuntu) or numactl-libs (Fedora) first."; exit 1; }

# The ledger's tests start a server of this package themselves, in a folder of their own.
.PHONY: postgresql
postgresql:
	@ls /usr/lib/postgresql/*/bin/pg_ctl >/dev/null 2>&1 \
	|| { apt-get update && apt-get install --yes postgresql; } \
	|| { sudo apt-get update && sudo apt-get install --yes postgresql; } \
	|| echo "Without the package postgresql the tests of that database are skipped."

# Tries the alerts, and scrapes the service that the tests start.
.PHONY: prometheus
prometheus:
	@command -v promtool >/dev/null 2>&1 \
	|| { apt-get update && apt-get install --yes --no-install-recommends prometheus; } \
	|| { sudo apt-get update && sudo apt-get install --yes --no-install-recommends prometheus; } \
	|| echo "Without the package prometheus the tests of alerts and of scraping are skipped."

# The console's page is looked at in a browser.
.PHONY: chromium
chromium:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null 2>&1 \
	|| { apt-get update && apt-get install --yes --no-install-recommends chromium; } \
	|| { sudo apt-get update && sudo apt-get install --yes --no-install-recommends chromium; } \
	|| echo "Without the package chromium the tests of the console's page are skipped."

clean:
	rm -rf .venv
