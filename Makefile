# Everything a newcomer, a developer and the CI run. Needs make and Python 3.11+; Node.js only for the real OpenCode.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OPENCODE ?= simulator
UV := .var/uv
SEED ?= 1
RATE ?= 20

##@ Run it

.PHONY: demo
demo: $(INSTALLED) ## Start everything, ask a few questions, show the answers, stop (OPENCODE=real for a real server)
	@$(BIN)/nubabel demo --opencode $(OPENCODE)

.PHONY: up
up: $(INSTALLED) ## Start everything and keep it running; prints addresses, then logs (OPENCODE=real)
	@$(BIN)/nubabel up --opencode $(OPENCODE)

##@ Check it

.PHONY: check
check: $(INSTALLED) ## What to run on every save: lint, types, import direction, unit tests
	@scripts/stages --aim 120 lint types imports unit

.PHONY: test
test: $(INSTALLED) ## Everything: check, then integration, contract, end-to-end and fault tests
	@scripts/stages --aim 900 lint types imports unit node integration contract e2e faults

.PHONY: format
format: $(INSTALLED) ## Fix what can be fixed and format all Python files
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

.PHONY: bench
bench: $(INSTALLED) ## Measure speed and size (BENCH="..." passes arguments on)
	@$(BIN)/python -m benchmarks $(BENCH)

.PHONY: chaos
chaos: DURATION ?= 300
chaos: $(INSTALLED) ## Everything fails under load for minutes; was anything lost or doubled? (DURATION SEED RATE ONLY CONTROL=1)
	@$(BIN)/python -m tests.faults.chaos --duration $(DURATION) --seed $(SEED) --rate $(RATE) \
		$(if $(ONLY),--only "$(ONLY)") $(if $(CONTROL),--control)

.PHONY: soak
soak: DURATION ?= 600
soak: $(INSTALLED) ## Load without faults; does the memory of any process grow? (DURATION SEED RATE)
	@$(BIN)/python -m tests.faults.chaos --duration $(DURATION) --seed $(SEED) --rate $(RATE) --fault-every 0

##@ Look after it

.PHONY: install
install: $(INSTALLED) ## Create .venv from the pinned versions

.PHONY: lock
lock: $(UV)/bin/uv ## Pin the newest versions that pyproject.toml allows, with hashes (all, and what the service needs)
	@$(UV)/bin/uv pip compile pyproject.toml --all-extras --generate-hashes --universal --upgrade --quiet \
		--python-version 3.11 --no-emit-index-url --no-header -o requirements.lock
	@$(UV)/bin/uv pip compile pyproject.toml --extra flower --generate-hashes --universal --quiet \
		--python-version 3.11 --no-emit-index-url --no-header --no-annotate -c requirements.lock \
		-o requirements-service.lock

.PHONY: clean
clean: ## Remove the environment, caches and data of `make up`
	@rm -rf $(VENV) .var .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@find . -name node_modules -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(INSTALLED): requirements.lock pyproject.toml scripts/install
	@scripts/install $(VENV)
	@touch $@

$(UV)/bin/uv:
	@python3 -m venv $(UV)
	@$(UV)/bin/pip install --quiet --disable-pip-version-check uv
