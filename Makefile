# make demo: a first report in minutes.  make test: everything CI runs.  Both set up .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test bench bench-schedules experiments format docs test-slow clean

# torch first and alone: other packages would otherwise pull in another build of it.
$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $(READY)

# About 6 minutes on 2 cores, after about 2 for setting up.
demo: $(READY)
	$(BIN)/maskscope run double-addition --preset quick --jobs 2 --out runs

# About 7 minutes on 2 cores.
test: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --warnings
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m "not slow" --jaxtyping-packages=maskscope,beartype.beartype
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Long training runs; about 10 minutes on 2 cores.
test-slow: $(READY)
	$(BIN)/python -m pytest -q -m slow

# Time and memory of a step: about 12 minutes on 2 cores that do nothing else. Writes docs/performance.md.
bench: $(READY)
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/tables.py

# Whether fast masks equal published ones: 4 hours on 1 core; goes on where it was stopped.
bench-schedules: $(READY)
	$(BIN)/python benchmarks/schedules.py
	$(BIN)/python benchmarks/tables.py

# docs/experiments.md from the files under results/; seconds.
experiments: $(READY)
	$(BIN)/python -m maskscope.report.page results docs/experiments.md

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)
	$(BIN)/mkdocs serve

clean:
	rm -rf .venv site
