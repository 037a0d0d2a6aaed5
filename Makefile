# `make demo` and `make test` set up what they need in .venv; nothing else is asked of a machine with Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
EDGE_VENV ?= .venv-edge
EDGE_BUNDLE ?= build/edge
# Another source of torch, for instance: make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
CONSTRAINTS = $(if $(filter 3.10,$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')),constraints-py310.txt,constraints.txt)

PIP_INSTALL = -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
RUN = $(VENV)/bin/python

.PHONY: demo test slow two-hosts edge edge-bundle edge-check lint types gpu-check reliability fuzz soak clean

demo: $(VENV)/.train
	$(RUN) -m edgeproof demo

test: $(VENV)/.dev
	$(RUN) -m pytest

slow: $(VENV)/.dev
	$(RUN) -m pytest -m slow

# Two network namespaces as two hosts; needs root and iproute2.
two-hosts: $(VENV)/.dev
	tests/scale/two_hosts.sh $(RUN)

lint: $(VENV)/.dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# The three folders linked together as the one package that they are when installed.
types: $(VENV)/.dev
	rm -rf build/types && mkdir -p build/types/edgeproof
	ln -s $(CURDIR)/toolkit/* $(CURDIR)/export $(CURDIR)/kernels build/types/edgeproof/
	$(RUN) -m mypy

# The evaluation side as an edge device has it: base install, one engine, no torch.
edge: $(EDGE_VENV)/.ready
	$(EDGE_VENV)/bin/python -m pytest tests/edge

# What the desk packs for a device, and the device's part: evaluated, timed, reported and compared with the desk's own run.
edge-bundle: $(VENV)/.train
	$(RUN) -m tests.edge.desk $(EDGE_BUNDLE)

edge-check: $(EDGE_VENV)/.ready
	$(EDGE_VENV)/bin/python -m tests.edge.device $(EDGE_BUNDLE)

# Everything that needs a GPU, and the kernels' benchmark; fails where there is none.
gpu-check: $(VENV)/.dev
	$(RUN) $(PIP_INSTALL) --editable '.[cuda]'
	tests/gpu/check.sh $(RUN)

# Each stage killed a hundred times and run on disks that fill up; docs/reliability.md has the figures.
reliability: $(VENV)/.dev
	$(RUN) -m tests.reliability.kills --kills 100
	$(RUN) -m tests.reliability.full_disks

# Every reader on damaged files, 100,000 each: about two hours on one core.
fuzz: $(VENV)/.dev
	$(RUN) -m tests.fuzzing.long

# An hour of crafting and evaluating in one process, with its memory and its open files.
soak: $(VENV)/.train
	$(RUN) benchmarks/soak.py --minutes 60

clean:
	rm -rf $(VENV) .venv-edge* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml constraints.txt constraints-py310.txt | $(VENV)/bin/python
	$(RUN) $(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(RUN) $(PIP_INSTALL) --editable '.[train,data,cpu]'
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(RUN) $(PIP_INSTALL) --editable '.[train,data,cpu,openvino,dev]'
	# An oracle of the tests; its own requirements pin an old requests and pull torchvision, neither of which it needs here.
	$(RUN) $(PIP_INSTALL) --no-deps torchattacks==3.5.1
	touch $@

$(EDGE_VENV)/.ready: pyproject.toml constraints.txt constraints-py310.txt
	$(PYTHON) -m venv $(EDGE_VENV)
	$(EDGE_VENV)/bin/python $(PIP_INSTALL) --editable '.[cpu]' pytest jsonschema
	touch $@
