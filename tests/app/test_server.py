"""What `postfacta serve` passes to uvicorn."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from postfacta_app.server import (
    _config,  # pyright: ignore[reportPrivateUsage] - it is the subject
    graceful_timeout,
)
from postfacta_app.settings import load_settings
from postfacta_core.drain._course import DrainLimits


def test_uvicorn_waits_longer_than_the_drain_but_not_for_ever() -> None:
    for seconds in (0.1, 20.0, 600.0):
        settings = load_settings({}, drain_timeout=seconds)
        timeout = _config(settings, None).timeout_graceful_shutdown
        assert timeout == graceful_timeout(settings)
        assert seconds + DrainLimits().close_timeout < graceful_timeout(settings) < seconds + 30


def test_trusted_proxies_are_set_by_us_and_not_by_uvicorn() -> None:
    # By default it takes X-Forwarded-For from whoever asks from this machine.
    assert _config(load_settings({}), None).proxy_headers is False


def test_no_request_inherits_the_context_of_an_earlier_one() -> None:
    assert _config(load_settings({}), None).reset_contextvars is True


# A signal that comes while nobody can raise: Python drops what a callback of a weak reference
# raises.
_DEAF_MOMENT = """
import signal, sys, weakref
from postfacta_app.server import serve
from postfacta_app.settings import load_settings

class Gone: ...

def say(_):
    gone = Gone()
    reference = weakref.ref(gone, lambda _: signal.raise_signal(int(sys.argv[1])))
    del gone
    print("said")

sys.exit(serve(load_settings({"LOG_LEVEL": "CRITICAL"}, port=0), say=say))
"""


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_handled_once_the_address_is_printed(told: signal.Signals) -> None:
    done = subprocess.run(  # noqa: S603 - our own
        [sys.executable, "-c", _DEAF_MOMENT, str(int(told))],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "said\n"), done.stderr
