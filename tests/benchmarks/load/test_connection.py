"""One client's connections against servers that break every rule."""

from __future__ import annotations

import asyncio
import socket

import pytest

from benchmarks.load.client import Client
from benchmarks.load.connection import NoAnswer, server_of
from contract.errors import ContractError
from tests.benchmarks.load.simulated import URL, World
from tests.benchmarks.load.stand_in_server import CLOSE, Behaviour, Request, answer, asked, good, stand_in, target


def says(*answers: bytes | None) -> Behaviour:
    """Behaviour: the answers in turn, the last one for ever."""

    async def behave(request: Request) -> bytes | None:
        return answers[min(request.number, len(answers) - 1)]

    return behave


def test_answers_on_a_kept_connection() -> None:
    with stand_in(says(good(), answer({}, 503), good())) as url:
        assert asyncio.run(asked(url, 3)) == [200, 503, 200, 0]


def test_a_kept_connection_that_was_closed_is_opened_again_and_counted() -> None:
    with stand_in(says(good(), CLOSE, good())) as url:
        assert asyncio.run(asked(url, 2)) == [200, 200, 1]


def test_a_new_connection_that_is_closed_is_an_error() -> None:
    with stand_in(says(CLOSE)) as url:
        assert asyncio.run(asked(url)) == ["closed", 0]


HALF = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\nconnection: close\r\n\r\nhalf"


def test_half_an_answer_is_an_error_and_not_asked_again(world: World) -> None:
    world.behave = says(good(), HALF)
    assert world.run(asked(URL, 2, timeout=0.3)) == [200, "timeout", 0]


def test_an_answer_that_is_cut_off_is_not_asked_again() -> None:
    with stand_in(says(good(), HALF, good())) as url:
        assert asyncio.run(asked(url, 2, timeout=60)) == [200, "closed", 0]


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 101 Y\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"]
)
def test_other_protocols(said: bytes) -> None:
    with stand_in(says(said)) as url:
        assert asyncio.run(asked(url)) == ["not_http", 0]


def test_informational_answers_are_passed_over() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    with stand_in(says(early + good(), early + answer({}, 500))) as url:
        assert asyncio.run(asked(url, 2)) == [200, 500, 0]


def test_a_body_that_ends_with_the_connection() -> None:
    """As HTTP/1.0 servers do."""
    body = b'HTTP/1.0 200 OK\r\n\r\n{"prediction": "Pizza"}'

    async def ask(url: str) -> bytes:
        client = Client(server_of(url), timeout=5)
        return (await client.ask(target(url).requests()[0])).body

    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(1 << 20)
            peer.sendall(body)

    async def both() -> bytes:
        served = asyncio.create_task(asyncio.to_thread(serve))
        found = await ask(f"http://127.0.0.1:{listener.getsockname()[1]}")
        await served
        return found

    with listener:
        assert asyncio.run(both()) == b'{"prediction": "Pizza"}'


async def never(_: Request) -> bytes:
    await asyncio.Event().wait()
    return good()


def test_an_answer_that_takes_too_long(world: World) -> None:
    """By the client's clock, which looks every twentieth of the limit."""
    world.behave = never
    assert world.run(asked(URL, timeout=0.1)) == ["timeout", 0]
    assert 0.1 <= world.time() <= 0.1051


def test_an_answer_that_never_comes() -> None:
    """On a real connection."""
    with stand_in(never) as url:
        assert asyncio.run(asked(url, timeout=0.1)) == ["timeout", 0]


def test_waiting_for_a_place_counts_as_waiting(world: World) -> None:
    async def two() -> list[str]:
        client = Client(server_of(URL), timeout=0.2, most=1)
        request = target(URL).requests()[0]
        found = await asyncio.gather(client.ask(request), client.ask(request), return_exceptions=True)
        client.close()
        return [one.kind if isinstance(one, NoAnswer) else str(one) for one in found]

    world.behave = never
    assert world.run(two()) == ["timeout", "timeout"]
    assert world.time() <= 0.2101, "both at a time, not one after the other"


def test_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert asyncio.run(asked(f"http://127.0.0.1:{free.getsockname()[1]}")) == ["refused", 0]


def test_a_plain_server_behind_https() -> None:
    with stand_in(says(good())) as url:
        assert asyncio.run(asked(url.replace("http:", "https:"), timeout=60))[0] in ("tls", "closed")


def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)  # a resolver without a network may take long to say so
    assert asyncio.run(asked("http://no-such-host.invalid:1", timeout=60)) == ["network", 0]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("127.0.0.1:8000", "write http://HOST:PORT"),
        ("ftp://host", "write http://HOST:PORT"),
        ("http://", "write http://HOST:PORT"),
        ("http://host:0", "write http://HOST:PORT"),
        ("http://host:99999", "wrong"),
        ("http://host/?a=1", "--route"),
        ("http://me:hunter2@host", "--header"),
    ],
)
def test_urls_that_are_none(url: str, why: str) -> None:
    with pytest.raises(ContractError, match=why) as caught:
        server_of(url)
    assert "hunter2" not in str(caught.value)


def test_urls() -> None:
    server = server_of("https://Bücher.example/a b/")
    assert (server.host, server.port, server.path) == ("xn--bcher-kva.example", 443, "/a%20b")
    assert server_of("http://[::1]:8000").authority == "[::1]:8000"
