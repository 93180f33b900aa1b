PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
BASE = $(VENV)/.base
INSTALLED = $(VENV)/.installed
LOWEST = $(VENV)-lowest
LMMS = $(VENV)-lmms-eval
VLLM = $(VENV)-vllm
LEROBOT = $(VENV)-lerobot
PYTHON312 ?= python3.12

.PHONY: ask test test-lowest test-lmms-eval test-lerobot test-robot test-vllm stress smoke lint style clean

ask: $(BASE)  ## answer one question about a shipped clip; installs the base alone
	$(BIN)/vega3d ask room "Measuring from the closest point of each object, which of these objects (teddy bear, door, nightstand, chair) is the closest to the clock?" --options "teddy bear" door nightstand chair
	@echo "right: C (by the geometry of the room)"

PROCESSES ?= 2
SPREAD = -m "not stress" --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder
test: $(INSTALLED)  ## the tests; no network, no GPU
	$(BIN)/python -m pytest $(SPREAD)

TESTS =
test-lowest: $(LOWEST)/.installed  ## the same tests with the lowest versions that pyproject.toml allows, in an environment of their own; TESTS="tests/hub" for some
	$(LOWEST)/bin/python -m pytest $(SPREAD) $(TESTS)

test-lmms-eval: $(LMMS)/.installed  ## vega3d as a model of lmms-eval, which has an environment of its own
	$(LMMS)/bin/python -m pytest tests/harness

test-lerobot: $(LEROBOT)/.installed  ## the plug-in of LeRobot, which has an environment of its own; needs Python 3.12, and renders with EGL
	$(LEROBOT)/bin/python -m pytest plugins/lerobot_policy_vega3d/tests

test-robot: $(INSTALLED)  ## the tests with Meta-World; installs the extra `robot`, and renders with EGL
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,robot]"
	$(BIN)/python -m pytest tests/robotics tests/test_act_command.py tests/test_embedded_policy.py

stress: $(INSTALLED)  ## long kill and soak tests
	$(BIN)/python -m pytest -m stress

test-vllm: $(VLLM)/.installed  ## the plug-in of vLLM, on Linux; without a GPU all but the whole engine
	$(VLLM)/bin/python -m pytest tests/vllm_plugin

$(VLLM)/.installed: pyproject.toml
	@echo "Installing vLLM into $(VLLM): 12 GB, 10 to 30 minutes."
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --upgrade pip
	$(VLLM)/bin/python -m pip install --editable ".[vllm]" pytest
	touch $@

SMOKE = runs/smoke
smoke: $(INSTALLED)  ## the whole chain at toy size: rooms, generator and twin, tower, arms, tables, checkpoint, boxes, a question
	rm -rf $(SMOKE)
	$(BIN)/python -m research.tiny.reproduce research/tiny/configs/smoke_generator.yaml research/tiny/configs/smoke.yaml \
		--grounding research/tiny/configs/smoke_grounding.yaml --output $(SMOKE) --checkpoint $(SMOKE)/model
	$(BIN)/python -m research.tiny.study research/tiny/configs/smoke.yaml --output $(SMOKE) --stages wordings \
		--arms trained --splits validation
	$(BIN)/vega3d analyze probe $(SMOKE)/world-simulator/generator --clips 2 --train-clips 3 --views 5 --block 0,1 --readings depth,turn
	$(BIN)/vega3d compare --first $(SMOKE)/smoke/results/test/semantic-seed0.json $(SMOKE)/smoke/results/test/semantic-seed1.json \
		--second $(SMOKE)/smoke/results/test/trained-seed0.json $(SMOKE)/smoke/results/test/trained-seed1.json --paired-seeds
	$(BIN)/vega3d ask room "How many window(s) are in this room?" --number --model $(SMOKE)/model --num-frames 5

CODE = src tests conftest.py benchmarks examples plugins recipes research .ci
lint: $(INSTALLED)  ## style, types, and who may import whom
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/python .ci/docstrings.py src
	$(BIN)/lint-imports

style: $(INSTALLED)  ## mend what can be mended
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

$(BASE): pyproject.toml constraints.txt
	@echo "Installing vega3d without extras into $(VENV): 6 GB with PyTorch for CUDA, 5 to 15 minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable .
	touch $@

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $(BASE) $@

$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST)/bin/python -m pip install --constraint constraints-lowest.txt --editable ".[dev]"
	touch $@

# Above the packages of $(VENV), which are not installed again; lmms-eval wants an older PyAV, which goes before theirs.
$(LMMS)/.installed: $(INSTALLED) pyproject.toml
	$(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/python -m pip install --quiet --upgrade pip
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		$$($(LMMS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/below.pth
	grep -v "^av==" constraints.txt > $(LMMS)/constraints.txt
	$(LMMS)/bin/python -m pip install --constraint $(LMMS)/constraints.txt lmms-eval==0.7.3 --editable .
	touch $@

$(LEROBOT)/.installed: pyproject.toml plugins/lerobot_policy_vega3d/pyproject.toml
	@echo "Installing LeRobot into $(LEROBOT): 6 GB, 5 to 15 minutes."
	$(PYTHON312) -m venv $(LEROBOT)
	$(LEROBOT)/bin/python -m pip install --quiet --upgrade pip
	$(LEROBOT)/bin/python -m pip install --editable . --editable "plugins/lerobot_policy_vega3d[test]"
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) $(LMMS) $(VLLM) $(LEROBOT)
