"""Where a request begins and ends: what two servers in a row could read differently ends the connection.

Each case is what a client sends. A probe is sent behind it: where the connection goes on the probe
is answered next, and where not, never.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from tests.app.raw import PROBE, Answer, answers, connected
from tests.conftest import drawn_png

LINE, HOST = b"POST /predict HTTP/1.1\r\n", b"Host: t\r\n"
PHOTO = drawn_png(0)
SIZE, HEX = b"%d" % len(PHOTO), b"%x" % len(PHOTO)
INSIDE = b"GET /labels HTTP/1.1\r\nHost: t\r\n\r\n"  # would be a request, if it were no body
LAST = b"0\r\n\r\n"
MORE = b"%x\r\n%b\r\n" % (len(PHOTO) - 999, PHOTO[999:])
CHUNKS = HEX + b"\r\n" + PHOTO + b"\r\n" + LAST


def get(fields: bytes, *, target: bytes = b"/labels", version: bytes = b"HTTP/1.1", host: bytes = HOST) -> bytes:
    """A request without a body."""
    return b"GET %b %b\r\n%b%b\r\n" % (target, version, host, fields)


def post(fields: bytes, body: bytes = b"") -> bytes:
    """A photo, or what claims to be one."""
    return LINE + HOST + fields + b"\r\n" + body


def length(value: bytes, body: bytes = PHOTO) -> bytes:
    """A photo with this Content-Length."""
    return post(b"Content-Length:" + value + b"\r\n", body)


def coding(value: bytes, body: bytes = CHUNKS) -> bytes:
    """A photo with this Transfer-Encoding."""
    return post(b"Transfer-Encoding:" + value + b"\r\n", body)


def chunks(body: bytes) -> bytes:
    """A chunked body."""
    return coding(b" chunked", body)


REFUSED = {
    # two ways to know where the body ends
    "length and chunks": post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", LAST + INSIDE),
    "chunks and length": post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", LAST + INSIDE),
    "length 0 and chunks": post(b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", LAST + INSIDE),
    "two lengths": post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello" + INSIDE),
    "two equal lengths": post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"),
    "no length, then one": post(b"Content-Length:\r\nContent-Length: 5\r\n", b"hello"),
    "chunks in HTTP/1.0": b"POST /predict HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    # lengths
    **{
        f"length {value[:40]!r}": length(value)
        for value in (
            b"", b" ", b" +5", b" -5", b" 5,5", b" 5, 5", b" 5 5", b" 0x5", b" 5.0", b" 5e0", b" 1_0", b" 5;",
            b' "5"', b" \xd9\xa5", b" five", b" NaN", b" " + b"0" * 20, b" " + b"0" * 5000, b" " + b"0" * 30 + b"5",
            b" " + b"9" * 20, b" " + b"9" * 5000, b" 18446744073709551615", b" 18446744073709551616", b" 5\r\n 5",
            b" 5\x00", b" 5\x0b", b" 5\r",
        )
    },
    # codings
    **{
        f"coding {value!r}": coding(value)
        for value in (
            b"", b" xchunked", b" chunkedx", b" chunked, identity", b" identity, chunked", b" gzip, chunked",
            b" gzip", b" identity", b" chunked, chunked", b" chunked,", b" ,chunked", b" chunked;q=1", b' "chunked"',
            b" chunked\t", b" chun\tked", b" chunked\x0b", b" \x0bchunked", b" chunked\x00", b"\r\n chunked",
            b" chunk\r\n ed", b" chunked\r\nTransfer-Encoding: chunked", b" chunked\r\nTransfer-Encoding: identity",
            b" identity\r\nTransfer-Encoding: chunked", b" \xc3\xa7hunked",
        )
    },
    # chunks
    **{
        f"chunks {body[:40]!r}": chunks(body)
        for body in (
            b"5\nhello\n0\n\n", b"5\r\nhello\r\n0\r\n\n", b"5\r\nhello" + LAST, b"5\r\nhelloXX" + LAST,
            b"5\rhello\r0\r\r", b"5\r\r\nhello\r\n" + LAST, b"-5\r\nhello\r\n" + LAST, b"+5\r\nhello\r\n" + LAST,
            b"0x5\r\nhello\r\n" + LAST, b" 5\r\nhello\r\n" + LAST, b"5 \r\nhello\r\n" + LAST,
            b"5\t\r\nhello\r\n" + LAST, b"5_0\r\nhello\r\n" + LAST, b"5,5\r\nhello\r\n" + LAST,
            b"\r\nhello\r\n" + LAST, b"g\r\nhello\r\n" + LAST, b"\xef\xbc\x95\r\nhello\r\n" + LAST,
            b"10000000000000005\r\nhello\r\n" + LAST, b"5 ;a\r\nhello\r\n" + LAST, b"5;\x00\r\nhello\r\n" + LAST,
            b"5;a=\nb\r\nhello\r\n" + LAST, b'5;a="b\r\nhello\r\n' + LAST,
            # trailers
            b"0\r\n" + INSIDE, b"0\r\nX : y\r\n\r\n", b"0\r\n y\r\n\r\n", b"0\r\nX\r\n\r\n", b"0\r\nX: y\n\n",
            b"0\r\nX: \x00\r\n\r\n", b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
            b"0\r\nContent-Length: 5\r\n\r\nhello", b"0\r\nConnection: close\r\n\r\n",
            b"0\r\nproxy-connection: close\r\n\r\n",
        )
    },
    # lines and fields
    **{
        f"field {field!r}": get(field + b"\r\n")
        for field in (
            b"X: a\x00b", b"X: a\rb", b"X: a\nb: c", b"X: a\r\n b", b"X: a\r\n\tb", b"X : a", b"X\t: a", b": a",
            b"X", b" X: a", b"X y: a", b"X\x00: a", b"X\x7f: a", b"X\xe9: a", b"X(: a", b"X@: a", b"X/: a", b'X": a',
            b"X;: a", b"X[: a", b"X{: a", b"X\\: a", b"X: a\x01", b"X: a\x7f", b"X: \x1b[31m", b"X: a\n",
        )
    },
    "a field before all others": get(b"", host=b" X: a\r\n" + HOST),
    "bare line feeds": b"GET /labels HTTP/1.1\nHost: t\n\n",
    "a bare line feed at the end": b"GET /labels HTTP/1.1\r\nHost: t\r\n\n",
    "bare carriage returns": b"GET /labels HTTP/1.1\rHost: t\r\r",
    # hosts: RFC 9112, 3.2
    "no host": get(b"", host=b""),
    "two hosts": get(b"Host: u\r\n"),
    "two equal hosts": get(b"hOST: t\r\n"),
    "two hosts in HTTP/1.0": get(b"Host: u\r\n", version=b"HTTP/1.0"),
    "an address for a target and no host": get(b"", target=b"http://t/labels", host=b""),
    **{
        f"host {host!r}": get(b"", host=b"Host: " + host + b"\r\n")
        for host in (
            b"a b", b"a\tb", b"a/b", b"/", b"u@t", b"t:80:80", b"t:port", b"t:-1", b"t?a", b"t#a", b"a\\b",
            b"http://t", b"<t>", b'"t"', b"t%zz", b"[::1", b"::1]", b"[]", b"[::::]", b"[1.2.3.4]", b"[g::]",
            b"[::1]a", b"\xc3\xa9", b"t\x00", b"\x7f", b"t\r\n u",
        )
    },
    # the first line
    **{
        f"line {line[:40]!r}": line + b"\r\n" + HOST + b"\r\n"
        for line in (
            b"GET /labels", b"GET /labels HTTP/0.9", b"GET /labels HTTP/1.2", b"GET /labels HTTP/1.10",
            b"GET /labels HTTP/01.1", b"GET /labels HTTP/2.0", b"GET /labels HTTP/3", b"GET /labels HTTP/",
            b"GET /labels HTTP/1.1 ", b"GET /labels http/1.1", b"GET /labels HTTP /1.1",
            b"GET /labels HTTP/1.1 HTTP/1.1", b"get /labels HTTP/1.1", b"Get /labels HTTP/1.1",
            b"FOO /labels HTTP/1.1", b"GET\t/labels\tHTTP/1.1", b" GET /labels HTTP/1.1", b"GET /la bels HTTP/1.1",
            b"GET /la\tbels HTTP/1.1", b"GET /la\x00bels HTTP/1.1", b"GET /\xc3\xa9 HTTP/1.1",
            b"GET labels HTTP/1.1", b"GET ?labels HTTP/1.1", b"GET t:80 HTTP/1.1", b"GET http:///labels HTTP/1.1",
            b"GET ftp://t/labels HTTP/1.1", b"GET http://u@t/labels HTTP/1.1", b"GET http://t:80:80/labels HTTP/1.1",
            b"GET http://[::::]/ HTTP/1.1", b"CONNECT t:443 HTTP/1.1", b"CONNECT / HTTP/1.1",
            b"A" * 8192 + b" /labels HTTP/1.1", b"GE\xd4 /labels HTTP/1.1", b"HTTP/1.1 200 OK", b"GET",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2",
        )
    },
    "HTTP/2 by prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}  # fmt: skip

TOO_LARGE = {
    "a head of 70 KB": get(b"X: %b\r\n" % (b"a" * 70_000)),
    "a path of 70 KB": get(b"", target=b"/" + b"a" * 70_000),
    "a name of 70 KB": get(b"a" * 70_000 + b": b\r\n"),
    "many headers": get(b"a:b\r\n" * 300),
    "extensions of a chunk": chunks(b"1;" + b"a" * 140_000 + b"\r\n"),
    "chunks with extensions": chunks((b"1;" + b"a" * 700 + b"\r\nb\r\n") * 200 + LAST),
    "the size of a chunk": chunks(b"0" * 140_000 + b"5\r\nhello\r\n" + LAST),
    "trailers": chunks(b"0\r\n" + b"a: b\r\n" * 30_000 + b"\r\n"),
}

GOES_ON = {
    **{
        f"length {value!r}": length(value)
        for value in (SIZE, b" " + SIZE, b"  %b  " % SIZE, b"\t%b\t" % SIZE, b" 00" + SIZE)
    },
    **{f"coding {value!r}": coding(value) for value in (b"chunked", b" CHUNKED", b"\tchunked", b" chunked ")},
    "small chunks": chunks(b"".join(b"1\r\n%c\r\n" % byte for byte in PHOTO[:999]) + MORE + LAST),
    "zeros before a size": chunks(b"0000000000000000000" + CHUNKS),
    "a large hexadecimal digit": chunks(HEX.upper() + CHUNKS[len(HEX) :]),
    "an extension": chunks(HEX + b';a=b;c="d e"\r\n' + PHOTO + b"\r\n" + LAST),
    "trailers": chunks(CHUNKS[:-2] + b"X: y\r\nHost: u\r\nUpgrade: h2c\r\nContent-Type: text/plain\r\n\r\n"),
    "a request for a body": length(SIZE, PHOTO + b"\r\n"),
    **{
        f"host {host!r}": get(b"", host=b"Host:" + host + b"\r\n")
        for host in (
            b"",
            b" t",
            b"\tt \t",
            b" t:80",
            b" t:",
            b" 127.0.0.1:8000",
            b" [::1]:80",
            b" a_b.c-d",
            b" t%41",
            b" T",
        )
    },
    "no path": get(b"", target=b"http://t"),
    "no path, a query": get(b"", target=b"HTTP://t:80?a=b"),
    "an address": get(b"", target=b"http://other/labels?a=b"),
    "an address by https": get(b"", target=b"https://[::1]:1/labels"),
    "blank lines before": b"\r\n\r\n" + get(b""),
    "an empty field": get(b"X:\r\n"),
    "bytes beyond ASCII": get(b"X: \xe9\xff\xe2\x80\xa8\r\n"),
    "all that a name may hold": get(b"a!#$%&'*+-.^_`|~1: b\r\n"),
    "a length in other words": get(b"Content_Length: 5\r\nContent-Length-: 5\r\n"),
    "OPTIONS for all": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "an unknown path": get(b"", target=b"/%00%0a%1b"),
    "two slashes": get(b"", target=b"//labels"),
    "HEAD": b"HEAD /health/live HTTP/1.1\r\n" + HOST + b"\r\n",
}

ENDS = {
    "HTTP/1.0": get(b"", version=b"HTTP/1.0", host=b""),
    "HTTP/1.0 that would be kept": get(b"Connection: keep-alive\r\n", version=b"HTTP/1.0"),
    "HTTP/1.0 with a body": b"POST /predict HTTP/1.0\r\nContent-Length: %b\r\n\r\n" % SIZE + PHOTO,
    "close": get(b"Connection: close\r\n"),
    "close, by a list": get(b"Connection: keep-alive, Close\r\n"),
    "a body of 2**63 bytes": length(b" 9223372036854775808"),
    "a body of 10**19 - 1 bytes": length(b" " + b"9" * 19),
}


@pytest.fixture
def line(server: str) -> Iterator[socket.socket]:
    """A connection to a server."""
    with connected(server) as one:
        yield one


def refused_once(found: list[Answer], status: int, slug: str) -> None:
    """The one error shape, and the end."""
    assert [answer[0] for answer in found] == [status], found
    assert found[0][1]["connection"] == "close"
    assert set(error := json.loads(found[0][2])) == {"error", "error_type"}
    assert error["error_type"] == slug
    assert error["error"].isprintable()


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused_and_ends_the_connection(line: socket.socket, name: str) -> None:
    line.sendall(REFUSED[name] + PROBE)
    refused_once(answers(line), 400, "bad_request")


def test_it_is_the_same_where_each_byte_comes_alone(server: str) -> None:
    for name, sent in REFUSED.items():
        with connected(server) as line:
            for byte in sent[:2000]:
                line.send(bytes([byte]))
            line.sendall(sent[2000:] + PROBE)
            found = answers(line)
            assert [answer[0] for answer in found] == [400], (name, found)


@pytest.mark.parametrize("wish", [b"", b"Connection: upgrade\r\nUpgrade: x\r\n"])
def test_a_refused_head_has_no_body(line: socket.socket, wish: bytes) -> None:
    """RFC 9110, 9.3.2."""
    line.sendall(b"HEAD /health/live HTTP/1.1\r\nHost: a b\r\n" + wish + b"\r\n")
    head, _, body = line.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert body == b""


def test_what_is_refused_behind_a_head_has_a_body(line: socket.socket) -> None:
    line.sendall(b"HEAD /health/live HTTP/1.1\r\nHost: t\r\n\r\n???")
    _, refused = answers(line, head=True)
    refused_once([refused], 400, "bad_request")


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_is_around_a_body_has_an_end(line: socket.socket, name: str) -> None:
    line.sendall(TOO_LARGE[name] + PROBE)
    refused_once(answers(line), 431, "headers_too_large")


@pytest.mark.parametrize("name", GOES_ON)
def test_what_can_be_read_in_one_way_is_read_and_the_connection_goes_on(line: socket.socket, name: str) -> None:
    sent = GOES_ON[name]
    line.sendall(sent + PROBE)
    one, probe = answers(line, head=sent.startswith(b"HEAD"))
    wanted = 404 if name in ("OPTIONS for all", "an unknown path", "two slashes") else 200
    assert one[0] == wanted, one
    assert (probe[0], probe[1]["x-request-id"]) == (200, "probe")


@pytest.mark.parametrize("name", ENDS)
def test_what_ends_the_connection_is_answered_once(line: socket.socket, name: str) -> None:
    line.sendall(ENDS[name] + PROBE)
    ((status, headers, _),) = answers(line)
    assert status == (413 if "bytes" in name else 200)
    assert headers["connection"] == "close"


@pytest.mark.parametrize("sent", [length(SIZE), chunks(HEX + b";a=b\r\n" + PHOTO + b"\r\n0\r\nX: y\r\n\r\n"), get(b"")])
def test_who_leaves_at_any_byte_gets_no_answer_and_harms_nobody(server: str, sent: bytes) -> None:
    body = sent.index(b"\r\n\r\n") + 4
    for end in {*range(body), *range(body, len(sent) - 1, 97), len(sent) - 1}:
        with connected(server) as line:
            line.sendall(sent[:end])
            line.shutdown(socket.SHUT_WR)
            assert [answer[0] for answer in answers(line)] == [], end
    with connected(server) as line:
        line.sendall(PROBE)
        assert [answer[0] for answer in answers(line)] == [200]
