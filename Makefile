# One virtual environment, made when it is missing. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint clean

demo: .venv/installed
	$(BIN)/ppvae compare vae --data digits --guides mean_field full_rank iaf

test: .venv/installed
	$(BIN)/python -m pytest -q -n auto --dist worksteal

test-all: .venv/installed
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m ''

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf .venv
