# make demo   the main job for real: the uvicorn 0.12.2 hang, caught and explained, then the fixed release
# make test   all tests, on every interpreter present
# make integration   the slow stage: a real OpenTelemetry Collector, Prometheus and Alertmanager between a service that hangs and a pager
# make vm     the slowest stage: other kernels and arm64, emulated (VM='-k arm64-6.1' for one)
# make check  types, lint, floors and sizes
# make bench  what it costs, paired, as ratios
# make soak   ten minutes of healthy services under `hangwatch watch`: nothing may be told; what it cost
# make corpus the real hangs: how many are explained
# Each sets up what it needs in .venv; nothing is installed elsewhere.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test integration vm check bench soak corpus fmt clean
.SILENT:

$(VENV)/ready: pyproject.toml
	test -n "$(PYTHON)" || { echo "hangwatch needs Python 3.10 or newer on PATH (or make PYTHON=/path/to/python)"; exit 1; }
	echo "setting up $(VENV) with $(PYTHON) (a minute, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]' 2>&1 | grep -v '^WARNING: Location' || true
	$(BIN)/python -c 'import hangwatch, pytest, uvicorn'
	touch $@

# The demo needs no test tools: its own small environment is ready sooner.
.venv-demo/ready: pyproject.toml
	test -n "$(PYTHON)" || { echo "hangwatch needs Python 3.10 or newer on PATH (or make PYTHON=/path/to/python)"; exit 1; }
	echo "setting up .venv-demo with $(PYTHON)"
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install -q --disable-pip-version-check -e '.[pyspy]' 2>&1 | grep -v '^WARNING: Location' || true
	.venv-demo/bin/python -c 'import hangwatch, click'
	touch $@

demo: .venv-demo/ready
	.venv-demo/bin/python -m hangwatch demo

test: $(VENV)/ready
	$(BIN)/python -m pytest -n 3 --dist loadfile $(PYTEST)

# The Collector is built from Debian's packages once (some minutes); where it cannot be had, its tests are skipped by name.
integration: $(VENV)/ready
	mkdir -p .cache && bash .ci/collector-from-debian .cache/collector >.cache/collector.log 2>&1 || { tail -3 .cache/collector.log; echo "no Collector to be had here"; }
	$(BIN)/python -m pytest -m integration tests/integration tests/attach

# Kernels, interpreters and qemu are unpacked from Debian's packages into .cache/vm; what cannot be had is skipped by name.
vm: $(VENV)/ready
	$(BIN)/python -m pytest -m vm tests/vm $(VM)

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check hangwatch tests
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_floors.py

fmt: $(VENV)/ready
	$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format -q hangwatch tests

bench: $(VENV)/ready
	$(BIN)/python -m tests.benchmarks.run

soak: $(VENV)/ready
	$(BIN)/python -m tests.watcher.soak

corpus: $(VENV)/ready
	$(BIN)/python -m tests.corpus

clean:
	rm -rf $(VENV) .venv-demo .venvs .cache .mypy_cache .ruff_cache .pytest_cache
