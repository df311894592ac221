# Every command that CI runs is a target here; `make help` lists them.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
READY := $(VENV)/.ready
TRAIN_VENV := .venv-train
TRAIN_READY := $(TRAIN_VENV)/.ready
PROTOS := $(wildcard protos/lookalike/v1/*.proto)

.DEFAULT_GOAL := help
.PHONY: help install install-train demo train-demo test test-serving test-training check format protos lock bench bench-rollout clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: $(READY) ## make the environment and fetch the engines (Triton, Milvus, Redis)

# uv resolves and installs the whole set in seconds; it comes with pip, so nothing but Python is needed beforehand
$(READY): pyproject.toml requirements.lock $(wildcard services/local/requirements/*.txt)
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q --disable-pip-version-check uv; }
	@echo "installing packages"
	@$(BIN)/uv pip install -q --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@$(BIN)/lookalike engines install
	@touch $@

install-train: $(TRAIN_READY) ## make the training environment: torch and what training needs, 7 GB

# torch comes with pip, which takes builds of it from a local folder where the machine has one
$(TRAIN_READY): $(READY) services/trainer/requirements.txt
	@test -x $(TRAIN_VENV)/bin/python || $(PYTHON) -m venv $(TRAIN_VENV)
	@echo "installing packages for training"
	@$(BIN)/uv pip install -q --python $(TRAIN_VENV)/bin/python -r requirements.lock
	@$(TRAIN_VENV)/bin/python -m pip install -q --disable-pip-version-check -r services/trainer/requirements.txt
	@$(BIN)/uv pip install -q --python $(TRAIN_VENV)/bin/python --no-deps -e .
	@touch $@

demo: $(READY) ## import a demo catalogue and search it; DATA=folder for real photographs
	@$(BIN)/lookalike demo $(if $(DATA),--data-set $(DATA))

train-demo: $(TRAIN_READY) ## train for about five minutes on a small part of DATA and show what it gained
	@$(BIN)/lookalike train-demo $(if $(DATA),--data $(DATA))

test: test-training test-serving ## run all tests on the real engines

# whole files side by side, the short ones last; three on two cores, because much of the time goes into waiting for
# engines that start or die
test-serving: $(READY) ## those of the system
	@$(BIN)/python -m pytest $(or $(ARGS),-n 3 --dist loadfile --no-loadscope-reorder)

test-training: $(TRAIN_READY) ## those of the training process
	@$(TRAIN_VENV)/bin/python -m pytest tests/trainer $(ARGS)

check: $(READY) ## format, lint, types, import rules, protos, stubs fresh
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint protos
	$(BIN)/python deploy/check_stubs.py
	$(BIN)/python deploy/check_compose.py

format: $(READY) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: $(READY) ## generate the Python code of the protos
	$(BIN)/python -m grpc_tools.protoc -Iprotos -Iprotos/vendor --python_out=protos --pyi_out=protos --grpc_python_out=protos $(PROTOS)

lock: $(READY) ## pin every package again
	$(BIN)/uv pip compile -q --universal --generate-hashes --extra heif --extra local --extra dev --extra bench --no-emit-index-url --no-annotate -o requirements.lock pyproject.toml

bench: $(READY) ## measure against the service that an afternoon builds; about 10 minutes
	@$(BIN)/python -m tests.bench $(ARGS)

bench-rollout: $(READY) ## measure what callers see of a rollout, and how fast it goes; under 10 minutes
	@$(BIN)/python -m tests.bench.rollout $(ARGS)

clean: ## remove what was made at run time
	rm -rf $(VENV) $(TRAIN_VENV) .lookalike .lookalike-demo .pytest_cache .ruff_cache .mypy_cache .hypothesis
