# caspr-spark. `make demo` is the way in. Every target may be repeated, and stopped: the next run goes on from there.
# PYTHON=/path/to/python3.11 chooses the Python; the default is the first 3.11 on PATH.

ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for python in python3.11 python3 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1 && { echo "$$python"; exit; }; \
	done; echo python3)
endif
BIN := .venv/bin
PACKAGES := caspr_spark pipelines jobs schemas

.DEFAULT_GOAL := help
.PHONY: help demo setup setup-check setup-dev test test-slow check bench bench-train bench-distributed bench-gpu bench-refresh bench-quality soak dist clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*##  *\(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

demo: setup  ## real data to customer embeddings: Complete Journey built, evaluated, and refreshed for three weeks
	@$(BIN)/caspr-spark full-build --config conf/complete_journey.yaml --as-of 2017-10-02T00:00:00Z
	@$(BIN)/caspr-spark refresh --config conf/complete_journey.yaml \
		--as-of 2017-10-09T00:00:00Z --as-of 2017-10-16T00:00:00Z --as-of 2017-10-23T00:00:00Z

setup:  ## .venv with what the demo needs (no compiler)
	@$(PYTHON) tools/preflight.py demo
	@$(PYTHON) tools/setup_env.py demo

setup-check:  ## .venv with the development tools too (no compiler)
	@$(PYTHON) tools/preflight.py check
	@$(PYTHON) tools/setup_env.py check

setup-dev:  ## .venv with everything, Horovod too (builds its wheel once, about five minutes)
	@$(PYTHON) tools/preflight.py test
	@$(PYTHON) tools/setup_env.py test

test: setup-dev  ## all tests but the slow ones
	@$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: setup-dev  ## the slow tests
	@$(BIN)/python -m pytest -m slow

check: setup-check  ## ruff, mypy and the import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(PACKAGES:%=--package %)
	@$(BIN)/lint-imports --no-logo

bench: setup  ## run the benchmarks
	@$(BIN)/python -m jobs.bench

bench-train: setup  ## sequences a second and memory of pretraining and scoring, in the paper's setting
	@$(BIN)/python -m jobs.bench_train

bench-distributed: setup-dev  ## the same training by each launcher and number of workers, as JSON lines
	@$(BIN)/python -m jobs.bench_distributed

bench-gpu: setup  ## training on a GPU: customers and events a second, and the share of the card's peak
	@$(BIN)/python -m jobs.bench_gpu

bench-refresh: setup  ## time, rows and bytes of a refresh against a full build, at 1, 5 and 20 million events
	@$(BIN)/python -m jobs.bench_refresh

bench-quality: setup  ## what the vectors are worth on each task against hand-made features, as JSON lines
	@$(BIN)/python -m jobs.bench_quality

soak: setup  ## 200 refreshes of a simulated bank, many of them killed, and a comparison with one build from everything
	@$(BIN)/python -m jobs.soak

dist: setup-check  ## dist/: the wheel, and caspr_spark.zip for spark-submit --py-files
	@$(BIN)/python tools/make_dist.py

clean:  ## remove builds and caches (not .venv, not the user's cache of wheels and JARs)
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis spark-warehouse metastore_db derby.log
	@find $(PACKAGES) conf tests tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
