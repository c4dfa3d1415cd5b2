"""Ports for the servers of tests, several of which may start at the same time in different workers."""

from __future__ import annotations

import random
import socket

__all__ = ["free_port"]


def free_port() -> int:
    """Return a port of the loopback where nothing listens, below those that the kernel gives to outgoing connections.

    It is drawn at random: workers that counted would draw the same ones before their servers
    listen.
    """
    for port in random.SystemRandom().sample(range(12_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
