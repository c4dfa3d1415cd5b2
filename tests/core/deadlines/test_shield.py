"""A shield of anyio protects the task inside of it, up to a scope that is looked from."""

from __future__ import annotations

import asyncio

import anyio
from anyio.lowlevel import checkpoint

from postfacta_core.deadlines.shield import is_shielded, scope_of


def test_a_task_is_shielded_by_any_scope_around_it() -> None:
    async def look() -> list[bool]:
        task = asyncio.current_task()
        assert task is not None
        seen = [is_shielded(task)]
        with anyio.CancelScope(shield=True):
            seen.append(is_shielded(task))
            with anyio.CancelScope() as inner:
                seen.extend(
                    (is_shielded(task), scope_of(task) is inner, is_shielded(task, within=inner))
                )
                await checkpoint()
        return seen

    assert asyncio.run(look()) == [False, True, True, True, False]
