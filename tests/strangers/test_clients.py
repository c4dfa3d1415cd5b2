"""Clients that others generate from the OpenAPI document do what the tutorial does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest

from postfacta_lab.engine.processes import wait_until
from tests.app.running import demo
from tests.strangers.kit import Environments

GENERATOR = "openapi-python-client==0.29.1"
NPM = ("openapi-typescript@7.13.0", "openapi-fetch@0.17.0", "typescript@5.9.3")
NODE_MISSING = [name for name in ("node", "npm") if shutil.which(name) is None]
# What both print, in this order.
PRINTED = [
    "INC-8",
    "created 5, duplicate 0",
    "created 0, duplicate 5",
    "5 signals of manual/",
    "manual/ci | Deployed shop 7",
    "detect ok 200",
    "missing owners",
    "published",
    "Twice as many reads of baskets",
]

PYTHON = """
    import os
    from datetime import datetime
    from http import HTTPStatus

    from client import AuthenticatedClient, Client, models
    from client.api.follow_up import create_incident_action_item, update_action_item
    from client.api.incidents import create_incident, move_incident
    from client.api.durations import get_incident_durations
    from client.api.people import sign_in
    from client.api.postmortems import (
        get_incident_postmortem, move_postmortem, replace_incident_postmortem,
    )
    from client.api.signals import list_signals, send_signals
    from client.api.timeline import create_incident_edit, list_incident_timeline

    URL = os.environ["APP"]
    DAY = "2026-02-07T"


    def at(clock):
        return datetime.fromisoformat(f"{DAY}{clock}+00:00")


    who = models.Credentials("admin@demo.example", os.environ["PASSWORD"])
    token = sign_in.sync(client=Client(URL), body=who).token
    api = AuthenticatedClient(URL, token)
    incident = create_incident.sync(client=api, body=models.NewIncident(
        title="The shop answers with errors", severity=models.Severity.HIGH,
        description="Baskets were unavailable for a quarter of an hour.",
        services=["shop"], declared_at=at("10:12:00"),
    ))
    ref = f"INC-{incident.number}"
    print(ref)

    Kind = models.SignalKind
    facts = [
        models.NewSignal(kind, title, source=source, id=id, occurred_at=at(clock))
        for source, id, kind, clock, title in (
            ("ci", "shop-7", Kind.CHANGE, "10:04:00", "Deployed shop 7"),
            ("proxy", "p-1", Kind.LOG, "10:03:10", "First error of /basket"),
            ("alerts", "a-1", Kind.ALERT_FIRING, "10:08:30", "One in three requests fails"),
            ("chat", "c-1", Kind.ACTION, "10:15:00", "Ada rolls back"),
            ("alerts", "a-2", Kind.ALERT_RESOLVED, "10:19:30", "One in three requests fails"),
        )
    ]
    for _ in range(2):
        sent = send_signals.sync(client=api, body=models.Batch(facts, incident=ref))
        counts = sent.counts
        print(f"created {counts['created']}, duplicate {counts['duplicate']}")
    for status, clock in (("IN_PROGRESS", "10:13:00"), ("RESOLVED", "10:20:00")):
        move = models.Move(models.Status(status), occurred_at=at(clock))
        moved = move_incident.sync_detailed(ref, client=api, body=move)
        assert moved.status_code == HTTPStatus.CREATED
    found = list_signals.sync(
        client=api, from_=at("10:00:00"), to=at("10:30:00"), attached=True,
    )
    print(len([s for s in found.items if s.source.startswith("manual/")]), "signals of manual/")

    slow = models.ClockOffset(
        "clock_offset", "manual/proxy", models.OffsetValue(120000), "Two minutes slow"
    )
    milestone = models.SetMilestone("milestone", models.MilestoneValue(
        models.Milestone.IMPACT_STARTED, at("10:05:10"),
    ))
    for edit in (slow, milestone):
        assert create_incident_edit.sync(ref, client=api, body=edit).edit
    first = list_incident_timeline.sync(ref, client=api).items[0]
    print(first.source, "|", first.title)
    detect = get_incident_durations.sync(ref, client=api).durations["detect"]
    print("detect", detect.status.value, round(detect.seconds))

    deploy = models.EntryRef("manual/ci", "shop-7")
    content = models.Content(
        summary="Shop 7 requested each basket twice.",
        impact=models.Impact(description="One in three baskets could not be shown."),
        trigger=models.Trigger(models.TriggerKind.CHANGE, "Shop 7", entry=deploy),
        factors=[models.Factor(
            "no-canary", models.Category.CHANGE, "A release goes to all servers at once.",
            why_it_made_sense="Two releases a week went well.", evidence=[deploy],
        )],
        went_well=["The rollback took four minutes."],
    )
    replace_incident_postmortem.sync(
        ref, client=api, body=models.Draft(content), if_none_match="*",
    )
    action = create_incident_action_item.sync(ref, client=api, body=models.NewAction(
        models.ActionType.PREVENT, "Release to one server first", factor="no-canary",
    ))

    def publish(to, version):
        transition = models.Transition(models.Stage(to))
        return move_postmortem.sync(ref, client=api, body=transition, if_match=version)

    publish("in_review", '"pm-1"')
    print("missing", *publish("published", '"pm-2"').additional_properties["missing"])
    update_action_item.sync(
        action.id, client=api, body=models.ActionChange(owner="Ada"), if_match='"act-1"',
    )
    print(publish("published", '"pm-2"').status.value)
    late = models.NewSignal(
        Kind.METRIC, "Twice as many reads of baskets", source="db", occurred_at=at("10:04:30"),
    )
    send_signals.sync(client=api, body=models.Batch([late], incident=ref))
    print(get_incident_postmortem.sync(ref, client=api).timeline_changes.added[0].title)
