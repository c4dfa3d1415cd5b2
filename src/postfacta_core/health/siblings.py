"""Let the workers of one service answer for each other, so that a query to one reaches them all.

Each worker holds the lowest number that is free, by a lock which the kernel takes back when the
process ends, however it ends. It answers on a Unix socket beside the lock: one that refuses is of
the dead.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final, Self

import anyio
from anyio.abc import ByteStream

from ..events import Observer, TaskCrashed, fan_out, ignore

_MOST: Final = 1024  # Workers on one machine; it bounds a folder that others can fill.
_LONGEST_PATH: Final = 107  # A Unix socket's, by sockaddr_un, in bytes.
_WHOLE: Final = 10.0  # Seconds for one whole exchange, on the side that answers.
_PATIENCE: Final = 2.0  # Seconds that one waits for the others' answers.
_OTHERS_MAY_WRITE: Final = 0o022


class Siblings:
    """The workers of one service that share a folder.

    An async context manager, for the service's lifespan, that must be entered in the worker and not
    before the fork.

    Args:
        folder: Theirs alone, on a local disk; it is made if it is not there.
        answer: Called for each question of another, in a task of its own.
        observer: Receives each answer that raised. It may raise.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        answer: Callable[[bytes], Awaitable[bytes]],
        *,
        observer: Observer = ignore,
    ) -> None:
        self._folder = Path(folder).absolute()
        if len(os.fsencode(self._socket(_MOST))) > _LONGEST_PATH:
            advice = f"name a folder with a shorter one than {self._folder}"
            raise ValueError(f"the path is too long for a Unix socket: {advice}")
        self._answer = answer
        self._observe = fan_out([observer])
        self._number: int | None = None
        self._stack = AsyncExitStack()

    @property
    def number(self) -> int:
        """Which worker this is, from 0; RuntimeError if it is not entered."""
        if self._number is None:
            raise RuntimeError(
                "a worker has a number only while its lifespan runs: does the server run it?"
            )
        return self._number

    async def ask(self, question: bytes) -> tuple[list[bytes], int]:
        """Query all others concurrently.

        Return what came in time, and how many live and did not answer.
        """
        answers: dict[int, bytes] = {}

        async def hear(number: int) -> None:
            # Until it answers; one whose answer raised, or that ended during the query, sends
            # nothing.
            answers[number] = b""
            try:
                with (
                    anyio.move_on_after(_PATIENCE),
                    suppress(anyio.BrokenResourceError, ConnectionResetError),
                ):
                    async with await anyio.connect_unix(self._socket(number)) as stream:
                        await stream.send(question)
                        await stream.send_eof()
                        answers[number] = b"".join([part async for part in stream])
            except (ConnectionRefusedError, FileNotFoundError):
                del answers[number]

        names = (path.stem.removeprefix("worker-") for path in self._folder.glob("worker-*.sock"))
        numbers = {int(name) for name in names if name.isdecimal() and int(name) < _MOST}
        async with anyio.create_task_group() as tasks:
            for number in numbers - {self.number}:
                tasks.start_soon(hear, number)
        replies = [answers[number] for number in sorted(answers)]
        return [reply for reply in replies if reply], replies.count(b"")

    async def __aenter__(self) -> Self:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        about = self._folder.stat()
        if about.st_uid != os.geteuid() or about.st_mode & _OTHERS_MAY_WRITE:
            raise PermissionError(
                f"others may write to {self._folder}, or it is another user's: name a folder in it"
                " that is not there yet, which is then made"
            )
        async with AsyncExitStack() as stack:
            self._number = self._claim(stack)
            path = Path(self._socket(self._number))
            listener = await stack.enter_async_context(
                await anyio.create_unix_listener(path, mode=0o600)
            )
            stack.callback(path.unlink, missing_ok=True)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            tasks.start_soon(listener.serve, self._serve, name="siblings")
            stack.callback(tasks.cancel_scope.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        # What ended the block is not for the task group to wrap.
        await self._stack.aclose()
        self._number = None

    def _claim(self, stack: AsyncExitStack) -> int:
        for number in range(_MOST):
            lock = os.open(self._folder / f"worker-{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            stack.callback(os.close, lock)
            # Of the one that had the number before, if it was killed.
            Path(self._socket(number)).unlink(missing_ok=True)
            return number
        full = f"{_MOST} workers have their numbers in {self._folder}"
        raise RuntimeError(f"{full}: is it shared by several services?")

    async def _serve(self, stream: ByteStream) -> None:
        try:
            with (
                anyio.move_on_after(_WHOLE),
                suppress(anyio.BrokenResourceError, anyio.EndOfStream),
            ):
                async with stream:
                    question = b"".join([part async for part in stream])
                    await stream.send(await self._answer(question))
        except Exception as error:  # noqa: BLE001 - one question must not end the worker
            self._observe(TaskCrashed("siblings", error))

    def _socket(self, number: int) -> str:
        return str(self._folder / f"worker-{number}.sock")
