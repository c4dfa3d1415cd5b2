"""A client is the one that a trusted proxy names, and no other name counts."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from postfacta_core.limits.address import NO_PROXIES, TrustedProxies, client_address, site_of
from tests.kit.every import every

PROXY = "10.0.0.1"
TRUSTED = TrustedProxies(["10.0.0.0/8", "2001:db8:f::/48"])


def forwarded(*lines: str, name: str = "x-forwarded-for") -> list[tuple[bytes, bytes]]:
    return [(b"host", b"example.org"), *((name.encode(), line.encode("latin-1")) for line in lines)]


def test_without_a_proxy_the_peer_is_the_client() -> None:
    cases: list[tuple[str | None, str]] = [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:0DB8:0001:0002:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
        ("not:an:address", "not:an:address"),
        ("", ""),
        (None, ""),
    ]
    trusteds: list[TrustedProxies] = [NO_PROXIES, TRUSTED]
    with every() as case:
        for peer, client in cases:
            for trusted in trusteds:
                with case(peer, client, trusted):
                    assert client_address(peer, forwarded("203.0.113.9"), trusted) == client
                    assert client_address(peer, forwarded("203.0.113.9"), trusted) == client


def test_a_trusted_proxy_tells_the_client() -> None:
    cases: list[tuple[list[str], str]] = [
        ([], PROXY),
        (["192.0.2.7"], "192.0.2.7"),
        ([" 192.0.2.7 "], "192.0.2.7"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["[2001:db8::1]:4711"], "2001:db8::/64"),
        (["[2001:db8::1]"], "2001:db8::/64"),
        (["2001:db8::1"], "2001:db8::/64"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        # The first from the right that is no proxy, whatever stands further left.
        (["203.0.113.9, 192.0.2.7"], "192.0.2.7"),
        (["203.0.113.9, 192.0.2.7, 10.0.0.9"], "192.0.2.7"),
        (["203.0.113.9", "192.0.2.7", "10.0.0.9, 10.0.0.8"], "192.0.2.7"),
        (["203.0.113.9, 192.0.2.7, ::ffff:10.0.0.9"], "192.0.2.7"),
        (["192.0.2.7, 2001:db8:f::1"], "192.0.2.7"),
        # All of them are proxies: a client of ours that is one itself.
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # Nonsense ends the walk at the last trusted hop.
        (["192.0.2.7, nonsense"], PROXY),
        (["192.0.2.7, nonsense, 10.0.0.2"], "10.0.0.2"),
        (["192.0.2.7, , 10.0.0.2"], "10.0.0.2"),
        (["192.0.2.7,"], PROXY),
        ([""], PROXY),
        (["unknown"], PROXY),
        (["192.0.2.7:port"], PROXY),
        (["192.0.2.07"], PROXY),
        (["192.0.2.7/24"], PROXY),
        (["1" * 5000], PROXY),
        (["2001:db8::1%" + "z" * 70], PROXY),
        # More hops than any architecture has.
        ([", ".join(["192.0.2.7"] + ["10.0.0.2"] * 15)], "192.0.2.7"),
        ([", ".join(["192.0.2.7"] + ["10.0.0.2"] * 16)], "10.0.0.2"),
    ]
    with every() as case:
        for lines, client in cases:
            with case(lines, client):
                assert client_address(PROXY, forwarded(*lines), TRUSTED) == client


def test_another_field_is_not_looked_at() -> None:
    spoofed = forwarded("for=203.0.113.8", name="forwarded")
    assert client_address(PROXY, forwarded("192.0.2.7") + spoofed, TRUSTED) == "192.0.2.7"
    assert client_address(PROXY, spoofed, TRUSTED) == PROXY


@given(
    st.lists(st.text(st.characters(max_codepoint=255, blacklist_characters="\r\n")), max_size=4),
    st.one_of(
        st.ip_addresses(v=4).filter(lambda address: not str(address).startswith("10.")),
        st.ip_addresses(v=6, network="2001:db8:1::/48"),
    ),
)
def test_whatever_a_client_sends_the_address_that_the_proxy_saw_stands(
    sent: list[str], real: IPv4Address | IPv6Address
) -> None:
    lines = [*sent[:-1], ", ".join([*sent[-1:], str(real)])]
    expected = client_address(str(real), ())
    assert client_address(PROXY, forwarded(*lines), TRUSTED) == expected
    # Without a proxy in between, nothing of it counts.
    assert client_address(str(real), forwarded(*lines), TRUSTED) == expected


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_nothing_that_stands_in_a_field_is_an_error(text: str) -> None:
    assert client_address(PROXY, forwarded(text), TRUSTED)


def test_a_peer_without_an_address_is_a_proxy_only_if_that_is_said() -> None:
    headers = forwarded("203.0.113.9, 192.0.2.7")
    assert client_address(None, headers, TRUSTED) == ""
    assert client_address("", headers, TrustedProxies(["unix"])) == "192.0.2.7"
    assert client_address(None, headers, TrustedProxies(["unix"])) == "192.0.2.7"
    assert client_address(None, (), TrustedProxies(["unix"])) == ""
    assert client_address("198.51.100.1", headers, TrustedProxies(["unix"])) == "198.51.100.1"


def test_a_long_name_of_a_peer_is_cut() -> None:
    assert client_address("x:" * 5000, (), NO_PROXIES) == "x:" * 40
    assert client_address("x" * 5000, (), NO_PROXIES) == "x" * 80


def test_what_is_kept_of_addresses_is_bounded() -> None:
    trusted = TrustedProxies()
    first = trusted.look_up("2001:db8::1")
    assert trusted.look_up("2001:db8::1") is first
    for number in range(10_000):
        trusted.look_up(f"2001:db8::{number:x}")
    kept = cast("Any", trusted.look_up).cache_info()
    assert kept.currsize == 4096
    assert trusted.look_up("2001:db8::1") == first


def test_an_address_is_the_same_with_a_port_and_in_brackets() -> None:
    cases: list[tuple[str, str]] = [
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::9]:4711", "2001:db8::/64"),
        ("[2001:db8::9]", "2001:db8::/64"),
        ("2001:db8::9", "2001:db8::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("[::ffff:203.0.113.9]:4711", "203.0.113.9"),
    ]
    with every() as case:
        for written, client in cases:
            with case(written, client):
                trusted = TrustedProxies(["10.0.0.0/8"])
                assert (
                    client_address("10.0.0.1", [(b"x-forwarded-for", written.encode())], trusted)
                    == client
                )


@pytest.mark.parametrize(
    ("client", "site"),
    [
        ("2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("192.0.2.1", None),
        ("192.0.2.0/24", None),
        ("testclient", None),
        ("unix/socket", None),
        ("", None),
    ],
)
def test_an_ipv6_network_lies_in_a_site(client: str, site: str | None) -> None:
    assert site_of(client) == site