"""

TYPESCRIPT = """
import createClient from "openapi-fetch";
import type { components, paths } from "./api";

type Signal = components["schemas"]["NewSignal"];
declare const process: { env: Record<string, string> };

const DAY = "2026-02-07T";
const at = (clock: string) => `${DAY}${clock}Z`;
const fact = (source: string, id: string, kind: Signal["kind"], clock: string, title: string) =>
  ({ source, id, kind, title, occurred_at: at(clock), precision: "exact" }) as Signal;

function got<T>(result: { data?: T; error?: unknown }): T {
  if (result.data === undefined) throw new Error(JSON.stringify(result.error));
  return result.data;
}

async function main(): Promise<void> {
  const api = createClient<paths>({ baseUrl: process.env.APP });
  const body = { email: "admin@demo.example", password: process.env.PASSWORD };
  const { token } = got(await api.POST("/login", { body }));
  const headers = { Authorization: `Bearer ${token}` };
  const incident = got(await api.POST("/api/v1/incidents", { headers, body: {
    title: "The shop answers with errors", severity: "HIGH", declared_at: at("10:12:00"),
    description: "Baskets were unavailable for a quarter of an hour.",
  } as components["schemas"]["NewIncident"] }));
  const ref = `INC-${incident.number}`;
  const path = { ref };
  console.log(ref);

  const items = [
    fact("ci", "shop-7", "change", "10:04:00", "Deployed shop 7"),
    fact("proxy", "p-1", "log", "10:03:10", "First error of /basket"),
    fact("alerts", "a-1", "alert_firing", "10:08:30", "One in three requests fails"),
    fact("chat", "c-1", "action", "10:15:00", "Ada rolls back"),
    fact("alerts", "a-2", "alert_resolved", "10:19:30", "One in three requests fails"),
  ];
  for (let time = 0; time < 2; time++) {
    const sent = got(await api.POST("/api/v1/signals", { headers, body: { incident: ref, items } }));
    console.log(`created ${sent.counts.created}, duplicate ${sent.counts.duplicate}`);
  }
  for (const [to, clock] of [["IN_PROGRESS", "10:13:00"], ["RESOLVED", "10:20:00"]] as const)
    got(await api.POST("/api/v1/incidents/{ref}/transitions", {
      headers, params: { path }, body: { to, occurred_at: at(clock) },
    }));
  const query = { from: at("10:00:00"), to: at("10:30:00"), attached: true };
  const found = got(await api.GET("/api/v1/signals", { headers, params: { query } }));
  console.log(found.items.filter((it) => it.source.startsWith("manual/")).length, "signals of manual/");

  const edits: components["schemas"]["AnyEdit"][] = [
    { op: "clock_offset", source: "manual/proxy", value: { ms: 120000 }, reason: "Two minutes slow" },
    { op: "milestone", value: { name: "impact_started", at: at("10:05:10") } },
  ];
  for (const edit of edits)
    got(await api.POST("/api/v1/incidents/{ref}/edits", { headers, params: { path }, body: edit }));
  const timeline = got(await api.GET("/api/v1/incidents/{ref}/timeline", { headers, params: { path } }));
  console.log(timeline.items[0].source, "|", timeline.items[0].title);
  const all = got(await api.GET("/api/v1/incidents/{ref}/durations", { headers, params: { path } }));
  const { detect } = all.durations;
  console.log("detect", detect.status, detect.seconds);

  const deploy = { source: "manual/ci", id: "shop-7" };
  const content = {
    summary: "Shop 7 requested each basket twice.",
    impact: { description: "One in three baskets could not be shown." },
    trigger: { kind: "change", description: "Shop 7", entry: deploy },
    factors: [{
      slug: "no-canary", category: "change", statement: "A release goes to all servers at once.",
      why_it_made_sense: "Two releases a week went well.", evidence: [deploy],
    }],
    went_well: ["The rollback took four minutes."],
  } as components["schemas"]["Content"];
  got(await api.PUT("/api/v1/incidents/{ref}/postmortem", {
    headers, params: { path, header: { "If-None-Match": "*" } }, body: { content },
  }));
  const action = got(await api.POST("/api/v1/incidents/{ref}/action-items", {
    headers, params: { path },
    body: { type: "prevent", title: "Release to one server first", factor: "no-canary" },
  }));
  const publish = (to: components["schemas"]["Stage"], version: string) =>
    api.POST("/api/v1/incidents/{ref}/postmortem/transitions", {
      headers, params: { path, header: { "If-Match": version } }, body: { to },
    });
  got(await publish("in_review", '"pm-1"'));
  const refused = (await publish("published", '"pm-2"')).error as { missing?: string[] };
  console.log("missing", ...(refused.missing ?? []));
  got(await api.PATCH("/api/v1/action-items/{id}", {
    headers: { ...headers, "Content-Type": "application/merge-patch+json" },
    params: { path: { id: action.id }, header: { "If-Match": '"act-1"' } }, body: { owner: "Ada" },
  }));
  console.log(got(await publish("published", '"pm-2"')).status);
  const late = fact("db", "d-1", "metric", "10:04:30", "Twice as many reads of baskets");
  got(await api.POST("/api/v1/signals", { headers, body: { incident: ref, items: [late] } }));
  const written = got(await api.GET("/api/v1/incidents/{ref}/postmortem", { headers, params: { path } }));
  console.log(written.timeline_changes?.added[0].title);
}

