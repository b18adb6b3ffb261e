# Needs only Python 3.11+ and make; each target installs what it uses.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
UV := $(BIN)/uv

# By default waiting OpenMP threads keep a core busy, which makes small networks many times slower on shared cores.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-lowest test-newest check bench lock clean

help:
	@echo "make demo   train three small models, run every attack on each, verify one, print the leaderboard"
	@echo "make test   lint, types and tests"
	@echo "make test-lowest, make test-newest   tests with other versions of the dependencies, without the lock"
	@echo "make check  lint and types"
	@echo "make bench  compare speed and memory with plain ART and AutoAttack"
	@echo "make setup  create the environment (.venv)"
	@echo "make lock   recompute requirements.lock from pyproject.toml"
	@echo "make clean  remove the environment, builds and caches"

setup: $(STAMP)

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit("robust-eval needs Python 3.11 or newer; found %d.%d. Try: make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# The lock contains exact versions and hashes; the project is installed without changing them.
$(STAMP): requirements.lock pyproject.toml | $(UV)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

# The commands that a user would type.
DEMO := runs/demo
MODELS := natural at at-awp
ATTACK := $(BIN)/robust-eval run $(MODELS:%=$(DEMO)/%.pt) --suite full --eps 0.1 --examples 120 --out $(DEMO)/rows
demo: $(STAMP)
	@rm -rf $(DEMO)
	$(BIN)/defenses train natural --data digits --threads 1 --out $(DEMO)/natural
	$(BIN)/defenses train at --data digits --threads 1 --out $(DEMO)/at
	$(BIN)/defenses train at-awp --data digits --threads 1 --out $(DEMO)/at-awp
	@for model in $(MODELS); do cp $(DEMO)/$$model/best.pt $(DEMO)/$$model.pt || exit 1; done
	$(ATTACK)
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
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# In an environment of their own: the lowest versions that pyproject.toml allows, and the newest that exist.
test-lowest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-lowest test-newest: | $(UV)
	$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/$@
	$(UV) pip compile --quiet --no-header --no-annotate --resolution $(RESOLUTION) --python $(VENV)/$@/bin/python \
		--extra dev pyproject.toml -o $(VENV)/$@/requirements.txt
	$(UV) pip sync --quiet --python $(VENV)/$@/bin/python $(VENV)/$@/requirements.txt
	$(UV) pip install --quiet --python $(VENV)/$@/bin/python --no-deps --no-build-isolation --editable .
	$(VENV)/$@/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

bench: $(STAMP)
	$(BIN)/python -m benchmarks

lock: | $(UV)
	$(UV) pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
		--extra dev --upgrade pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
