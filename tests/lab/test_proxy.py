"""What the fault proxy does to connections, measured on real sockets.

TOXIPROXY_URL lets the original be measured.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Generator
from queue import Queue

import asyncpg
import pytest

from postfacta_embedded import EmbeddedPostgres
from postfacta_lab.proxy import Toxiproxy
from tests.lab.peers import (
    PATIENCE,
    connect,
    echo,
    ending,
    new_proxy,
    ours_only,
    read_all,
    read_exactly,
    serve,
    the_proxy,
)

pytestmark = pytest.mark.usefixtures("programs")

# The lower bound of a delay, in its share: clocks of two processes are compared.
NEARLY = 0.95


@pytest.fixture(scope="module")
def api() -> Generator[Toxiproxy]:
    with the_proxy() as running:
        yield running


@pytest.fixture
def echoing(api: Toxiproxy) -> Generator[tuple[str, str]]:
    """Give name and address of a proxy before a server that echoes."""
    with serve(echo) as upstream, new_proxy(api, upstream) as made:
        yield made


def seconds(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def ask(connection: socket.socket, question: bytes = b"hello") -> bytes:
    connection.sendall(question)
    return read_exactly(connection, len(question))


def falls_silent(connection: socket.socket, for_seconds: float = 0.3) -> bool:
    connection.settimeout(for_seconds)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(PATIENCE)
    return False


# No toxic


def test_without_toxics_all_bytes_pass_unchanged(echoing: tuple[str, str]) -> None:
    content = bytes(range(256)) * 20_000
    with connect(echoing[1]) as client:
        sender = threading.Thread(target=client.sendall, args=(content,))
        sender.start()
        assert read_exactly(client, len(content)) == content
        sender.join(PATIENCE)


def test_an_end_on_either_side_ends_the_other(api: Toxiproxy) -> None:
    ended: Queue[bytes] = Queue()
    with (
        serve(lambda connection: ended.put(connection.recv(1))) as upstream,
        new_proxy(api, upstream) as made,
    ):
        connect(made[1]).close()
        assert ended.get(timeout=PATIENCE) == b""
    with (
        serve(lambda connection: connection.sendall(b"bye")) as upstream,
        new_proxy(api, upstream) as made,
        connect(made[1]) as client,
    ):
        assert read_all(client) == b"bye"


def test_a_client_is_let_go_when_the_upstream_refuses(api: Toxiproxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        upstream = f"127.0.0.1:{nobody.getsockname()[1]}"
    with new_proxy(api, upstream) as made, connect(made[1]) as client:
        assert ending(client) in {"end", "reset"}


def test_a_client_that_does_not_read_stops_the_server_from_sending(api: Toxiproxy) -> None:
    sent, most = [0], 300_000_000

    def flood(connection: socket.socket) -> None:
        while sent[0] < most:
            sent[0] += connection.send(b"x" * 65_536)

    with serve(flood) as upstream, new_proxy(api, upstream) as made, connect(made[1]) as client:
        before, give_up = -1, time.monotonic() + PATIENCE
        while sent[0] != before and time.monotonic() < give_up:
            before = sent[0]
            time.sleep(0.5)  # noqa: TID251 - a thread of real time
        # What the kernel buffers on two connections, and no more than a little beside.
        assert 0 < sent[0] < 64_000_000
        read_exactly(client, before + 1)
        assert sent[0] > before


# Toxics


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_latency_delays_each_answer(api: Toxiproxy, echoing: tuple[str, str], stream: str) -> None:
    name, address = echoing
    api.add(name, "latency", stream=stream, latency=300, jitter=50)
    with connect(address) as client:
        for _ in range(3):
            assert 0.250 * NEARLY <= seconds(lambda: ask(client)) < 10


def test_latency_delays_but_does_not_throttle(api: Toxiproxy, echoing: tuple[str, str]) -> None:
    name, address = echoing
    api.add(name, "latency", latency=400)
    with connect(address) as client:

        def talk() -> None:
            for _ in range(20):
                client.sendall(b"12345")
                time.sleep(0.01)  # noqa: TID251 - so that they are chunks of their own
            read_exactly(client, 100)

        assert 0.4 <= seconds(talk) < 20 * 0.4


def test_latency_can_be_changed_while_a_connection_lives(
    api: Toxiproxy, echoing: tuple[str, str]
) -> None:
    name, address = echoing
    with connect(address) as client:
        assert ask(client) == b"hello"
        toxic = api.add(name, "latency", latency=60_000)
        client.sendall(b"held back")
        assert falls_silent(client)
        api.change(name, toxic, latency=200)
        assert read_exactly(client, 9) == b"held back"
        assert seconds(lambda: ask(client)) >= 0.2 * NEARLY


def test_what_a_toxic_held_back_arrives_when_it_is_removed(
    api: Toxiproxy, echoing: tuple[str, str]
) -> None:
    name, address = echoing
    with connect(address) as client:
        toxic = api.add(name, "latency", latency=60_000)
        client.sendall(b"held back")
        assert falls_silent(client)
        api.remove(name, toxic)
        assert read_exactly(client, 9) == b"held back"
        assert seconds(lambda: ask(client)) < 20


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_bandwidth_bounds_the_rate(api: Toxiproxy, echoing: tuple[str, str], stream: str) -> None:
    name, address = echoing
    api.add(name, "bandwidth", stream=stream, rate=100)
    with connect(address) as client:
        # 60,000 bytes at 100,000 a second.
        assert 0.6 * 0.8 <= seconds(lambda: ask(client, b"x" * 60_000)) < 6


def test_an_idle_line_saves_up_no_bandwidth(api: Toxiproxy, echoing: tuple[str, str]) -> None:
    name, address = echoing
    api.add(name, "bandwidth", rate=100)
    with connect(address) as client:
        ask(client)
        assert falls_silent(client, 1.0)
        assert seconds(lambda: ask(client, b"x" * 40_000)) >= 0.4 * 0.8


def test_slow_close_delays_the_end_but_not_the_data(api: Toxiproxy) -> None:
    with (
        serve(lambda connection: connection.sendall(b"bye")) as upstream,
        new_proxy(api, upstream) as made,
    ):
        api.add(made[0], "slow_close", delay=1500)
        began = time.monotonic()
        with connect(made[1]) as client:
            assert read_exactly(client, 3) == b"bye"
            assert falls_silent(client)
            assert client.recv(1) == b""
        assert time.monotonic() - began >= 1.5 * NEARLY


def test_timeout_swallows_and_closes_when_it_is_over(
    api: Toxiproxy, echoing: tuple[str, str]
) -> None:
    name, address = echoing
    api.add(name, "timeout", timeout=500)
    began = time.monotonic()
    with connect(address) as client:
        client.sendall(b"hello")
        assert client.recv(1) == b""
    assert 0.5 * NEARLY <= time.monotonic() - began < 10


def test_timeout_0_is_a_black_hole_until_it_is_removed(
    api: Toxiproxy, echoing: tuple[str, str]
) -> None:
    name, address = echoing
    with connect(address) as before:
        assert ask(before) == b"hello"
        toxic = api.add(name, "timeout", timeout=0)
        with connect(address) as during:
            for client in (before, during):
                client.sendall(b"hello")
                assert falls_silent(client)
            api.remove(name, toxic)
            # Their bytes are lost: they are of no use any more.
            assert before.recv(1) == b""
            assert during.recv(1) == b""
    with connect(address) as after:
        assert ask(after) == b"hello"


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
def test_reset_peer_resets_in_its_time(
    api: Toxiproxy, echoing: tuple[str, str], stream: str
) -> None:
    name, address = echoing
    api.add(name, "reset_peer", stream=stream, timeout=300)
    with connect(address) as client:
        began = time.monotonic()
        client.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert time.monotonic() - began >= 0.3 * NEARLY


def test_reset_peer_resets_the_server_too(api: Toxiproxy) -> None:
    endings: Queue[str] = Queue()
    with (
        serve(lambda connection: endings.put(ending(connection))) as upstream,
        new_proxy(api, upstream) as made,
    ):
        api.add(made[0], "reset_peer", stream="upstream")
        with connect(made[1]) as client:
            client.sendall(b"hello")
            assert endings.get(timeout=PATIENCE) == "reset"


@ours_only
def test_reset_peer_resets_connections_that_lived_before(
    api: Toxiproxy, echoing: tuple[str, str]
) -> None:
    name, address = echoing
    with connect(address) as client:
        assert ask(client) == b"hello"
        api.add(name, "reset_peer")
        client.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_slicer_cuts_data_into_pieces(api: Toxiproxy, echoing: tuple[str, str]) -> None:
    name, address = echoing
    api.add(name, "slicer", average_size=50, size_variation=10, delay=50_000)
    content, pieces = bytes(range(250)) * 4, list[bytes]()
    with connect(address) as client:
        began = time.monotonic()
        client.sendall(content)
        while sum(map(len, pieces)) < len(content):
            pieces.append(client.recv(65_536))
        took = time.monotonic() - began
    assert b"".join(pieces) == content
    # Some 20 pieces, 50 ms apart; a busy reader may find several of them together.
    assert len(pieces) >= 6
    assert min(map(len, pieces)) <= 120
    assert 0.5 <= took < 20


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_limit_data_closes_after_exactly_its_bytes(api: Toxiproxy, size: int) -> None:
    def send(connection: socket.socket) -> None:
        connection.sendall(b"x" * 200_000)
        connection.recv(1)

    with serve(send) as upstream, new_proxy(api, upstream) as made:
        api.add(made[0], "limit_data", bytes=size)
        with connect(made[1]) as client:
            assert read_all(client) == b"x" * size


def test_limit_data_counts_over_the_life_of_a_connection(
    api: Toxiproxy, echoing: tuple[str, str]
) -> None:
    name, address = echoing
    with connect(address) as client:
        ask(client, b"not counted")
        toxic = api.add(name, "limit_data", bytes=10)
        assert ask(client, b"1234") == b"1234"
        api.change(name, toxic, bytes=8)
        assert ask(client, b"56789") == b"5678"
        assert client.recv(1) == b""


def test_limit_data_bounds_what_the_server_sees(api: Toxiproxy) -> None:
    seen: Queue[bytes] = Queue()
    with (
        serve(lambda connection: seen.put(read_all(connection))) as upstream,
        new_proxy(api, upstream) as made,
    ):
        api.add(made[0], "limit_data", stream="upstream", bytes=5)
        with connect(made[1]) as client:
            client.sendall(b"123456789")
            assert seen.get(timeout=PATIENCE) == b"12345"


def test_toxicity_0_has_no_effect(api: Toxiproxy, echoing: tuple[str, str]) -> None:
    name, address = echoing
    api.add(name, "timeout", toxicity=0.0, timeout=0)
    for _ in range(10):
        with connect(address) as client:
            assert ask(client) == b"hello"


def test_toxicity_between_strikes_some_connections(
    api: Toxiproxy, echoing: tuple[str, str]
) -> None:
    name, address = echoing
    api.add(name, "limit_data", toxicity=0.5, bytes=1)

    def answer() -> bytes:
        with connect(address) as client:
            return ask(client)

    # All alike: once in 10^15 runs.
    assert {answer() for _ in range(50)} == {b"hello", b"h"}


def test_a_toxic_on_one_stream_leaves_the_other_alone(api: Toxiproxy) -> None:
    seen: Queue[bytes] = Queue()
    with (
        serve(lambda connection: seen.put(connection.recv(5))) as upstream,
        new_proxy(api, upstream) as made,
    ):
        api.add(made[0], "timeout", stream="downstream", timeout=0)
        with connect(made[1]) as client:
            client.sendall(b"hello")
            assert seen.get(timeout=PATIENCE) == b"hello"


def test_nothing_is_lost_or_moved_while_toxics_come_and_go(
    api: Toxiproxy, echoing: tuple[str, str]
) -> None:
    name, address = echoing
    content = b"".join(number.to_bytes(4, "big") for number in range(400_000))
    got = bytearray()

    def read() -> None:
        got.extend(read_exactly(client, len(content)))

    with connect(address) as client:
        threads = [
            threading.Thread(target=client.sendall, args=(content,)),
            threading.Thread(target=read),
        ]
        slow = api.add(name, "bandwidth", toxic="slow", rate=2000)
        for thread in threads:
            thread.start()
        for turn in range(8):
            api.add(name, "latency", toxic="late", latency=20, jitter=20)
            api.add(
                name,
                "slicer",
                stream="upstream",
                toxic="cut",
                average_size=3000,
                size_variation=100,
            )
            api.add(name, "slow_close", toxic="close", delay=1)
            api.change(name, "late", latency=turn)
            api.change(name, slow, rate=1000 + 500 * turn)
            for toxic in ("close", "late", "cut") if turn % 2 else ("late", "cut", "close"):
                api.remove(name, toxic)
        api.remove(name, slow)
        for thread in threads:
            thread.join(PATIENCE)
    assert bytes(got) == content


def test_what_several_toxics_held_back_keeps_its_order_at_a_reset(
    api: Toxiproxy, echoing: tuple[str, str]
) -> None:
    name, address = echoing
    content = b"".join(number.to_bytes(4, "big") for number in range(10_000))
    api.add(name, "bandwidth", rate=20)
    api.add(name, "latency", latency=60_000)
    with connect(address) as client:
        client.sendall(content)
        # Meanwhile some of it lies before the one, some before the other.
        assert falls_silent(client, 0.7)
        api.reset()
        assert read_exactly(client, len(content)) == content


# Down


def test_a_disabled_proxy_closes_and_refuses_until_it_is_enabled(
    api: Toxiproxy, echoing: tuple[str, str]
) -> None:
    name, address = echoing
    with connect(address) as client:
        assert ask(client) == b"hello"
        api.update(name, enabled=False)
        assert ending(client) in {"end", "reset"}
    with pytest.raises(ConnectionRefusedError):
        connect(address)
    api.update(name, enabled=True)
    with connect(address) as client:
        assert ask(client) == b"hello"


def test_toxics_outlive_a_pause(api: Toxiproxy, echoing: tuple[str, str]) -> None:
    name, address = echoing
    api.add(name, "limit_data", bytes=2)
    api.update(name, enabled=False)
    api.update(name, enabled=True)
    with connect(address) as client:
        assert ask(client) == b"he"


def test_another_upstream_drops_the_connections(api: Toxiproxy, echoing: tuple[str, str]) -> None:
    name, address = echoing
    with (
        serve(lambda connection: connection.sendall(b"the other one")) as other,
        connect(address) as client,
    ):
        assert ask(client) == b"hello"
        api.update(name, upstream=other)
        assert ending(client) in {"end", "reset"}
        with connect(address) as again:
            assert read_all(again) == b"the other one"


# PostgreSQL


async def connect_to_postgres(
    address: str, server: EmbeddedPostgres
) -> asyncpg.Connection[asyncpg.Record]:
    host, _, port = address.rpartition(":")
    return await asyncpg.connect(server.dsn(), host=host, port=int(port), timeout=PATIENCE)


@pytest.fixture
def postgres(api: Toxiproxy, postgres_server: EmbeddedPostgres) -> Generator[tuple[str, str]]:
    """Give name and address of a proxy before PostgreSQL."""
    host, _, port = postgres_server.dsn().rpartition("@")[2].partition("/")[0].partition(":")
    with new_proxy(api, f"{host}:{port}") as made:
        yield made


def test_postgresql_answers_through_the_proxy_even_in_slices(
    api: Toxiproxy, postgres: tuple[str, str], postgres_server: EmbeddedPostgres
) -> None:
    name, address = postgres
    api.add(name, "slicer", stream="downstream", average_size=2, size_variation=1)

    async def run() -> None:
        connection = await connect_to_postgres(address, postgres_server)
        try:
            total = await connection.fetchval("select sum(n) from generate_series(1, 1000) n")
            assert total == 500_500
        finally:
            await connection.close(timeout=PATIENCE)

    asyncio.run(run())


def test_a_query_fails_at_once_when_its_proxy_is_disabled(
    api: Toxiproxy, postgres: tuple[str, str], postgres_server: EmbeddedPostgres
) -> None:
    name, address = postgres

    async def run() -> None:
        connection = await connect_to_postgres(address, postgres_server)
        query = asyncio.ensure_future(connection.fetchval("select pg_sleep(60)"))
        await asyncio.sleep(0.2)
        assert not query.done()
        await asyncio.to_thread(api.update, name, enabled=False)
        with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
            await asyncio.wait_for(query, 10)
        with pytest.raises(ConnectionRefusedError):
            await connect_to_postgres(address, postgres_server)
        connection.terminate()
        await asyncio.to_thread(api.update, name, enabled=True)
        again = await connect_to_postgres(address, postgres_server)
        assert await again.fetchval("select 1") == 1
        await again.close(timeout=PATIENCE)

    asyncio.run(run())


def test_a_query_into_a_black_hole_gets_nothing(
    api: Toxiproxy, postgres: tuple[str, str], postgres_server: EmbeddedPostgres
) -> None:
    name, address = postgres

    async def run() -> None:
        connection = await connect_to_postgres(address, postgres_server)
        toxic = await asyncio.to_thread(
            lambda: api.add(name, "timeout", stream="upstream", timeout=0)
        )
        query = asyncio.ensure_future(connection.fetchval("select 1"))
        done, _ = await asyncio.wait([query], timeout=0.5)
        assert not done
        await asyncio.to_thread(api.remove, name, toxic)
        with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
            await asyncio.wait_for(query, 10)
        connection.terminate()

    asyncio.run(run())
