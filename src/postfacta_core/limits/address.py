"""Decide which client a request comes from, when proxies stand in between.

Each hop adds the address it saw at the right end of the field, so it is read from the right: the
first address there that is no trusted proxy is the client. What cannot be read ends the walk at the
last trusted hop. An IPv4 address mapped into IPv6 is the IPv4 address. An IPv6 client is its /64,
the smallest network that is assigned (RFC 6177).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from ..validation import validation

_UNIX: Final = "unix"
# A longer chain is a client that writes the field, not an architecture.
_MOST_HOPS: Final = 16
# The longest textual form is 45 characters; a port, brackets and a zone fit as well.
_MOST_CHARACTERS: Final = 80
_MOST_KNOWN: Final = 4096  # Addresses that are classified once, of those last seen.

# A port after an IPv4 address, or brackets around an IPv6 one.
_with_port = re.compile(
    r"([0-9.]+):[0-9]{1,5}|\[([0-9A-Fa-f:.%A-Za-z]+)\](?::[0-9]{1,5})?"
).fullmatch


class _Address(NamedTuple):
    """What an address is: a trusted proxy or not, and the client it stands for if it is none."""

    is_trusted: bool
    client: str


class TrustedProxies:
    """The proxies that are trusted to name the client of a request, in `X-Forwarded-For`.

    Args:
        networks: Addresses and networks, such as `10.0.0.0/8`. `unix` stands for a peer without an
            address: a proxy on a Unix socket.

    Raises:
        ValueError: If one is no network.
    """

    __slots__ = ("_networks", "has_unix", "is_empty", "look_up")

    def __init__(self, networks: Sequence[str] = ()) -> None:
        validation.texts("TrustedProxies.networks", networks, example='["10.0.0.0/8"]')
        self.has_unix: bool = _UNIX in networks
        self.is_empty: bool = not networks
        self._networks = [_network(text) for text in networks if text != _UNIX]
        self.look_up: Callable[[str], _Address | None] = lru_cache(_MOST_KNOWN)(self._classify)

    def includes(self, peer: str | None) -> bool:
        """Return whether the other end of a connection is one of them.

        None or empty is a peer on a Unix socket.
        """
        address = self.look_up(peer) if peer else None
        return address.is_trusted if address else self.has_unix and not peer

    def _classify(self, text: str) -> _Address | None:
        if (match := _with_port(text)) is not None:
            text = match[1] or match[2]
        try:
            address = ip_address(text)
        except ValueError:
            return None
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        is_trusted = any(address in network for network in self._networks)
        if isinstance(address, IPv4Address):
            return _Address(is_trusted, str(address))
        # Without the zone: it is chosen by the client, and names an interface of its own machine.
        return _Address(is_trusted, str(IPv6Network((int(address) >> 64 << 64, 64))))


NO_PROXIES: Final = TrustedProxies()
"""Clients come directly."""


def client_address(
    peer: str | None, headers: Iterable[tuple[bytes, bytes]], trusted: TrustedProxies = NO_PROXIES
) -> str:
    """Name the client of a request: an IPv4 address, an IPv6 /64, or empty if it is not known.

    Args:
        peer: The connection's other end; None or empty on a Unix socket. What is no address stands
            for itself.
        headers: The request's, with names in lower case.
        trusted: Whose word counts.
    """
    if trusted.is_empty and peer and ":" not in peer:
        return peer[:_MOST_CHARACTERS]
    hop = trusted.look_up(peer) if peer else _Address(trusted.has_unix, "")
    if hop is None:
        return str(peer)[:_MOST_CHARACTERS]
    if not hop.is_trusted:
        return hop.client
    client = hop.client
    field = b",".join([value for name, value in headers if name == b"x-forwarded-for" and value])
    for element in reversed(field.rsplit(b",", _MOST_HOPS)[-_MOST_HOPS:]):
        text = element.decode("latin-1").strip()
        hop = trusted.look_up(text) if len(text) <= _MOST_CHARACTERS else None
        if hop is None:
            break
        client = hop.client
        if not hop.is_trusted:
            break
    return client


@lru_cache(_MOST_KNOWN)
def site_of(client: str) -> str | None:
    """Return the /48 of a client's IPv6 network, which often is one site with 65,536 of them.

    None for others.
    """
    with suppress(ValueError):
        return str(IPv6Network(client).supernet(new_prefix=48))
    return None


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        example = f"'10.0.0.0/8' or '2001:db8::/32'; {error}"
        validation.refuse(
            "TrustedProxies.networks", text, "networks, addresses or 'unix'", example=example
        )
