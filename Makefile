# One command from a clone to a served model. Everything is done by tools/ with the machine's own Python; see `make help`.
# A Python that is not called python3:  make up PYTHON=/path/to/python3.12
# Options for pytest and the like:      make test ARGS="-k secret"

PYTHON ?= python3
ARGS ?=
RUN = @$(PYTHON) -m tools

.PHONY: help setup up down test test-fast test-tags test-kill soak bench lint clean

help:
	@echo "make up         set this machine up and bring the local stack up: ends with an endpoint to talk to"
	@echo "make down       destroy the local stack and stop the local cloud; builds and Volumes stay"
	@echo "make setup      only the set-up: Python packages, Pulumi CLI, runsc"
	@echo "make test       all tests;  make test-fast: those of less than a minute;  make lint: ruff, mypy, import-linter"
	@echo "make test-tags  patches and flags on the source of 24 more versions of llama.cpp: fetches 0.9 GB, keeps none"
	@echo "make test-kill  kill the CLI, the providers or the cloud at every remote call: two hours on two cores; goes on where it was interrupted"
	@echo "make soak       5,000 questions to containers that come and go: three minutes on two cores"
	@echo "make bench      ratios, measured in one run: minutes each, most of an hour in all; make bench ARGS=restore: one of them"
	@echo "make clean      remove what set-up made in this checkout"

setup up down lint clean:
	$(RUN) $@

test test-fast test-tags test-kill soak bench:
	$(RUN) $@ $(ARGS)
