# The two commands a new user needs are `make run` and `make test`; both make the virtual environment they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# A variable as one word of the shell, whatever is in it; an option with it, where it is set.
quoted = '$(subst ','\'',$(1))'
option = $(if $(2),$(1) $(call quoted,$(2)))

# What `make run` runs: unset variables leave the default of the flow (see `$(BIN)/python -m flows.pipeline --help`).
FLAGS = $(call option,--exchange,$(EXCHANGE)) $(call option,--symbol,$(SYMBOL)) $(call option,--symbols,$(SYMBOLS)) \
        $(call option,--category,$(CATEGORY)) $(call option,--interval,$(INTERVAL)) $(call option,--start,$(START)) \
        $(call option,--end,$(END)) $(call option,--candles,$(CANDLES)) $(call option,--funding,$(FUNDING)) \
        $(call option,--preset,$(PRESET)) $(call option,--pool,$(POOL)) $(call option,--labels.horizon,$(HORIZON)) $(call option,--synthetic.kind,$(SYNTHETIC))

# What each target takes on the command line; a mistyped name, or another target's, would leave the default, and so another
# market, without a word. The environment is not looked at: what it holds beside was meant for others.
run := CANDLES CATEGORY END EXCHANGE FUNDING HORIZON INTERVAL POOL PRESET START SYMBOL SYMBOLS SYNTHETIC
paper := $(run) BARS
ui := EXCHANGE PORT WORKERS
attack := SEED
soak := KILLS PORT SECONDS SEED
GOALS := $(or $(MAKECMDGOALS),run)
KNOWN := ARGS PYTHON VENV $(sort $(foreach goal,$(filter run paper ui attack soak,$(GOALS)),$($(goal))))
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
UNKNOWN := $(firstword $(filter-out $(KNOWN) DSC_% PREFECT_% MAKE% SHELL,$(GIVEN)))
ifneq ($(UNKNOWN),)
  NEAREST := $(shell $(PYTHON) -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1].upper(), sys.argv[2:], 1))' \
               $(call quoted,$(UNKNOWN)) $(KNOWN) 2>/dev/null)
  $(error $(UNKNOWN) is no variable of make $(GOALS)$(if $(NEAREST),; did you mean $(NEAREST)? It,; it) takes $(KNOWN))
endif

export DSC_HOME ?= $(CURDIR)/.dsc
export PREFECT_HOME ?= $(DSC_HOME)/prefect
export DO_NOT_TRACK := 1
export ORT_DISABLE_TELEMETRY := 1

.PHONY: run ui alerts paper clients attack orders soak test suite verify verify-panel lint bench bench-quick lock clean
.DELETE_ON_ERROR:

run: $(VENV)/installed
	@mkdir -p "$(PREFECT_HOME)" 2>/dev/null || true  # what is wrong with it, the program says
	@$(BIN)/python -m flows.pipeline $(FLAGS) $(ARGS)

# The Prefect UI with server, worker, deployments and alerts, until Ctrl-C; EXCHANGE (sandbox, bybit), PORT and WORKERS choose.
ui: $(VENV)/installed
	@mkdir -p "$(PREFECT_HOME)" 2>/dev/null || true
	@exec $(BIN)/python -m flows.entry.operation $(call option,--exchange,$(EXCHANGE)) $(call option,--port,$(PORT)) $(call option,--workers,$(WORKERS)) $(ARGS)

# The alerts alone, to the webhook of DSC_ALERT_URL, on the server that PREFECT_API_URL names.
alerts: $(VENV)/installed
	@mkdir -p "$(PREFECT_HOME)"
	@$(BIN)/python -m flows.entry.operation alerts

# A paper session of BARS bars on the sandbox, over a real WebSocket: the newest version of its market, trained first if
# there is none, and the same bars through the backtest. $(DSC_HOME)/paper.json; fails if a difference is unexplained.
paper: $(VENV)/installed
	@mkdir -p "$(PREFECT_HOME)" 2>/dev/null || true
	@$(BIN)/python -m flows.trade --mode paper --version newest --steps $(call quoted,$(or $(BARS),2000)) $(FLAGS) $(ARGS)

# Clients that are not ours, ccxt and freqtrade, on the sandbox in real time: five minutes, and freqtrade in an environment
# of its own under $(DSC_HOME). $(DSC_HOME)/clients.json; fails if they do not see its market.
clients: $(VENV)/installed-test
	@$(BIN)/python -m tests.clients

