"""Show PostgreSQL as the service sees it, its pool of connections, and the server as its exporter sees it."""

from __future__ import annotations

from typing import Final

from postfacta_slo.grafana.boards import Kind, Panel, Query, Row, Step, Variable

from .overview import pool_panel
from .queries import chosen, faster_than, mean, per_second, share

__all__ = ["SERVER", "VARIABLE", "rows"]

_STATEMENTS: Final = "db_client_operation_duration_seconds"
_COUNT: Final = f"{_STATEMENTS}_count"
_WHAT: Final = "db_operation_name, db_collection_name"
_CALLED: Final = "{{db_operation_name}} {{db_collection_name}}"
_POOL: Final = "db_client_connection_pool_name"
_NAMED: Final = f"{{{{{_POOL}}}}}"
_FAILED: Final = 'error_type!=""'

SERVER: Final = 'job="$postgres"'
"""Selects what PostgreSQL's own exporter tells: it is another job, and another instance."""

VARIABLE: Final = Variable(
    name="postgres",
    label="PostgreSQL exporter",
    query="label_values(pg_up, job)",
    default="postgres",
)


def rows() -> list[Row]:
    """Return all rows."""
    return [
        Row("Statements", _statements()),
        Row("Connections of the service", _pool()),
        Row("The server itself", _server()),
        Row("Replication and space", _replication()),
    ]


def _statements() -> list[Panel]:
    asked = per_second(_COUNT)
    failed = per_second(_COUNT, _FAILED)
    reasons = "db_operation_name, db_response_status_code, error_type"
    return [
        Panel(
            title="Statements by kind",
            description="Statements a second by what they do to which table.",
            unit="ops",
            queries=[Query(per_second(_COUNT, by=_WHAT), _CALLED)],
            stacked=True,
        ),
        Panel(
            title="P95 by statement",
            description="What 95 of 100 statements of a kind stay below, from sent to answered.",
            unit="s",
            queries=[Query(faster_than(0.95, _STATEMENTS, by=_WHAT), _CALLED)],
        ),
        Panel(
            title="Time spent by statement",
            description=(
                "Seconds of work a second that each kind of statement takes in all. The largest one"
                " is worth an index first, whether slow or only frequent."
            ),
            unit="none",
            queries=[Query(per_second(f"{_STATEMENTS}_sum", by=_WHAT), _CALLED)],
            stacked=True,
        ),
        Panel(
            title="Failures by SQLSTATE",
            description=(
                "Statements a second that failed, by PostgreSQL's code; without a code they never"
                " got an answer. 57014 was cancelled for time, 40001 and 40P01 are conflicts that a"
                " repeat solves, 53300 is no connection left."
            ),
            unit="ops",
            queries=[
                Query(
                    per_second(_COUNT, _FAILED, by=reasons),
                    "{{db_operation_name}} {{db_response_status_code}} {{error_type}}",
                )
            ],
            stacked=True,
        ),
        Panel(
            title="Share of failures",
            description="Failed statements among all; 0 while none fails.",
            unit="percentunit",
            queries=[Query(share(failed, asked), "failed")],
            steps=(Step("green"), Step("red", 0.01)),
        ),
        Panel(
            title="Mean by system",
            description=(
                "What a statement takes on average. It moves with the slow ones, which P95 does not"
                " show."
            ),
            unit="s",
            queries=[Query(mean(_STATEMENTS, by="db_system_name"), "{{db_system_name}}")],
        ),
    ]


