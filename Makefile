# Everything starts from Python 3.11+ and make: each target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
UV := $(BIN)/uv

# OpenMP's threads spin while they wait; on shared cores that makes small networks many times slower.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench lock clean

help:
	@echo "make demo   train three small models, attack each seven ways, verify one, print the leaderboard"
	@echo "make test   lint, types and tests"
	@echo "make check  lint and types alone"
	@echo "make bench  side-by-side speed and memory against ART and AutoAttack as they come"
	@echo "make setup  the environment alone (.venv)"
	@echo "make lock   recompute requirements.lock from pyproject.toml"

setup: $(STAMP)

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit("robust-eval needs Python 3.11 or newer; found %d.%d. Try: make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# The lock is exact and hashed; the project itself is installed without touching it.
$(STAMP): requirements.lock pyproject.toml | $(UV)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

# Real commands, as a user would type them. Where Ray will not start, one process does the same work.
DEMO := runs/demo
MODELS := natural at at-awp
ATTACK := $(BIN)/robust-eval run $(MODELS:%=$(DEMO)/%.pt) --suite full --eps 0.1 --examples 120 --out $(DEMO)/rows
demo: $(STAMP)
	@rm -rf $(DEMO)
	$(BIN)/defenses train natural --data digits --threads 1 --out $(DEMO)/natural
	$(BIN)/defenses train at --data digits --threads 1 --out $(DEMO)/at
	$(BIN)/defenses train at-awp --data digits --threads 1 --out $(DEMO)/at-awp
	@for model in $(MODELS); do cp $(DEMO)/$$model/best.pt $(DEMO)/$$model.pt || exit 1; done
	$(ATTACK) --executor ray --address local || $(ATTACK)
	$(BIN)/robust-eval verify $(DEMO)/rows/at-awp-full-*/result.json --checkpoint $(DEMO)/at-awp.pt
	@for model in $(MODELS); do \
		$(BIN)/robust-eval leaderboard add $(DEMO)/rows/$$model-full-*/result.json $(DEMO)/leaderboard \
			--images --curve $(DEMO)/$$model/curve.csv || exit 1; \
	done
	$(BIN)/robust-eval leaderboard build $(DEMO)/leaderboard --title "Digits, Linf 0.1: the demo"
	$(BIN)/robust-eval leaderboard check $(DEMO)/leaderboard --title "Digits, Linf 0.1: the demo"
	@cat $(DEMO)/leaderboard/README.md

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile

bench: $(STAMP)
	$(BIN)/python -m benchmarks

lock: | $(UV)
	$(UV) pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
		--extra dev --upgrade pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
