# gankd: `make demo` shows it, `make test` checks it. Everything is installed into .venv.
#
#   make PYTHON=/path/to/python3.11   another interpreter
#   make TORCH_INDEX=<package index>  another build of torch, see CONTRIBUTING.md

PYTHON ?=
TORCH_INDEX ?=
export PYTHON TORCH_INDEX

BIN := .venv/bin
WITH_GANKD := .venv/.with-gankd
WITH_DEV := .venv/.with-dev
INSTALL := requirements/install.sh
INSTALL_INPUTS := pyproject.toml requirements/constraints.txt $(INSTALL)
# Two workers with one thread each: more threads than cores are many times slower. Evidence is computed by one thread
# at a time as well: sums in another order are another teacher and another generator.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: help demo evidence results losses vkd lists costs bench test lint format clean
.NOTPARALLEL:

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: $(WITH_GANKD)  ## distil through generated samples, for classes and for angles; ends with a report
	$(BIN)/gankd demo

evidence: $(WITH_GANKD)  ## the demo with more seeds; writes docs/evidence.md and docs/evidence.json
	$(ONE_THREAD) $(BIN)/gankd evidence

# DATA holds cifar.npz, faces.npz and steering.npz, as examples/real_sets.py writes them from the published sets.
results: $(WITH_GANKD)  ## the method on real images: make results DATA=FOLDER; writes docs/results.md and .json
	$(ONE_THREAD) $(BIN)/gankd results --data $(DATA) --seeds 5

losses: $(WITH_GANKD)  ## every distillation loss, alone and with cGAN-KD; writes docs/losses.md and docs/losses.json
	$(ONE_THREAD) $(BIN)/gankd compare digits turntable --set student.updates=1000 --set student.store_features=true --out runs/losses --page docs/losses.md

# A second set with DATA=file.npz, as of CIFAR-100's first 20 classes at 16 px (images, label, split, class_names).
vkd: $(WITH_GANKD)  ## virtual teachers: every source of targets, tuned and compared; writes docs/vkd.md and docs/vkd.json
	$(ONE_THREAD) $(BIN)/gankd vkd table digits --seeds 5 --out runs/vkd/digits --page docs/vkd.md
	$(ONE_THREAD) $(BIN)/gankd vkd table digits-noisy --seeds 5 --out runs/vkd/digits-noisy --page docs/vkd.md
ifdef DATA
	$(ONE_THREAD) $(BIN)/gankd vkd table cifar20 --data $(DATA) --seeds 5 --out runs/vkd/cifar20 --page docs/vkd.md
endif

lists: $(WITH_GANKD)  ## write what gankd list prints, after a loss, a network or a recipe has changed
	$(ONE_THREAD) $(BIN)/python -c 'from gankd.commands.listing import write_lists; write_lists()'

costs: $(WITH_GANKD)  ## the same, with the costs of all losses measured again on this machine
	$(ONE_THREAD) $(BIN)/python -c 'from gankd.commands.listing import write_lists; write_lists(measure=True)'

bench: $(WITH_GANKD)  ## measure speed, see benchmarks/
	set -e; for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script; done

test: $(WITH_DEV)  ## all tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2

lint: $(WITH_DEV)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(WITH_DEV)  ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove .venv and caches; runs/ stays
	rm -rf .venv build .hypothesis .mypy_cache .pytest_cache .ruff_cache src/gankd.egg-info
	find src tests -name __pycache__ -prune -exec rm -rf {} +

$(WITH_GANKD): $(INSTALL_INPUTS)
	@$(INSTALL)
	@touch $@

$(WITH_DEV): $(INSTALL_INPUTS)
	@$(INSTALL) dev
	@touch $(WITH_GANKD) $@
