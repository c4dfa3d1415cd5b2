"""Decide which client a request comes from, when proxies stand in between.

1. Only what a trusted proxy wrote is believed. Each hop adds the address it saw at the right end of the field, so
   it is read from the right: the first address there that is no trusted proxy is the client.
2. What cannot be read ends the walk at the last trusted hop: further left stands what any client may have sent.
3. An IPv4 address mapped into IPv6 is the IPv4 address. An IPv6 client is its /64, the smallest network that is
   assigned (RFC 6177): a client with one address there has 2^64 of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from ..validation import validation

_UNIX: Final = "unix"
_FIELDS: Final = ("x-forwarded-for", "forwarded")
# A longer chain is a client that writes the field, not an architecture.
_MOST_HOPS: Final = 16
# The longest textual form is 45 characters; a port, brackets and a zone fit as well.
_MOST_CHARACTERS: Final = 80
_MOST_KNOWN: Final = 4096
_SITE_BITS: Final = 48

# RFC 7239, section 4: `for=192.0.2.1`, `for="[2001:db8::1]:4711"`, `for=unknown`, `for=_hidden`.
_for_of = re.compile(r'(?:^|;)\s*for=\s*(?:"([^"\\]*)"|([^;"\s]+))\s*(?:;|$)', re.IGNORECASE).search
# A port after an IPv4 address, or brackets around an IPv6 one.
_with_port = re.compile(r"([0-9.]+):[0-9]{1,5}|\[([0-9A-Fa-f:.%A-Za-z]+)\](?::[0-9]{1,5})?").fullmatch


class _Known(NamedTuple):
    """What an address is: whether it is a trusted proxy, and the client it stands for if it is none."""

    is_trusted: bool
    client: str


class TrustedProxies:
    """The proxies that are trusted to name the client of a request.

    Args:
        networks: Addresses and networks, such as `10.0.0.0/8`. `unix` stands for a peer without an address: a
            proxy on a Unix socket.
        field: What they write: `x-forwarded-for` or `forwarded`. The other one is not looked at: a proxy that
            writes one of them passes on what a client put into the other.

    Raises:
        ValueError: If one is no network, or the field is another.
    """

    __slots__ = ("_classified", "_networks", "field", "has_unix", "is_empty")

    def __init__(self, networks: Sequence[str] = (), *, field: str = _FIELDS[0]) -> None:
        validation.texts("TrustedProxies.networks", networks, example='["10.0.0.0/8"]')
        field = validation.text("TrustedProxies.field", field, example=repr(_FIELDS[0])).lower()
        validation.one_of("TrustedProxies.field", field, _FIELDS)
        self.field: bytes = field.encode("ascii")
        self.has_unix: bool = _UNIX in networks
        self.is_empty: bool = not networks
        self._networks = [_network(text) for text in networks if text != _UNIX]
        self._classified = lru_cache(_MOST_KNOWN)(self._classify)

    def look_up(self, text: str) -> _Known | None:
        """Classify an address; None if the text is no address. The results of up to 4,096 texts are cached."""
        return self._classified(text)

    def _classify(self, text: str) -> _Known | None:
        address = _parse(text)
        if address is None:
            return None
        is_trusted = any(address in network for network in self._networks)
        if isinstance(address, IPv4Address):
            return _Known(is_trusted, str(address))
        # Without the zone: it is chosen by the client, and names an interface of its own machine.
        network = IPv6Network((int(address) >> 64 << 64, 64))
        return _Known(is_trusted, str(network))


NO_PROXIES: Final = TrustedProxies()
"""Clients come directly."""


def client_address(
    peer: str | None, headers: Iterable[tuple[bytes, bytes]], trusted: TrustedProxies = NO_PROXIES
) -> str:
    """Name the client of a request: an IPv4 address, an IPv6 /64, or empty if it is not known.

    A peer that is no address, such as the name a test client gives itself, stands for itself.

    Args:
        peer: The address of the connection's other end, as the server says; None or empty on a Unix socket.
        headers: The request's, with names in lower case.
        trusted: Whose word counts.
    """
    if trusted.is_empty and peer and ":" not in peer:
        return peer
    if not peer:
        return _walk("", headers, trusted) if trusted.has_unix else ""
    known = trusted.look_up(peer)
    if known is None:
        return peer[:_MOST_CHARACTERS]
    return _walk(known.client, headers, trusted) if known.is_trusted else known.client


@lru_cache(_MOST_KNOWN)
def site_of(client: str) -> str | None:
    """Return the /48 of a client's IPv6 network, which often is one site with 65,536 of them; None for others."""
    try:
        network = ip_network(client) if "/" in client else None
    except ValueError:
        return None
    return str(network.supernet(new_prefix=_SITE_BITS)) if isinstance(network, IPv6Network) else None


def _walk(nearest: str, headers: Iterable[tuple[bytes, bytes]], trusted: TrustedProxies) -> str:
    client = nearest
    for hop, text in enumerate(_from_the_right(headers, trusted.field)):
        known = trusted.look_up(text) if hop < _MOST_HOPS and len(text) <= _MOST_CHARACTERS else None
        if known is None:
            break
        client = known.client
        if not known.is_trusted:
            break
    return client


def _from_the_right(headers: Iterable[tuple[bytes, bytes]], field: bytes) -> Iterator[str]:
    """Yield what each hop wrote, the nearest first; lazily, from right to left."""
    lines = [value for name, value in headers if name == field]
    for line in reversed(lines):
        rest = line
        while rest:
            rest, _, element = rest.rpartition(b",")
            text = element.decode("latin-1").strip()
            yield text if field == b"x-forwarded-for" else _for(text)


def _for(element: str) -> str:
    found = _for_of(element)
    return (found[1] or found[2] or "") if found else ""


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    if (found := _with_port(text)) is not None:
        text = found[1] or found[2]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address if isinstance(address, IPv4Address) else address.ipv4_mapped or address


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        msg = (
            f"TrustedProxies.networks must be networks, addresses or 'unix', not {text!r}; "
            f"for example '10.0.0.0/8' or '2001:db8::/32'; {error}"
        )
        raise ValueError(msg) from error
