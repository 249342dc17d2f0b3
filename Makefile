# The entry to everything: `make help` lists targets and variables.
# A recipe that runs for long is one command that replaces the shell (exec), so that it receives the
# signals that are sent to make.

PYTHON ?= python3
DATA_DIR ?= data
RECORDING ?= data/sample/synthetic_btcusd.jsonl.gz
SPEED ?= 1
RETIME ?= 1
BACKLOG ?= 1800
KAFKA_PORT ?= 9092
CONTROLLER_PORT ?= 9093
FEED_PORT ?= 8765
DASHBOARD_PORT ?= 8501
MINUTES ?= 60

# A shell's settings for other Pythons can hide the packages of this project, or stop Python at its
# start (PYTHONHASHSEED=abc). The variables in `harmless` do neither.
harmless := PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX
unexport $(filter-out $(harmless),$(filter PYTHON%,$(.VARIABLES)))
unexport PIP_USER PIP_TARGET PIP_PREFIX

VENV := .venv/bin/python
# After an upgrade of the system's Python, the environment has no packages for the new version, not
# even pip. Then `unusable` is the phony target need-python, so make creates the environment again.
has_pip = $(1)/bin/python -E -c 'import pip' 2>/dev/null
unusable = $(shell test ! -e $(1)/.made || $(call has_pip,$(1)) || echo need-python)
# Maven is needed until the Java libraries are here.
MAVEN := $(if $(and $(wildcard jars/spark/lib/.made),$(wildcard jars/kafka/lib/.made)),,mvn)
# Quotes a value as one word for the shell.
quoted = '$(subst ','\'',$(1))'
STACK = --data-dir $(call quoted,$(DATA_DIR)) \
	--kafka-port $(call quoted,$(KAFKA_PORT)) --controller-port $(call quoted,$(CONTROLLER_PORT)) \
	--dashboard-port $(call quoted,$(DASHBOARD_PORT))
REPLAY = --recording $(call quoted,$(RECORDING)) --speed $(call quoted,$(SPEED)) \
	--retime $(call quoted,$(RETIME)) --backlog $(call quoted,$(BACKLOG)) \
	--feed-port $(call quoted,$(FEED_PORT))

.PHONY: help demo run status report test test-slow test-compose lint bench bench-growth bench-peers bench-scale faults soak screenshots audit sbom clean venv venv-dev venv-audit jars archive need-python need-java need-demo need-run
# In order, also with -j: a check comes before the installation.
.NOTPARALLEL:

help:
	@cat local/help.txt

demo: need-demo need-java venv jars archive
	@exec $(VENV) -m local.start demo $(STACK) $(REPLAY)

run: need-run need-java venv jars archive
	@exec $(VENV) -m local.start run $(STACK)

status: venv
	@exec $(VENV) -m local.status --data-dir $(call quoted,$(DATA_DIR))

report: venv
	@DATA_DIR=$(call quoted,$(DATA_DIR)) exec $(VENV) -m report $(ARGS)

test: venv-dev jars archive
	@exec $(VENV) -m pytest -m "not slow" -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: venv-dev jars archive
	@exec $(VENV) -m pytest -m slow $(ARGS)

test-compose: venv-dev
	@RECORDING=$(call quoted,$(RECORDING)) exec $(VENV) -m pytest tests/compose $(ARGS)

lint: venv-dev
	@$(VENV) -m ruff check .
	@$(VENV) -m ruff format --check .
	@$(VENV) -m mypy

bench: venv-dev jars archive
	@exec $(VENV) -m benchmarks $(ARGS)

bench-growth: venv-dev jars archive
	@exec $(VENV) -m benchmarks.growth $(ARGS)

bench-peers: venv-dev jars archive jars/flink/lib/.made
	@exec $(VENV) -m benchmarks.peers $(ARGS)

bench-scale: venv-dev jars archive
	@exec $(VENV) -m benchmarks.scale $(ARGS)

faults: venv-dev jars archive
	@exec $(VENV) -m faults --recording $(call quoted,$(RECORDING)) $(ARGS)

soak: venv-dev jars archive
	@exec $(VENV) -m faults.soak --minutes $(call quoted,$(MINUTES)) \
		--recording $(call quoted,$(RECORDING)) $(ARGS)

screenshots: venv-dev jars archive
	@exec $(VENV) -m tests.screenshots $(ARGS)

audit: venv-audit
	@exec .venv-audit/bin/python -m pip_audit --strict --disable-pip --require-hashes -r requirements.txt

sbom: venv-audit need-java
	@$(PYTHON) -m local.prerequisites mvn
	@mkdir -p sbom
	@.venv-audit/bin/cyclonedx-py requirements requirements.txt --output-reproducible -o sbom/python.cdx.json
	@for part in spark kafka; do mvn --quiet --batch-mode -Dstyle.color=never -f jars/$$part/pom.xml \
		org.cyclonedx:cyclonedx-maven-plugin:2.9.1:makeBom -DoutputFormat=json \
		-DoutputDirectory=$(CURDIR)/sbom -DoutputName=$$part.cdx || exit; done
	@ls sbom/*.json

clean: venv
	@exec $(VENV) -m local.clean --data-dir $(call quoted,$(DATA_DIR))

venv: .venv/.made
venv-dev: .venv/.made-dev
venv-audit: .venv-audit/.made
jars: jars/spark/lib/.made jars/kafka/lib/.made

archive: venv jars
	@exec $(VENV) -m local.archives

.venv/.made: requirements.txt $(call unusable,.venv) | need-python
	@echo "Installing requirements.txt in .venv (the first time takes a minute or two)"
	@$(call has_pip,.venv) || exec $(PYTHON) -m venv --clear .venv
	@$(VENV) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

.venv/.made-dev: requirements-dev.txt .venv/.made
	@echo "Installing requirements-dev.txt in .venv, for tests and checks"
	@$(VENV) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

.venv-audit/.made: requirements-audit.txt $(call unusable,.venv-audit) | need-python
	@echo "Installing requirements-audit.txt in .venv-audit, for audits and bills of materials"
	@$(PYTHON) -m venv --clear .venv-audit
	@.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements-audit.txt
	@touch $@

jars/%/lib/.made: jars/%/pom.xml | need-java
	@$(PYTHON) -m local.prerequisites mvn
	@echo "Downloading the Java libraries for $* with Maven (the first time takes a minute)"
	@rm -rf $(@D)
	@MAVEN_OPTS="$$MAVEN_OPTS -Djansi.noreset=true" exec mvn --quiet --batch-mode -Dstyle.color=never -f $< package
	@touch $@

need-python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or newer \
	(Debian: apt-get install python3 python3-venv), or set PYTHON to its path" >&2; exit 2; }
	@$(PYTHON) -c '' || { echo "$(PYTHON) does not start. The lines above give the cause. Correct it, \
	or set PYTHON to another Python" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older \
	than Python 3.11: install a newer one, or set PYTHON to the path of one" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual \
	environments: install its venv module (Debian: apt-get install python3-venv)" >&2; exit 2; }

need-java: need-python
	@$(PYTHON) -m local.prerequisites java $(MAVEN)

need-demo: need-python
	@$(PYTHON) -m local.variables demo $(STACK) $(REPLAY)

need-run: need-python
	@$(PYTHON) -m local.variables run $(STACK)