def _pool() -> list[Panel]:
    waits = "db_client_connection_wait_time_seconds"
    timeouts = "db_client_connection_timeouts_total"
    used = chosen("db_client_connection_count", 'db_client_connection_state="used"')
    most = chosen("db_client_connection_max")
    vain = per_second(timeouts)
    tries = per_second(f"{waits}_count")
    return [
        pool_panel(),
        Panel(
            title="Share of connections in use",
            description=(
                "Connections in use among all there may be. Above 0.9 for long, callers begin to"
                " wait."
            ),
            unit="percentunit",
            queries=[Query(f"sum by ({_POOL}) ({used}) / sum by ({_POOL}) ({most})", _NAMED)],
            steps=(Step("green"), Step("red", 0.9)),
            top=1,
        ),
        Panel(
            title="Wait for a connection",
            description="The 95th percentile of waits for a connection, including failed ones.",
            unit="s",
            queries=[Query(faster_than(0.95, waits, by=_POOL), _NAMED)],
        ),
        Panel(
            title="Failed waits",
            description=(
                "Waits for a connection that took too long, as a share of all. Above 1 % the pool"
                " is too small, or statements too slow."
            ),
            unit="percentunit",
            queries=[Query(share(vain, tries), "timed out")],
            steps=(Step("green"), Step("red", 0.01)),
        ),
        Panel(
            title="Time a connection is lent",
            description=(
                "What 95 of 100 loans stay below. Long ones hold a connection without a statement."
            ),
            unit="s",
            queries=[
                Query(faster_than(0.95, "db_client_connection_use_time_seconds", by=_POOL), _NAMED)
            ],
        ),
        Panel(
            title="New connections",
            description=(
                "Connections opened a second. Many of them mean a server that closes them, or a"
                " pool whose size varies."
            ),
            unit="ops",
            queries=[
                Query(
                    per_second("db_client_connection_create_time_seconds_count", by=_POOL), _NAMED
                )
            ],
        ),
    ]


def _server() -> list[Panel]:
    sessions = "pg_stat_activity_count"
    longest = "pg_stat_activity_max_tx_duration"
    return [
        Panel(
            title="PostgreSQL answers",
            description="Whether the exporter reaches the server.",
            unit="none",
            queries=[Query(f"pg_up{{{SERVER}}}", "{{instance}}")],
            kind=Kind.STATES,
            steps=(Step("red"), Step("green", 1)),
            names={0: "down", 1: "up"},
        ),
        Panel(
            title="Sessions by state",
            description=(
                "Sessions of all users, and the maximum. `idle in transaction` holds locks and"
                " keeps dead rows alive."
            ),
            unit="short",
            queries=[
                Query(f"sum by (state) ({sessions}{{{SERVER}}})", "{{state}}"),
                Query(f"max(pg_settings_max_connections{{{SERVER}}})", "most"),
            ],
        ),
        Panel(
            title="Longest transaction",
            description=(
                "The oldest transaction by state. Above two minutes, ask its owner and end it."
            ),
            unit="s",
            queries=[Query(f"max by (state) ({longest}{{{SERVER}}})", "{{state}}")],
            steps=(Step("green"), Step("red", 120)),
        ),
        Panel(
            title="Locks by mode",
            description=(
                "Locks that are held or waited for. Many exclusive ones are a migration, or a"
                " queue."
            ),
            unit="short",
            queries=[Query(f"sum by (mode) (pg_locks_count{{{SERVER}}}) > 0", "{{mode}}")],
        ),
        Panel(
            title="Transactions",
            description="Transactions a second that were committed, and that were rolled back.",
            unit="ops",
            queries=[
                Query(f"sum(rate(pg_stat_database_{name}{{{SERVER}}}[$__rate_interval]))", word)
                for name, word in (("xact_commit", "committed"), ("xact_rollback", "rolled back"))
            ],
        ),
        Panel(
            title="Deadlocks",
            description=(
                "Deadlocks a second, by database. Two statements take the same rows in another"
                " order."
            ),
            unit="ops",
            queries=[
                Query(
                    "sum by (datname)"
                    f" (rate(pg_stat_database_deadlocks{{{SERVER}}}[$__rate_interval]))",
                    "{{datname}}",
                )
            ],
            steps=(Step("green"), Step("red", 0.01)),
        ),
    ]


def _replication() -> list[Panel]:
    return [
        Panel(
            title="Replication lag",
            description=(
                "How far a standby is behind. What is not there yet is lost if the primary dies"
                " now."
            ),
            unit="s",
            queries=[Query(f"pg_replication_lag_seconds{{{SERVER}}}", "{{instance}}")],
            steps=(Step("green"), Step("red", 30)),
            width=12,
        ),
        Panel(
            title="Size of databases",
            description="Bytes on disk by database. Its slope shows when the volume will be full.",
            unit="bytes",
            queries=[
                Query(f"max by (datname) (pg_database_size_bytes{{{SERVER}}})", "{{datname}}")
            ],
            width=12,
        ),
    ]