# Orders on the sandbox, none of them real: every fault with a kill after every step, who may trade, the halt, what each
# took. Two minutes in three processes, for it waits more than it works; $(DSC_HOME)/orders.json; fails if anything is
# sent twice or the books differ. The random sequences that the suite has too are left out: there are 1,000 in tests/orders.
orders: $(VENV)/installed-test
	@mkdir -p "$(PREFECT_HOME)"
	@DSC_ORDERS_JSON="$(DSC_HOME)/orders.json" $(BIN)/python -m pytest tests/orders tests/execution/test_orders.py tests/execution/test_limits.py \
		--deselect tests/execution/test_orders.py::TestExchange -p no:randomly -n 3 -q $(ARGS)

# Hostile inputs of every kind (files, archives, answers, messages, stores), 9,500 of them, on loopback alone: a few
# minutes and $(DSC_HOME)/attack.json; fails if one of them ends in a traceback. SEED makes others.
attack: $(VENV)/installed-test
	@$(if $(SEED),SEED=$(call quoted,$(SEED))) $(BIN)/python -m tests.attack

# Everything at once under random kills for SECONDS; then the invariants, and $(DSC_HOME)/soak.json. SEED, KILLS, PORT choose.
soak: $(VENV)/installed-test
	@mkdir -p "$(PREFECT_HOME)"
	@$(BIN)/python -m tests.soak.run_soak $(call option,--seconds,$(SECONDS)) $(call option,--seed,$(SEED)) $(call option,--kills,$(KILLS)) $(call option,--port,$(PORT))

# Lint beside the tests, which wait for servers half of the time.
test: $(VENV)/installed-test
	@mkdir -p "$(PREFECT_HOME)"
	@$(MAKE) --no-print-directory -j 2 lint suite

# Files, those that take half a minute before the others, and the tests in them in a random order; ARGS=--randomly-seed=N repeats the one that named this seed.
# Four processes on two cores: a quarter of their time they wait, for a server, a stream or a clock. One thread each
# for arithmetic, but where a test asks for more: more wait for each other, and burn what they wait.
suite: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

# What is known in closed form or by another library against what the project says, and planted faults: a table, and
# $(DSC_HOME)/verify.json. With DSC_TEST_DATA set, recorded candles before 2026 too.
verify: $(VENV)/installed-test
	@mkdir -p "$(PREFECT_HOME)"
	$(BIN)/python -m pytest tests/verification/verify_*.py tests/verification/test_*.py -p no:randomly -q $(ARGS)

# One network for many markets against one a market, panel_*, and how well risk is foreseen, vol_*, in
# $(DSC_HOME)/verify.json: on the recorded candles of DSC_TEST_DATA. Twenty minutes; each writes all before it fails.
verify-panel: $(VENV)/installed-test
	@mkdir -p "$(DSC_HOME)" "$(PREFECT_HOME)"
	@missed=0; $(BIN)/python -m tests.verification.panel $(ARGS) || missed=1; \
	$(BIN)/python -m pytest tests/verification/volatility.py -p no:randomly -q || missed=1; exit $$missed

# Rows of speed against the alternatives, a table, and $(DSC_HOME)/bench.json; quick: the inference rows, bench-quick.json.
bench: $(VENV)/installed-test
	@mkdir -p "$(PREFECT_HOME)"
	$(BIN)/python -m pytest tests/benchmarks -p no:randomly --benchmark-only --benchmark-quiet -q $(ARGS)

bench-quick: $(VENV)/installed-test
	@mkdir -p "$(PREFECT_HOME)"
	$(BIN)/python -m pytest tests/benchmarks -p no:randomly --benchmark-only --benchmark-quiet -q -m quick $(ARGS)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Every version with the hashes of its files, after a change of the dependencies; needs uv. What is there keeps its
# version: ARGS='--upgrade-package NAME' or --upgrade. torch stays out, whose build, and what comes with it, differs by index.
OF_TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
            nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver \
            nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
LOCK := uv --no-config pip compile pyproject.toml --quiet --universal --generate-hashes --no-annotate \
        --custom-compile-command 'make lock' $(addprefix --no-emit-package ,$(OF_TORCH))
lock:
	$(LOCK) -o requirements.txt $(ARGS)
	$(LOCK) --all-extras -c requirements.txt -o requirements-test.txt $(ARGS)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml requirements.txt | $(VENV)/bin/python
	@$(BIN)/python flows/entry/install.py .
	@touch $@

$(VENV)/installed-test: pyproject.toml requirements-test.txt | $(VENV)/bin/python
	@$(BIN)/python flows/entry/install.py '.[test,oracles,dask,s3]'
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
