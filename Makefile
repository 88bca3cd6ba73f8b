# geofm: everything a fresh clone can do. Needs Python 3.11+, GNU make, bash and git; `make help` lists the targets.
#
#   make reports PYTHON=python3.12                                       another interpreter
#   make reports TORCH_INDEX=https://download.pytorch.org/whl/cpu        the small CPU wheel of torch
#   make reports RANKS=4                                                 more ranks
#   make verify CLAIMS="3 5"                                             two claims of ARTIFACT.md
#
# Your own torch: python3 -m venv .venv, install the build you want into it (.venv/bin/pip install torch torchvision
# --index-url ...), then any target: make keeps every torch >= 2.10 that it finds there.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
TORCH_INDEX ?=
RANKS ?= 2
PYTEST_ARGS ?=
LAB_ARGS ?=
PY := .venv/bin/python
GEOFM := $(PY) -m geofm_lib
STAMP := .venv/.installed

# What each notebook is given, and the minutes to expect on two cores. The notebooks' own defaults are laptop size.
# 03 also runs under each strategy of *_strategies, for 04's table and for 10, and has no step breakdown there; *_tasks are
# further pages of 08.
NOTEBOOKS := 01_data 02_pretrain 03_throughput 04_scaling 05_probe 06_paper 07_accuracy 08_transfer 09_objectives 10_compare 11_peers
reports_speed := -p ranks $(RANKS)
reports_01_data =
reports_02_pretrain = -p ranks $(RANKS)
reports_03_throughput = $(reports_speed) -p compare True
reports_04_scaling =
reports_05_probe = -p ranks $(RANKS) -p splits 2
reports_06_paper =
reports_07_accuracy =
reports_08_transfer = -p ranks $(RANKS) -p train_images 48 -p seeds 2 -p epochs 8
reports_09_objectives =
reports_10_compare =
reports_11_peers = -p steps 3 -p warmup_steps 1 -p stages ""
reports_minutes := 01_data=1 02_pretrain=5 03_throughput=2 04_scaling=1 05_probe=3 06_paper=2 07_accuracy=1 08_transfer=1 09_objectives=1 10_compare=1 11_peers=1
reports_strategies = NO_SHARD DDP

recorded_scenes := -p images_per_class 400
recorded_speed := -p ranks $(RANKS) -p model ViT-Pico -p batch_per_gpu 64
recorded_01_data = $(recorded_scenes)
recorded_02_pretrain = -p ranks $(RANKS) $(recorded_scenes) -p model ViT-Pico -p epochs 50 \
	-p base_learning_rate 1.5e-3 -p checkpoint_every 100 -p run_dir runs/recorded/pretrain
recorded_03_throughput = $(recorded_speed) -p compare True
recorded_04_scaling =
recorded_05_probe = -p ranks $(RANKS) $(recorded_scenes) -p encoder runs/recorded/pretrain -p views 4
recorded_06_paper =
recorded_07_accuracy =
recorded_08_transfer = -p ranks $(RANKS) $(recorded_scenes) -p encoder runs/recorded/pretrain
recorded_08_segment = $(recorded_08_transfer) -p task segment
recorded_08_detect = $(recorded_08_transfer) -p task detect -p arms fine-tuned,scratch -p seeds 1 -p train_images 800 -p epochs 20
recorded_08_series = -p ranks $(RANKS) -p task series -p dataset seasons
recorded_09_objectives =
recorded_10_compare =
recorded_11_peers = -p configs base,small -p steps 7 -p warmup_steps 1
recorded_minutes := 01_data=1 02_pretrain=18 03_throughput=2 04_scaling=1 05_probe=8 06_paper=2 07_accuracy=1 08_transfer=5 09_objectives=1 10_compare=1 11_peers=8
recorded_tasks := 08_segment 08_detect 08_series
recorded_strategies = SHARD_GRAD_OP NO_SHARD HYBRID_1GPU HYBRID_2GPUs DDP

.PHONY: help .venv reports recorded lab predictions simulations study experiments peers verify loader test test-slurm test-long lint \
	doctor clean

help:  ## This list
	@echo "geofm: make TARGET"
	@awk -F ':.*## ' '/^[a-z.][a-z.-]*:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.venv: $(STAMP)  ## The environment: .venv with everything in pyproject.toml (3 to 10 minutes, once)

