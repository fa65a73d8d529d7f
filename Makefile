# One command per job. Every target first builds .venv, so each works in a fresh clone with only Python and pip.
# A second run is instant; a change to what is declared below installs again.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python -m
PIPELINE := pipelines/en_entitykit_sm
DECLARED := setup.py pyproject.toml constraints.txt entitykit/__init__.py $(wildcard $(PIPELINE)/setup.py $(PIPELINE)/*/meta.json $(PIPELINE)/*/*/config.cfg)

.PHONY: install demo test lint types format clean

install: $(VENV)/installed

$(VENV)/installed: $(DECLARED)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(RUN) pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@if [ -f $(PIPELINE)/setup.py ]; then $(RUN) pip install --quiet --no-deps --force-reinstall ./$(PIPELINE); fi
	@touch $@

demo: install
	$(VENV)/bin/python examples/demo.py

test: install
	$(RUN) pytest --numprocesses 2 --dist loadfile

lint: install
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: install
	$(RUN) mypy

format: install
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info $(PIPELINE)/build $(PIPELINE)/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
