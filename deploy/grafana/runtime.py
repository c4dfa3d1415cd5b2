"""Show the process: memory, CPU, files, the event loop, the collector, crashes, and whether telemetry loses anything."""

from __future__ import annotations

from typing import Final

from postfacta_slo.grafana.boards import Kind, Panel, Query, Row, Step

from .queries import LAG, chosen, faster_than, per_second

__all__ = ["rows"]

_WINDOW: Final = "$__rate_interval"
_BY_INSTANCE: Final = "{{instance}}"
_ANY_IS_RED: Final = (Step("green"), Step("red", 0.001))


def rows() -> list[Row]:
    """Return all rows."""
    return [
        Row("Memory, CPU, files", _resources()),
        Row("Event loop and collector", _loop()),
        Row("Crashes and lost telemetry", _losses()),
    ]


def _resources() -> list[Panel]:
    memory = chosen("process_resident_memory_bytes")
    cpu = f"rate({chosen('process_cpu_seconds_total')}[{_WINDOW}])"
    files = f"{chosen('process_open_fds')} / {chosen('process_max_fds')}"
    return [
        Panel(
            title="Memory",
            description=(
                "Resident bytes, and the container's limit if it has one. At the limit the kernel"
                " kills it."
            ),
            unit="bytes",
            queries=[
                Query(memory, _BY_INSTANCE),
                Query(chosen("postfacta_memory_limit_bytes"), "limit of {{instance}}"),
            ],
        ),
        Panel(
            title="CPU",
            description=(
                "Cores in use, and the container's limit if it has one. One event loop uses one"
                " core at most: near 1, add instances."
            ),
            unit="none",
            queries=[
                Query(cpu, _BY_INSTANCE),
                Query(chosen("postfacta_cpu_limit_cores"), "limit of {{instance}}"),
            ],
        ),
        Panel(
            title="Open files",
            description=(
                "Open files and sockets among those allowed. Above 0.8 look for slow clients and"
                " leaks."
            ),
            unit="percentunit",
            queries=[Query(files, _BY_INSTANCE)],
            steps=(Step("green"), Step("red", 0.8)),
            top=1,
        ),
        Panel(
            title="Share of memory in use",
            description=(
                "Resident bytes among those allowed. Above 0.9 it is killed soon; empty without a"
                " limit."
            ),
            unit="percentunit",
            queries=[Query(f"{memory} / {chosen('postfacta_memory_limit_bytes')}", _BY_INSTANCE)],
            steps=(Step("green"), Step("red", 0.9)),
            top=1,
        ),
        Panel(
            title="Virtual memory",
            description=(
                "Addresses in use. It may grow for long without harm; its slope shows mapped files."
            ),
            unit="bytes",
            queries=[Query(chosen("process_virtual_memory_bytes"), _BY_INSTANCE)],
        ),
        Panel(
            title="Starts",
            description=(
                "How often each instance started in the time shown. More than three in 15 minutes:"
                " a crash loop."
            ),
            unit="short",
            queries=[
                Query(f"changes({chosen('process_start_time_seconds')}[$__range])", _BY_INSTANCE),
            ],
            kind=Kind.NUMBERS,
            steps=(Step("green"), Step("red", 3)),
        ),
    ]


def _loop() -> list[Panel]:
    buckets = f"sum by (le) (increase({chosen(f'{LAG}_bucket')}[{_WINDOW}]))"
    collected = "python_gc_objects_collected_total"
    return [
        Panel(
            title="Event loop lag",
            description=(
                "How late the event loop ran, by how often. A second band far up is a call that"
                " blocks it."
            ),
            unit="s",
            queries=[Query(buckets, "{{le}}")],
            kind=Kind.HEAT,
        ),
        Panel(
            title="P99 of the lag",
            description="What 99 of 100 looks at the loop stay below. Above 0.25 s, profile it.",
            unit="s",
            queries=[Query(faster_than(0.99, LAG, by="instance"), _BY_INSTANCE)],
            steps=(Step("green"), Step("red", 0.25)),
        ),
        Panel(
            title="Tasks",
            description="Tasks of the event loop. A number that only grows is a leak.",
            unit="short",
            queries=[Query(chosen("postfacta_asyncio_tasks"), _BY_INSTANCE)],
        ),
        Panel(
            title="Collections",
            description=(
                "Runs of the garbage collector a second, by generation. Many of the oldest stop the"
                " loop for long."
            ),
            unit="ops",
            queries=[
                Query(
                    per_second("python_gc_collections_total", by="generation"),
                    "generation {{generation}}",
                )
            ],
        ),
        Panel(
            title="Objects collected",
            description=(
                "Objects a second that only the collector could free. A request should leave none"
                " behind."
            ),
            unit="ops",
            queries=[Query(per_second(collected, by="generation"), "generation {{generation}}")],
        ),
        Panel(
            title="Objects that cannot be freed",
            description="Objects a second that even the collector could not free.",
            unit="ops",
            queries=[
                Query(
                    per_second("python_gc_objects_uncollectable_total", by="generation"),
                    "generation {{generation}}",
                )
            ],
            steps=_ANY_IS_RED,
        ),
    ]


def _losses() -> list[Panel]:
    return [
        Panel(
            title="Crashes of handlers",
            description=(
                "Exceptions a second that no handler caught, by class. Each has a log line and a"
                " trace."
            ),
            unit="ops",
            queries=[
                Query(
                    per_second("postfacta_unhandled_exceptions_total", by="error_type"),
                    "{{error_type}}",
                )
            ],
            steps=_ANY_IS_RED,
            width=6,
        ),
        Panel(
            title="Crashes of background tasks",
            description="Background tasks that raised and were started again, a second.",
            unit="ops",
            queries=[Query(per_second("postfacta_task_crashes_total", by="task"), "{{task}}")],
            steps=_ANY_IS_RED,
            width=6,
        ),
        Panel(
            title="Lost traces and log lines",
            description=(
                "Spans that were dropped and log records that were left out, a second: the"
                " collector is away or slow, or one event comes too often."
            ),
            unit="ops",
            queries=[
                Query(
                    per_second("postfacta_telemetry_spans_dropped_total", by="reason"),
                    "spans: {{reason}}",
                ),
                Query(
                    per_second("postfacta_log_records_suppressed_total", by="event"),
                    "records: {{event}}",
                ),
            ],
            steps=_ANY_IS_RED,
            width=6,
        ),
        Panel(
            title="Labels replaced",
            description=(
                "Observations a second whose labels became `_OTHER`: a metric has too many sets of"
                " them."
            ),
            unit="ops",
            queries=[
                Query(
                    per_second("postfacta_metrics_label_overflow_total", by="metric"), "{{metric}}"
                )
            ],
            steps=_ANY_IS_RED,
            width=6,
        ),
    ]
