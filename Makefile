# Requires Python 3.11 or newer, make and git. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test coverage test-quick lint types check lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# The virtual environment with the locked versions. It is created again when a lock file changes.
$(VENV)/.ready: requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 …"; exit 1; }
	@echo "setting up $(VENV) (once) …"
	@$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Separate virtual environments for packages that only some targets need.
.venv-%/.ready: requirements-%.txt
	@echo "setting up .venv-$* (once) …"
	@$(PYTHON) -m venv .venv-$*
	@echo '*' > .venv-$*/.gitignore
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

demo: $(VENV)/.ready ## run the agent with a local Jenkins and a local Hivel, with an outage in between (DEMO=stay: then serve the pages)
	@$(BIN)/hivel-agent demo $(if $(filter stay,$(DEMO)),--stay)

test: $(VENV)/.ready ## run all tests
	@$(BIN)/python -m pytest -n auto --dist worksteal

# The tests of the pages in a browser, in an environment that has Playwright. Chromium is Debian's.
BROWSER_VENV := .venv-browser

$(BROWSER_VENV)/.ready: requirements-browser.txt pyproject.toml
	@echo "setting up $(BROWSER_VENV) (once) …"
	@$(PYTHON) -m venv $(BROWSER_VENV)
	@echo '*' > $(BROWSER_VENV)/.gitignore
	@$(BROWSER_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@$(BROWSER_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: browser-test screenshots
browser-test: $(BROWSER_VENV)/.ready ## the pages in Chromium: apt-get install chromium-headless-shell
	@$(BROWSER_VENV)/bin/python -m pytest -n 2 --dist loadgroup tests/browser

screenshots: $(BROWSER_VENV)/.ready ## docs/images/pages: pictures of the pages, from the demo's data
	@$(BROWSER_VENV)/bin/python -m tests.browser.screenshots

# The schemas of the Kubernetes API take 140 MB, so they have their own environment.
KUBERNETES_VENV := .venv-kubernetes

$(KUBERNETES_VENV)/.ready: requirements-kubernetes.txt pyproject.toml
	@echo "setting up $(KUBERNETES_VENV) (once) …"
	@$(PYTHON) -m venv $(KUBERNETES_VENV)
	@echo '*' > $(KUBERNETES_VENV)/.gitignore
	@$(KUBERNETES_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-kubernetes.txt
	@$(KUBERNETES_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: kubernetes-test
kubernetes-test: $(KUBERNETES_VENV)/.ready ## validate the manifests for Kubernetes against the schemas of its API
	@$(KUBERNETES_VENV)/bin/python -m pytest -q tests/kubernetes

coverage: $(VENV)/.ready ## run the tests that need no root, with branch coverage, subprocesses included
	@$(BIN)/python -m pytest -n auto --dist worksteal -m "not root" --cov --cov-report=term

QUICK := tests/unit tests/conformance $(addprefix tests/integration/test_,agent.py cli.py ingest.py poller.py)
test-quick: $(VENV)/.ready ## run a selection of the tests in less than two minutes
	@$(BIN)/python -m pytest -q -n auto --dist worksteal $(QUICK)

# A cluster of its own in a temporary folder. The tests are skipped where PostgreSQL is not installed.
.PHONY: test-postgresql
test-postgresql: $(VENV)/.ready ## the tests with PostgreSQL: apt-get install postgresql pgbouncer
	@LONG_TESTS=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/postgresql

.PHONY: test-pgbouncer
test-pgbouncer: $(VENV)/.ready ## the conformance suite of the outbox through PgBouncer: apt-get install postgresql pgbouncer
	@THROUGH_PGBOUNCER=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/conformance tests/postgresql/test_pgbouncer.py

BENCH_VENV := .venv-bench

# To run one benchmark: `make bench BENCH=enqueue`. Polling takes most of the time; `make bench BENCH="polling --quick"`
# takes less.
BENCHMARKS := polling enqueue drain doors sizes dora lists pages
.PHONY: bench
bench: $(BENCH_VENV)/.ready ## compare the speed with similar software (about 15 minutes; BENCH=polling|enqueue|drain|doors|sizes|dora|lists|pages)
	@set -e; for name in $(if $(BENCH),"$(BENCH)",$(BENCHMARKS)); do \
	  echo "== $$name"; $(BENCH_VENV)/bin/python -m tests.benchmarks.$$name; echo; done

lint: $(VENV)/.ready ## ruff (rules and format) and import-linter (imports between packages)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo

types: $(VENV)/.ready ## mypy --strict
	@$(BIN)/mypy --strict agent

check: lint types test ## lint, types and test

.PHONY: wheel deb man release container-test
wheel: $(VENV)/.ready ## build the wheel in dist/
	@rm -f dist/*.whl
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	@ls dist/*.whl

deb: wheel ## build the Debian package for the release of this machine in dist/
	@packaging/deb/build dist/*.whl dist

man: $(VENV)/.ready ## build the man page in dist/
	@mkdir -p dist
	@$(BIN)/python -m agent.cli.manual "$$(date -u -d @$$(git log -1 --format=%ct) +%F)" >dist/hivel-agent.1
	@ls dist/hivel-agent.1

RELEASE_VENV := .venv-release

release: $(VENV)/.ready $(RELEASE_VENV)/.ready ## build wheel, source archive, Debian package, SBOM and checksums in dist/
	@rm -rf dist
	@$(MAKE) --no-print-directory deb man
	@$(BIN)/python -m build --sdist --no-isolation --outdir dist . >/dev/null
	@PYTHONWARNINGS=ignore::UserWarning $(RELEASE_VENV)/bin/cyclonedx-py requirements requirements-postgresql.txt \
	  --pyproject pyproject.toml --mc-type application --output-reproducible --of JSON -o dist/sbom.cdx.json
	@$(BIN)/python -c 'import json, pathlib, agent; file = pathlib.Path("dist/sbom.cdx.json"); \
	  sbom = json.loads(file.read_text()); sbom["metadata"]["component"]["version"] = agent.__version__; \
	  file.write_text(json.dumps(sbom, indent=2) + "\n")'
	@cd dist && sha256sum -- * >SHA256SUMS && cat SHA256SUMS

.PHONY: docs
docs: .venv-docs/.ready ## build the documentation as a website in build/site
	@rm -rf build/pages && mkdir -p build/pages
	@cp --parents -R README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE docs jenkinsfile-snippets other-ci monitoring systemd \
	  tests/benchmarks/README.md tests/data/webhooks build/pages
	@.venv-docs/bin/mkdocs build --strict >build/site.log 2>&1 || { cat build/site.log; exit 1; }
	@echo build/site/index.html

container-test: $(VENV)/.ready ## test the service with systemd in a Debian container (root; debootstrap, systemd-container)
	@$(BIN)/python -m tests.container

lock: ## update the lock files (needs uv)
	uv pip compile --quiet --no-strip-extras --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml -o requirements.txt
	uv pip compile --quiet --no-strip-extras --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --extra postgresql -c requirements.txt -o requirements-postgresql.txt
	uv pip compile --quiet --no-strip-extras --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --extra postgresql --group dev -c requirements-postgresql.txt -o requirements-dev.txt
	uv pip compile --quiet --no-strip-extras --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --group bench -c requirements.txt -o requirements-bench.txt
	uv pip compile --quiet --no-strip-extras --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --extra postgresql --group dev --group browser -c requirements-dev.txt -o requirements-browser.txt
	uv pip compile --quiet --no-strip-extras --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --extra postgresql --group dev --group kubernetes -c requirements-dev.txt -o requirements-kubernetes.txt
	uv pip compile --quiet --no-strip-extras --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group pyproject.toml:release -o requirements-release.txt
	uv pip compile --quiet --no-strip-extras --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group pyproject.toml:docs -o requirements-docs.txt
	uv pip compile --quiet --no-strip-extras --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group pyproject.toml:fuzz -o requirements-fuzz.txt

clean: ## remove the files that the other targets created
	rm -rf $(VENV) .venv-* dist build .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.PHONY: soak
SOAK_MINUTES ?= 20
soak: $(VENV)/.ready ## a long run with random faults and kills (SOAK_MINUTES=20)
	@SOAK_MINUTES=$(SOAK_MINUTES) $(BIN)/python -m tests.soak

.PHONY: soak-fleet
soak-fleet: $(VENV)/.ready ## a long run of three agents on one PostgreSQL, with kills, freezes and restarts of the database (SOAK_MINUTES=20)
	@SOAK_MINUTES=$(SOAK_MINUTES) $(BIN)/python -m tests.soak.fleet

.PHONY: fuzz
FUZZ_MINUTES ?= 60
fuzz: $(VENV)/.ready ## coverage-guided fuzzing for an hour (FUZZ_MINUTES=60 FUZZ_TARGETS=…)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-fuzz.txt || true
	@$(BIN)/python -m tests.fuzz $(FUZZ_MINUTES) $(FUZZ_TARGETS)
