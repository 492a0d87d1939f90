# `make demo` shows gankd, `make test` tests it. Everything is installed into .venv.
#
#   make PYTHON=/path/to/python3.11   use another interpreter
#   make TORCH_INDEX=<package index>  use another build of torch, see CONTRIBUTING.md

PYTHON ?=
TORCH_INDEX ?=
export PYTHON TORCH_INDEX

BIN := .venv/bin
WITH_GANKD := .venv/.with-gankd
WITH_DEV := .venv/.with-dev
WITH_DOCS := .venv/.with-docs
WITH_NOTEBOOKS := .venv/.with-notebooks
INSTALL := requirements/install.sh
INSTALL_INPUTS := pyproject.toml requirements/constraints.txt $(INSTALL)
# Two workers with one thread each: more threads than cores are many times slower. Committed results use one thread,
# too: sums in another order give another teacher and another generator.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: help demo evidence picture results map losses vkd lists costs bench site test chaos notebooks executorch nightly house lint format clean
.NOTPARALLEL:

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: $(WITH_GANKD)  ## distil through generated images, for classes and for angles; writes a report
	$(BIN)/gankd demo

evidence: $(WITH_GANKD)  ## the embedded recipes over three pipelines; writes docs/evidence.md and docs/evidence.json
	$(ONE_THREAD) $(BIN)/gankd evidence

BROWSER ?= chromium
picture: runs/evidence/rotated-digits/report.html  ## docs/report.png, the top of a report of `make evidence`; needs Chromium
	$(BROWSER) --headless --no-sandbox --hide-scrollbars --window-size=1100,1180 --screenshot=docs/report.png file://$(CURDIR)/$<

# DATA: folder with cifar.npz, faces.npz and steering.npz, written by examples/real_sets.py from the published sets.
results: $(WITH_GANKD)  ## the method on real images: make results DATA=FOLDER; writes docs/results.md and .json
	$(ONE_THREAD) $(BIN)/gankd results --data $(DATA) --seeds 5

map: $(WITH_GANKD)  ## where generated images pay: all cells of embedded images; writes docs/where_it_pays.md
	$(ONE_THREAD) $(BIN)/gankd map

losses: $(WITH_GANKD)  ## every distillation loss, with and without cGAN-KD; writes docs/losses.md and docs/losses.json
	$(ONE_THREAD) $(BIN)/gankd compare digits turntable --set student.augment=[] --set student.updates=1000 --set student.store_features=true --out runs/losses --page docs/losses.md

# DATA=file.npz adds another set: the first 20 classes of CIFAR-100 at 16 px (images, label, split, class_names).
vkd: $(WITH_GANKD)  ## virtual teachers: all target sources, tuned and compared; writes docs/vkd.md and docs/vkd.json
	$(ONE_THREAD) $(BIN)/gankd vkd table digits --set student.augment=[] --seeds 5 --out runs/vkd/digits --page docs/vkd.md
	$(ONE_THREAD) $(BIN)/gankd vkd table digits-noisy --set student.augment=[] --seeds 5 --out runs/vkd/digits-noisy --page docs/vkd.md
ifdef DATA
	$(ONE_THREAD) $(BIN)/gankd vkd table cifar20 --data $(DATA) --set student.augment=[] --seeds 5 --out runs/vkd/cifar20 --page docs/vkd.md
endif

lists: $(WITH_GANKD)  ## write what gankd list prints, docs/settings.md and docs/costs.md, after a loss, network, recipe or setting has changed
	$(ONE_THREAD) $(BIN)/python -c 'from gankd.commands.listing import write_lists; write_lists()'

costs: $(WITH_GANKD)  ## the same, with the costs of all losses measured again on this machine
	$(ONE_THREAD) $(BIN)/python -c 'from gankd.commands.listing import write_lists; write_lists(measure=True)'

bench: $(WITH_GANKD)  ## measure speed, see benchmarks/
	set -e; for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script; done

# Pages are laid out as in this folder, so that a link from one file to another holds here and on the site.
site: $(WITH_DOCS)  ## the documentation as build/site/index.html; a warning is an error
	rm -rf build/pages && mkdir -p build/pages
	tar cf - *.md CITATION.cff docs examples benchmarks/results | tar xf - -C build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	! grep -rE '<(script|img|link|iframe)[^>]* (src|href)="?(https?:)?//' build/site --include '*.html'  # needs no network

test: $(WITH_DEV)  ## all tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2

chaos: $(WITH_DEV)  ## kill commands at random, 200 times, and resume them; writes benchmarks/results/chaos.md
	$(ONE_THREAD) $(BIN)/python tests/faults/chaos.py --rounds 200 --page benchmarks/results/chaos.md

notebooks: $(WITH_NOTEBOOKS)  ## run examples/*.ipynb and store their outputs; writes benchmarks/results/notebooks.md
	$(ONE_THREAD) $(BIN)/python examples/notebooks.py --page benchmarks/results/notebooks.md

executorch: .venv-executorch/.ready  ## students as programs of ExecuTorch, tested in an environment of its own
	$(ONE_THREAD) .venv-executorch/bin/python -m pytest tests/commands/test_executorch.py

nightly: $(WITH_DEV) chaos notebooks executorch  ## all three, with hostile inputs (also without their guards), changed bytes, disk errors, shared batches and pages in full number, a cluster of Ray
	@$(INSTALL) dev,ray
	$(ONE_THREAD) $(BIN)/python tests/faults/guards.py --page benchmarks/results/guards.md
	NIGHTLY=1 $(ONE_THREAD) $(BIN)/python -m pytest tests/faults tests/test_shards.py tests/test_readme.py tests/recipes/test_ray_workers.py

house: $(WITH_DEV)  ## print what keeps the code readable: import circles, words that are said otherwise ...
	@$(BIN)/python tests/test_structure.py
	@$(BIN)/python tests/test_language.py

lint: $(WITH_DEV)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(WITH_DEV)  ## let ruff fix and format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove .venv and caches; runs/ stays
	rm -rf .venv .venv-executorch build .hypothesis .mypy_cache .pytest_cache .ruff_cache src/gankd.egg-info
	find src tests -name __pycache__ -prune -exec rm -rf {} +

$(WITH_GANKD): $(INSTALL_INPUTS)
	@$(INSTALL)
	@touch $@

$(WITH_DEV): $(INSTALL_INPUTS)
	@$(INSTALL) dev
	@touch $(WITH_GANKD) $@

.venv-executorch/.ready: $(INSTALL_INPUTS)
	$(or $(PYTHON),python3) -m venv .venv-executorch
	.venv-executorch/bin/python -m pip install --editable '.[dev,onnx,executorch]'
	touch $@

$(WITH_NOTEBOOKS): $(INSTALL_INPUTS)
	@$(INSTALL) notebooks
	@touch $(WITH_GANKD) $@

$(WITH_DOCS): $(INSTALL_INPUTS)
	@$(INSTALL) docs
	@touch $(WITH_GANKD) $@
