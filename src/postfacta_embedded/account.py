"""Chooses the user that PostgreSQL runs as, because it refuses to run as root.

* direct    -- an ordinary user runs it under the same account.
* namespace -- root runs it in a user namespace in which it is called ``nobody``: no capability is
  left, the files stay root's, and ``unshare`` execs, so that PostgreSQL is our direct child.
* setuid    -- where the kernel forbids namespaces, the child becomes ``nobody`` before it execs.

``nobody`` and not a bare number, since initdb looks its user up.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO

from .diagnosis import last_lines
from .errors import EmbeddedPostgresError

_PROBE_TIMEOUT = 10.0  # `id` takes milliseconds; a system that needs more is stuck
_FAILURE = "PostgreSQL cannot be run"


class Means(StrEnum):
    """How a child comes to run as a user that is not root."""

    DIRECT = "direct"
    NAMESPACE = "namespace"
    SETUID = "setuid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The account that a child runs as.

    Args:
        means: How it comes to be that user.
        uid: The owner that its files have on disk.
        gid: The group that its files have on disk.
        prefix: What stands before the command.
    """

    means: Means
    uid: int
    gid: int
    prefix: tuple[str, ...] = field(default=())

    def start(
        self,
        command: Sequence[str | Path],
        *,
        output: IO[bytes] | int,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command as a direct child.

        No terminal, no inherited environment, no inherited files.

        It gets a session of its own, so that a Ctrl-C in the terminal reaches the owner alone and
        the database outlives the drain of the service.
        """
        becomes = self.means is Means.SETUID
        return subprocess.Popen(  # noqa: S603 -- an argument list, no shell
            [*self.prefix, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", **(env or {})},
            cwd="/",  # the caller's folder may be one that the child cannot enter
            start_new_session=True,
            user=self.uid if becomes else None,
            group=self.gid if becomes else None,
            extra_groups=[] if becomes else None,
        )

    def run(
        self, command: Sequence[str | Path], *, timeout: float, env: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Run a command to its end.

        Returns:
            The exit code and everything it wrote.

        Raises:
            OSError: It cannot be executed.
            subprocess.TimeoutExpired: It took longer than ``timeout`` seconds, and was killed.
        """
        with self.start(command, output=subprocess.PIPE, env=env) as child:
            try:
                output, _ = child.communicate(timeout=timeout)
            except BaseException:
                child.kill()
                raise
        return child.returncode, output.decode("utf-8", "replace")

    def first_closed(self, folder: Path) -> Path | None:
        """Find the first folder from the root to this one that the account cannot enter."""
        places = [*reversed(folder.parents), folder]
        script = 'for place; do test -x "$place" || { printf %s "$place"; exit 9; }; done'
        code, closed = self.run(["/bin/sh", "-c", script, "sh", *places], timeout=_PROBE_TIMEOUT)
        return Path(closed) if code else None

    def require_entry(self, folder: Path) -> None:
        """Make sure that the account can enter a folder.

        Raises:
            EmbeddedPostgresError: It cannot; the folder that refuses is named.
        """
        closed = self.first_closed(folder)
        if closed is not None:
            raise EmbeddedPostgresError(
                _FAILURE,
                f"as {self.describe()} it cannot enter {closed} on the way to {folder}",
                "run this as an ordinary user, or use a folder that every user may enter, such as"
                " one in /srv",
            )

    def take_over(self, folder: Path) -> None:
        """Make a data folder of ours belong to the account, if root ran it otherwise before.

        Raises:
            EmbeddedPostgresError: It belongs to another user.
        """
        owner = folder.stat().st_uid
        if owner == self.uid:
            return
        if os.geteuid() != 0 or owner not in {0, _nobody().pw_uid}:
            raise EmbeddedPostgresError(
                "the database folder cannot be used",
                f"{folder} belongs to user {_name_of(owner)}, and PostgreSQL would run as"
                f" {self.describe()}",
                f"run this as {_name_of(owner)}, or choose another folder",
            )
        # The folder itself comes last: if this is interrupted, the next start begins it again.
        for place, folders, files in os.walk(folder, topdown=False):
            for name in (*folders, *files):
                os.chown(Path(place, name), self.uid, self.gid, follow_symlinks=False)
        os.chown(folder, self.uid, self.gid)

    def describe(self) -> str:
        """Name the user, and the means if it is not plain."""
        return (
            _name_of(self.uid)
            if self.means is not Means.NAMESPACE
            else "root without any of root's powers"
        )


def direct() -> Account:
    """Run children as the user that we are.

    Raises:
        EmbeddedPostgresError: The user is not in the system's list of users; initdb refuses that.
    """
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise EmbeddedPostgresError(
            _FAILURE,
            f"uid {os.geteuid()} has no name on this system, and initdb needs one",
            "run this as a user that /etc/passwd lists",
        ) from None
    return Account(means=Means.DIRECT, uid=os.geteuid(), gid=os.getegid())


def namespace() -> Account:
    """Run children in a user namespace in which it is called ``nobody``.

    Raises:
        EmbeddedPostgresError: This system does not offer it.
    """
    nobody = _nobody()
    unshare = shutil.which("unshare")
    if unshare is None:
        raise EmbeddedPostgresError(
            _FAILURE, "there is no program called unshare", "install util-linux"
        )
    mapping = (f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}")
    prefix = (unshare, "--user", *mapping, "--")
    account = Account(means=Means.NAMESPACE, uid=os.geteuid(), gid=os.getegid(), prefix=prefix)
    return _proven(account, nobody.pw_uid)


def setuid() -> Account:
    """Run children as ``nobody``, which only root can.

    Raises:
        EmbeddedPostgresError: We are not root, or the system does not let root change its user.
    """
    nobody = _nobody()
    account = Account(means=Means.SETUID, uid=nobody.pw_uid, gid=nobody.pw_gid)
    return _proven(account, nobody.pw_uid)


def choose_account() -> Account:
    """Take the first means that works here: as ourselves, in a namespace, by setuid.

    Raises:
        EmbeddedPostgresError: None works; each reason is given.
    """
    means = (namespace, setuid) if os.geteuid() == 0 else (direct, namespace)
    return _first_of(means)


def _first_of(means: Sequence[Callable[[], Account]]) -> Account:
    refusals: list[str] = []
    for attempt in means:
        try:
            return attempt()
        except EmbeddedPostgresError as error:
            refusals.append(f"\n  {attempt.__name__}: {error.why}")
    raise EmbeddedPostgresError(
        _FAILURE,
        "it refuses to run as root, and no other user is to be had" + "".join(refusals),
        "run this as an ordinary user that /etc/passwd lists",
    )


def _proven(account: Account, expected: int) -> Account:
    try:
        code, output = account.run(["id", "-u"], timeout=_PROBE_TIMEOUT)
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedPostgresError(_FAILURE, str(error), "run this as an ordinary user") from error
    if code or output.strip() != str(expected):
        raise EmbeddedPostgresError(
            _FAILURE, f"the system said\n{last_lines(output)}", "run this as an ordinary user"
        )
    return account


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedPostgresError(
            _FAILURE, "this system has no user called nobody", "run this as an ordinary user"
        ) from None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
