# Each target makes its own virtual environment first; nothing has to be installed by hand but Python 3.9 to 3.12.
# Another Python: `make test PYTHON=python3.11`. Another place for the environment: `make test VENV=/tmp/venv`.

PYTHON ?= python3
VENV ?= .venv

# The version is part of the stamps' names, so that another PYTHON makes the environment anew.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
SUPPORTED := 3.9 3.10 3.11 3.12
RUN_READY := $(VENV)/.ready-$(VERSION)
TEST_READY := $(VENV)/.ready-test-$(VERSION)
WEB_READY := $(VENV)/.ready-web-$(VERSION)
TEST_WEB_READY := $(VENV)/.ready-test-web-$(VERSION)

.PHONY: demo web test test-all test-web test-package lint clean check-python
.DELETE_ON_ERROR:

demo: $(RUN_READY)
	$(VENV)/bin/python image_to_video.py --image=assets/demo.png --output_dir=outputs/demo
	@echo "The video is in outputs/demo. The model is a small one (docs/svd_tiny.md): the published weights do much better."

web: $(WEB_READY)
	$(VENV)/bin/python -m streamlit run app.py

test: $(TEST_READY)
	$(VENV)/bin/python -m pytest

test-all: $(TEST_READY)
	$(VENV)/bin/python -m pytest -m "not browser"

test-web: $(TEST_WEB_READY)
	$(VENV)/bin/python -m pytest -m browser -rs tests/web

test-package: $(TEST_READY)
	$(VENV)/bin/python -m pytest -m slow tests/test_package.py

lint: $(TEST_READY)
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy

clean:
	rm -rf $(VENV) build outputs/demo .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

check-python:
ifeq ($(filter $(VERSION),$(SUPPORTED)),)
	@echo "error: PYTHON=$(PYTHON) is $(if $(VERSION),Python $(VERSION),not a Python that runs); MindSpore 2.8.0 needs one of $(SUPPORTED)." >&2
	@echo "Choose another: make $(MAKECMDGOALS) PYTHON=python3.11" >&2
	@exit 1
endif

# A half-made environment has no stamp and is made anew; one whose requirements changed is only brought up to date.
$(RUN_READY): requirements.txt pyproject.toml | check-python
	test -e $@ || $(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

$(TEST_READY): $(RUN_READY) requirements-test.txt requirements-download.txt requirements-data.txt \
		requirements-cluster.txt
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements-test.txt
	touch $@

$(WEB_READY): $(RUN_READY) requirements-web.txt
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements-web.txt
	touch $@

$(TEST_WEB_READY): $(TEST_READY) $(WEB_READY) requirements-test-web.txt
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements-test-web.txt
	touch $@
