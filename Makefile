# Two commands do everything on a bare machine (python3 and git): `make run` and `make test`.
PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two spinning OpenMP pools on two cores are 40 times slower than one thread each.
export OMP_NUM_THREADS ?= 1

.PHONY: run test test-slow tables scorecard lint docs clean
run: $(READY)
	$(BIN)/kdrun $(ARGS)

# The suite reads three small real data sets, and single tests read larger files that are not everywhere to be had: these tests are
# skipped without them. Fetching what is there already takes no time. One test process per core.
MARKED = not slow
test: $(READY)
	$(BIN)/kdrun fetch fashion_mnist mnist_5k ui_de_en
	-$(BIN)/kdrun fetch emoji smollm2 ct_patches
	$(BIN)/python -m pytest -n auto --dist loadfile -m "$(MARKED)" $(ARGS)

# What `make test` leaves out: whole jobs of several processes, simulations, killed searches. CI runs both.
test-slow:
	$(MAKE) test MARKED=slow

# Every table that can be made here, from its records where they are there; `make table-NAME ARGS=jobs=2` makes one.
tables: table-controls table-transfer table-transfer_fashion table-objectives table-evolving table-cascaded table-cross_window table-energy_gated

table-evolving: $(READY)
	$(BIN)/kdrun fetch ui_de_en
	$(BIN)/kdrun table evolving $(ARGS)

table-transfer_fashion: $(READY)
	$(BIN)/kdrun fetch fashion_mnist
	$(BIN)/kdrun table transfer_fashion $(ARGS)

table-%: $(READY)
	$(BIN)/kdrun table $* $(ARGS)

# Accuracy, latency, memory, robustness and gates of one run on three targets: docs/results/scorecard_digits.md.
scorecard: $(READY)
	$(BIN)/python scripts/make_scorecard_digits.py $(ARGS)

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# The documentation as a site, in outputs/site; a broken link or a page that is not in mkdocs.yml ends it.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q $(ARGS)

# uv is about twice as fast as pip; where it cannot be had, pip does the same.
$(READY): pyproject.toml constraints.txt
	$(PY) -m venv $(VENV)
	if $(BIN)/python -m pip install -q uv; then \
	  UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(BIN)/uv pip install -q --compile-bytecode \
	    --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else $(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'; fi
	touch $@

clean:
	rm -rf $(VENV)