# A torch >= 2.10 that .venv, or the interpreter it is made from, already has is kept: a site's build is worth more
# than ours.
TORCH_HERE = -c 'from importlib import metadata as m; \
	v = [d.version for d in m.distributions() if d.name.lower() == "torch"][:1]; \
	print(*[f"torch=={x}" for x in v if tuple(int(n) for n in x.split(".")[:2]) >= (2, 10)])'
PIP = $(PY) -m pip install --disable-pip-version-check --no-input
# pip's own bar needs a terminal of its own; one line per large download says as much.
SHOW = awk '/(Downloading|Using cached) .*[0-9] [MG]B/ {print "  " $$0; fflush()} /^Installing collected/ {print "  installing ..."; fflush()}'

$(STAMP): pyproject.toml constraints.txt constraints-torch.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "geofm needs Python 3.11 or newer, and \
	$(PYTHON) is %d.%d: name another, for example: make PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make a virtual environment: \
	install its venv package (Debian and Ubuntu: apt install python3-venv), then run make again" >&2; exit 1; }
	@base="$$($(PYTHON) $(TORCH_HERE))"; \
	echo "== .venv: making the environment with $$($(PYTHON) --version)"; \
	$(PYTHON) -m venv $${base:+--system-site-packages} .venv; \
	kept="$$($(PY) $(TORCH_HERE))"; \
	if [ -n "$$kept" ]; then echo "== .venv: keeping $$kept"; echo "$$kept" > .venv/constraints-torch.txt; \
	else cp constraints-torch.txt .venv/constraints-torch.txt; fi; \
	if [ -z "$$kept" ] && [ -n "$(TORCH_INDEX)" ]; then \
	  echo "== .venv: torch from $(TORCH_INDEX)"; \
	  $(PIP) --index-url "$(TORCH_INDEX)" -c constraints-torch.txt torch torchvision | $(SHOW); \
	elif [ -z "$$kept" ]; then \
	  echo "== .venv: the default torch brings several GB of CUDA packages; on a laptop without a GPU take the small one:"; \
	  echo "==        make TORCH_INDEX=https://download.pytorch.org/whl/cpu"; \
	fi; \
	echo "== .venv: installing geofm and the packages of pyproject.toml (3 to 10 minutes)"; \
	$(PIP) -c constraints.txt -c .venv/constraints-torch.txt -e '.[notebooks,test]' | $(SHOW); \
	touch $(STAMP); \
	echo "== .venv: done, $$(du -sh .venv | cut -f1), torch $$($(PY) -c 'from importlib.metadata import version; print(version("torch"))')"

# $(call pages,reports|recorded,FOLDER): 03 under other strategies, every notebook, then the index. A notebook that fails
# does not stop the others: its page says what went wrong, and make fails at the end.
define pages
	@failed=; try() { echo "== $$1"; shift; $(GEOFM) run "$$@" || \
	  case $$? in 75 | 130) echo "== stopped; make it again to go on" >&2; exit 75 ;; *) failed+=" $$1" ;; esac; }; \
	$(foreach s,$($(1)_strategies),try "03_throughput $(s) (under 1 min)" \
	  03_throughput $($(1)_speed) -p profile_steps 0 -p strategy $(s);) \
	$(foreach n,$(NOTEBOOKS),try "$(n) (about $(patsubst $(n)=%,%,$(filter $(n)=%,$($(1)_minutes))) min)" \
	  $(n) --page $(2)/$(n).html $($(1)_$(n));) \
	$(foreach n,$($(1)_tasks),try "$(n) (3 to 16 min)" $(firstword $(subst _, ,$(n))) --page $(2)/$(n).html $($(1)_$(n));) \
	$(GEOFM) report --index $(2); \
	echo "== $$SECONDS s in all. Open $(2)/index.html in a browser."; \
	[ -z "$$failed" ] || { echo "== failed:$$failed (its page and log.txt in its run folder say why)" >&2; exit 1; }
endef

reports: $(STAMP)  ## All reports at laptop size -> reports/index.html (up to 15 minutes on 2 cores; read again in 2)
	$(call pages,reports,reports)