void main();
"""


@pytest.fixture
def app(tmp_path: Path) -> Generator[dict[str, str]]:
    """Run a demo; give the variables that its clients read, its document in `openapi.json`."""
    folder = tmp_path / ".postfacta"
    with demo(folder) as (_, printed):
        (url,) = re.findall(r"listening on (http://\S+?);", printed)
        ready = f"{url}/healthz/ready"
        wait_until(lambda: httpx2.get(ready).status_code == 200, "the demo is ready", within=30.0)
        (tmp_path / "openapi.json").write_bytes(httpx2.get(f"{url}/openapi.json").content)
        yield {"APP": url, "PASSWORD": (folder / "admin-password").read_text()}


def test_a_python_client_lacks_nothing_and_does_the_tutorial(
    environments: Environments, app: dict[str, str], tmp_path: Path
) -> None:
    environment = environments(GENERATOR)
    made = environment.run(
        *("openapi-python-client", "generate", "--path", "openapi.json"),
        *("--meta", "none", "--output-path", "client", "--fail-on-warning"),
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    done = environment.script(PYTHON, cwd=tmp_path, environment=app)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == PRINTED


@pytest.mark.skipif(bool(NODE_MISSING), reason=f"not installed: {', '.join(NODE_MISSING)}")
def test_a_typescript_client_compiles_and_does_the_tutorial(
    app: dict[str, str], tmp_path: Path
) -> None:
    def run(*command: str, **variables: str) -> str:
        done = subprocess.run(  # noqa: S603 - programs that this test installs
            command,
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    node, npm = (shutil.which(name) or name for name in ("node", "npm"))
    run(npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", ".", *NPM)
    programs = tmp_path / "node_modules"
    # As our page has it: a member with a default may be left out.
    generator = (str(programs / "openapi-typescript/bin/cli.js"), "--default-non-nullable=false")
    run(node, *generator, "openapi.json", "-o", "api.d.ts")
    (tmp_path / "tutorial.ts").write_text(TYPESCRIPT)
    compiler = str(programs / "typescript/bin/tsc")
    options = ("--strict", "--target", "es2022", "--module", "commonjs", "--skipLibCheck")
    run(node, compiler, *options, "--lib", "es2022,dom", "tutorial.ts")
    printed = run(node, "tutorial.js", **app)
    assert printed.splitlines() == PRINTED
