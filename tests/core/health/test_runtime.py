"""What the process may use is what the kernel says, however its cgroups are laid out."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from postfacta_core.health.runtime import cpu_limit, memory_limit, tally

MIB = 1 << 20


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {"proc/self/cgroup": "0::/pods/billing\n"}
CGROUP = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({**V2, f"{CGROUP}/pods/billing/memory.max": f"{64 * MIB}\n"}, 64 * MIB),
        # The group above holds all that are in it.
        (
            {
                **V2,
                f"{CGROUP}/pods/billing/memory.max": "max\n",
                f"{CGROUP}/pods/memory.max": f"{32 * MIB}\n",
            },
            32 * MIB,
        ),
        # In a container, the machine's path is not there: the container's own group is the top.
        ({**V2, f"{CGROUP}/memory.max": f"{8 * MIB}\n"}, 8 * MIB),
        ({**V2, f"{CGROUP}/pods/billing/memory.max": "max\n"}, None),
        ({}, None),
    ],
)
def test_the_least_limit_of_memory_counts_and_else_the_machines(
    tmp_path: Path, files: dict[str, str], limit: int | None
) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_limit(lay_out(tmp_path, files)) == (machine if limit is None else limit)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({**V2, f"{CGROUP}/pods/billing/cpu.max": "50000 100000\n"}, 0.5),
        (
            {
                **V2,
                f"{CGROUP}/pods/billing/cpu.max": "50000 100000\n",
                f"{CGROUP}/pods/cpu.max": "25000 100000\n",
            },
            0.25,
        ),
        ({**V2, f"{CGROUP}/pods/billing/cpu.max": "max 100000\n"}, None),
        ({**V2, f"{CGROUP}/pods/billing/cpu.max": "nonsense\n"}, None),
        ({}, None),
    ],
)
def test_the_least_share_of_processors_counts_and_else_those_there_are(
    tmp_path: Path, files: dict[str, str], limit: float | None
) -> None:
    bound_to = float(len(os.sched_getaffinity(0)))
    assert cpu_limit(lay_out(tmp_path, files)) == (bound_to if limit is None else limit)


def test_where_processes_are_not_bound_to_processors_all_of_them_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cpu_limit(tmp_path) == os.cpu_count()


def read(*given: Any) -> dict[str, float]:
    return {sample.metric: sample.value for sample in tally(*given)}


async def test_tasks_are_counted_in_another_thread(anyio_backend_name: str) -> None:
    loop: asyncio.AbstractEventLoop | None = None

    def tasks() -> float | None:
        return read(loop).get("postfacta_asyncio_tasks")

    before = after = tasks()
    assert before is None
    if anyio_backend_name == "asyncio":
        loop = asyncio.get_running_loop()
    async with anyio.create_task_group() as group:
        before = await anyio.to_thread.run_sync(tasks)
        for _ in range(20):
            group.start_soon(anyio.sleep_forever)
        await anyio.wait_all_tasks_blocked()
        after = await anyio.to_thread.run_sync(tasks)
        group.cancel_scope.cancel()
    if anyio_backend_name == "asyncio":
        assert (after or 0) - (before or 0) == 20
    else:
        assert before is after is None


def test_this_process_has_some_memory_and_some_processors() -> None:
    assert 0 < memory_limit() <= sys.maxsize
    assert 0 < cpu_limit() <= 4096


def test_both_limits_are_known_as_they_are(tmp_path: Path) -> None:
    root = lay_out(tmp_path, {**V2, f"{CGROUP}/pods/billing/memory.max": f"{64 * MIB}\n"})
    assert read(None, root) == {
        "postfacta_memory_limit_bytes": 64 * MIB,
        "postfacta_cpu_limit_cores": cpu_limit(root),
    }
