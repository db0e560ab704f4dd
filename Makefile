# make run: the chat on http://127.0.0.1:8000      make test: everything built and every quick test passed
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
BIND ?= 127.0.0.1:8000
WORKERS ?= 4
NATIVE_SOURCES = $(filter-out channels/core/native.c,$(wildcard channels/core/*.c)) $(wildcard channels/core/*.h channels/core/*.pxi channels/core/*.pyx)

.PHONY: run test build lint models native sanitize bench bench-server bench-web bench-streams drill chaos soak clean

run: build
	$(BIN)/channels examples.chat:app --bind $(BIND) --workers $(WORKERS)

test: build
	$(BIN)/python -m pytest -q tests

build: $(VENV)/.built

# What the package needs at run time, for tests and for the examples; `pip install .` alone needs less.
$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) .ci/check_tools.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "setuptools>=61" "Cython>=3.0" wheel
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[flask,test,browser]"
	touch $@

$(VENV)/.built: $(VENV)/.installed setup.py $(NATIVE_SOURCES)
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@

$(VENV)/.lint: $(VENV)/.installed setup.cfg
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[lint]" --no-build-isolation
	touch $@

LINTED = $(wildcard channels tests examples benchmarks setup.py .ci)

lint: build $(VENV)/.lint
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/clang-format --dry-run -Werror $(filter %.c %.h,$(NATIVE_SOURCES))
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest channels.core.native --mypy-config-file setup.cfg --allowlist tests/core/stubtest.allow
	$(BIN)/lint-imports

# MODELS=--quick: without the largest; MODELS=ring: those whose name contains it.
models:
	docs/protocol/run_all.sh $(MODELS)

# The core under its C driver with every sanitizer.
sanitize:
	$(MAKE) -s -C tests/core/driver asan tsan OUT=$(CURDIR)/build/driver
	build/driver/driver-asan
	RING_RECORDS=2000000 build/driver/driver-tsan two_threads_pass_records_in_order_and_whole

# Needs redis-server; valgrind for the counts of instructions.  About ten minutes; BENCH=--quick: one.
$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[bench]" --no-build-isolation
	touch $@

bench: build $(VENV)/.bench
	$(BIN)/python -m benchmarks.fabric $(BENCH)

# Needs wrk.  About five minutes; BENCH=--quick: two.
bench-server: build $(VENV)/.bench
	$(BIN)/python -m benchmarks.server $(BENCH)

# Event streams through whole servers beside Flask-SSE with Redis, and uWSGI if it is installed: eight minutes.
bench-web: build $(VENV)/.bench
	$(BIN)/python -m benchmarks.web --write $(BENCH)

# One worker's streams beside greenlets and Redis: five minutes.
bench-streams: build $(VENV)/.bench
	$(BIN)/python -m benchmarks.streams --write $(BENCH)

# What takes minutes, about 28: tests/chaos/README.md.  CHAOS="--quick", "--seed 7 --only T5", "--record"; HOURS of soak.
chaos: build
	$(BIN)/python -m tests.chaos $(CHAOS)

HOURS ?= 8
soak: build
	$(BIN)/python -m tests.chaos.api --seconds $$(($(HOURS) * 3600)) $(CHAOS)

# Reloads, upgrades and deaths under load, here and with gunicorn: two minutes.
drill: build
	$(BIN)/python -m benchmarks.drill --write

clean:
	rm -rf build dist *.egg-info $(VENV) channels/core/native.c channels/core/*.so
