"""Hold resources open around a block, each in a task of its own that has its time to close."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncContextDecorator, asynccontextmanager

import anyio

from ..events import Observer, ResourceStuck, TaskCrashed, fan_out, ignore

Resource = AbstractAsyncContextManager[object]

# For what a cancelled exit still does in its `finally`.
_LAST_WORDS = 0.5


@asynccontextmanager
async def hold(
    resources: Sequence[Resource],
    *,
    share: Callable[[int], float | None] = lambda left: None,
    lost: Callable[[], object] | None = None,
    observer: Observer = ignore,
) -> AsyncGenerator[None]:
    """Enter resources in order, and leave them in reverse order at the end of the block.

    One that raises while it is entered stops the rest, and what is open is closed. One that raises
    in the middle of the block cancels it, or calls `lost`, and the block goes on. Either error is
    raised here as it is; of several, the first, and the block's own before all.

    Args:
        resources: What to hold. To be held again, each must be one that can be entered again; what
            `asynccontextmanager` makes is.
        share: Given how many are still to close, returns the seconds for the next; None for any
            number.
        lost: Called when a resource raises in the middle of the block.
        observer: Receives each one that did not close in time or raised while open. It may raise.
    """
    observe = fan_out([observer])
    holders: list[_Holder] = []
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as block:
            try:
                for resource in resources:
                    holder = _Holder(resource, lost or block.cancel, observe)
                    holders.append(holder)
                    tasks.start_soon(holder.run, name=f"hold {holder.name}")
                    await holder.opened.wait()
                    if holder.error is not None:
                        break
                else:
                    yield
            except Exception as error:  # noqa: BLE001 - it is raised below: the group would wrap it in another
                failure = error
            finally:
                with anyio.CancelScope(shield=True):
                    for left in range(len(holders), 0, -1):
                        await holders[left - 1].close(share(left))
    for failed in (failure, *(holder.error for holder in holders)):
        if failed is not None:
            raise failed


class _Holder:
    def __init__(self, resource: Resource, lost: Callable[[], object], observe: Observer) -> None:
        # What `asynccontextmanager` makes is named after its function.
        made_by = getattr(resource, "gen", resource)
        self.name: str = getattr(made_by, "__name__", type(resource).__name__)
        # It is left when its turn comes, also if all around it is cancelled.
        self._scope = anyio.CancelScope(shield=True)
        self.opened = anyio.Event()
        self._leaving = anyio.Event()
        self._closed = anyio.Event()
        self.error: Exception | None = None
        self._resource = resource
        self._lost = lost
        self._observe = observe

    async def _inside(self) -> None:
        self.opened.set()
        await self._leaving.wait()

    async def run(self) -> None:
        try:
            with self._scope:
                if isinstance(self._resource, AsyncContextDecorator):
                    # As a decorator it is made anew for each call: what `asynccontextmanager` made
                    # can be entered once.
                    await self._resource(self._inside)()
                else:
                    async with self._resource:
                        await self._inside()
        except Exception as error:  # noqa: BLE001 - whatever it is, `hold` raises it
            self.error = error
            if self.opened.is_set() and not self._leaving.is_set():
                self._observe(TaskCrashed(self.name, error))
                self._lost()
        finally:
            self.opened.set()
            self._closed.set()

    async def close(self, seconds: float | None) -> None:
        started = anyio.current_time()
        self._leaving.set()
        if not self.opened.is_set():
            # The waiting task was cancelled.
            self._scope.cancel()
        with anyio.move_on_after(seconds):
            await self._closed.wait()
            return
        self._scope.cancel()
        self._observe(ResourceStuck(self.name, anyio.current_time() - started))
        with anyio.move_on_after(_LAST_WORDS):
            await self._closed.wait()
