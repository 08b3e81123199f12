# medhpc: `make demo` shows the whole job; `make dev` prepares for work on medhpc itself.
# Everything is installed into .venv, from pyproject.toml and constraints.txt, and again only when one of them or the
# C++ of the kernel changed.

PYTHON ?= python3

.PHONY: demo dev test lint

# From nothing to a stitched, measured segmentation, in demo/ (about four minutes on two cores; installing comes before).
demo: .venv/.user
	.venv/bin/medhpc demo demo

# Everything needed to change medhpc.
dev: .venv/.developer

# All tests, a process per core and one for SLURM; each computes on one thread. SLURM is installed for them where that
# may be done.
test: .venv/.developer
	.ci/install_slurm.sh
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto

# Style, format, types, layers, shell.
lint: .venv/.developer
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/shellcheck .ci/run .ci/install_slurm.sh slurm_templates/*.sbatch

.venv/.user: pyproject.toml constraints.txt hatch_build.py $(wildcard medhpc/kernel/src/*)
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -c constraints.txt -e .
	touch $@

.venv/.developer: .venv/.user
	.venv/bin/pip install -c constraints.txt -e '.[dev,onnx]'
	touch $@