recorded: export GEOFM_RUNS = runs/recorded
recorded: $(STAMP)  ## The longer runs kept in the repository -> reports/recorded/ (up to 75 minutes on 2 cores)
	$(call pages,recorded,reports/recorded)
	@$(GEOFM) study measured
	@$(GEOFM) report runs/recorded/pretrain --rebuilt reports/recorded/rebuilt.jpg

lab: $(STAMP)  ## JupyterLab over the whole clone: notebooks, README, runs and pages
	$(PY) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" --LabApp.app_settings_dir="$(CURDIR)/batch/lab" $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

predictions: $(STAMP)  ## The planner's speeds fitted again, and reports/unseen.csv: each model by a fit to the others (seconds)
	$(GEOFM) calibrate
	$(GEOFM) study unseen

study: $(STAMP)  ## 07: goes on with the scaling study where GEOFM_DATA names its archives (hours), and reads what is there
	if [ -n "$$GEOFM_DATA" ]; then for grid in accuracy_rates accuracy accuracy_largest; do \
	  [ $$grid != accuracy_largest ] || [ -f reports/predicted_accuracy.csv ] || { echo "== first \
	  geofm study predicted_accuracy, and commit it: the largest size is predicted before it runs"; break; }; \
	  $(GEOFM) submit batch/grids/$$grid.csv --here || exit $$?; done; $(GEOFM) study accuracy_rates; $(GEOFM) study accuracy; fi
	$(GEOFM) run 07_accuracy --page reports/07_accuracy.html

simulations: $(STAMP)  ## reports/simulated.csv: the paper's memory figures, simulated on fake ranks (10 minutes; read again in 1)
	$(GEOFM) study simulated

experiments: $(STAMP)  ## reports/experiments.csv: the small grids of batch/grids, run here (20 minutes on 2 cores; read again in 1)
	for name in experiments prefetch_small scaling_small; do $(GEOFM) submit batch/grids/$$name.csv --here; done
	$(GEOFM) study experiments

peers: export GEOFM_RUNS = runs/recorded
peers: $(STAMP)  ## reports/peers.csv: speed beside transformers and lightly (8 minutes; pip install -e '.[peers]' before)
	$(GEOFM) run 11_peers --page reports/recorded/11_peers.html $(recorded_11_peers)
	$(GEOFM) study peers

verify: $(STAMP)  ## ARTIFACT.md's short claims, made anew and compared (about 10 minutes on 2 cores; CLAIMS="3 5" for some)
	@$(GEOFM) verify $(CLAIMS)

test: $(STAMP)  ## The tests (up to 10 minutes on 2 cores): two files at a time, then those that measure time
	$(PY) -m pytest -n 2 --dist loadfile -m "not slurm and not long and not alone" $(PYTEST_ARGS) || [ $$? -eq 5 ]
	$(PY) -m pytest -m "alone and not long" $(PYTEST_ARGS) || [ $$? -eq 5 ]  # 5: PYTEST_ARGS chose none of these
	$(PY) -m pytest --doctest-modules --doctest-ignore-import-errors geofm_lib  # the examples in docstrings

test-slurm: $(STAMP)  ## The tests on a real Slurm started on this machine (up to 20 minutes; apt install slurm-wlm munge)
	$(PY) -m pytest -m slurm $(PYTEST_ARGS)

test-long: $(STAMP)  ## The tests that take longer (60 to 90 minutes on 2 cores)
	$(PY) -m pytest -m long $(PYTEST_ARGS)

loader: $(STAMP)  ## Images/s beside ImageFolder and webdataset -> reports/loader.csv (4 minutes; needs GEOFM_TEST_DATA)
	OMP_NUM_THREADS=1 $(PY) -m tests.benchmarks.loader

lint: $(STAMP)  ## Ruff over code and notebooks, mypy over the library, shellcheck over the scripts (half a minute)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	PATH=".venv/bin:$$PATH" shellcheck batch/*.sh .ci/run

doctor: $(STAMP)  ## One page: what this machine can run, what is missing, and the fix (half a minute)
	@$(GEOFM) doctor

clean:  ## Remove .venv, caches and the pages of `make reports`; keeps runs/ and reports/recorded/
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache build geofm.egg-info reports/*.html reports/*.json
	find geofm_lib tests -name __pycache__ -type d -prune -exec rm -rf {} +
