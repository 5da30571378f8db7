"""Answers that never end, that unpack to too much, that break off or point elsewhere: refused in bounded time."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from time import monotonic, sleep

import pytest
import requests

from storage.schema import Ambiguous
from tasks.exchange.bounded_http import BoundedAdapter
from tasks.exchange.transport import Unreachable, ask, new_client

pytestmark = pytest.mark.promise(19)

GOOD = json.dumps({"retCode": 0, "retMsg": "OK", "result": {"list": []}, "time": 1}).encode()
Serve = Callable[[Callable[[socket.socket], object]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return what answers every request on loopback in a way of its own, and where that is."""
    closed = threading.Event()
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def start(answer: Callable[[socket.socket], object]) -> str:
            def run() -> None:
                while not closed.is_set():
                    with suppress(OSError):
                        wire, _ = listener.accept()
                        with closing(wire):
                            wire.recv(65_536)
                            answer(wire)

            threading.Thread(target=run, daemon=True).start()
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        yield start
        closed.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def head(length: int | None, *more: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", "Content-Type: application/json", *more]
    lines += [f"Content-Length: {length}"] if length is not None else ["Connection: close"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def asked(url: str, most_s: float = 0.5, most_bytes: int = 10_000, proxies: dict[str, str] | None = None) -> object:
    client = new_client("sandbox", url, (1.0, 0.4))
    client.client.proxies = proxies or {}
    client.client.mount("http://", BoundedAdapter(most_s, most_bytes))
    with closing(client.client):
        return ask(client, "get_kline", {"symbol": "BTCUSDT", "interval": "5"})


def test_answer_that_is_whole_is_read(serve: Serve) -> None:
    assert asked(serve(lambda wire: wire.sendall(head(len(GOOD)) + GOOD))) is not None
    packed = gzip.compress(GOOD)
    assert asked(serve(lambda wire: wire.sendall(head(len(packed), "Content-Encoding: gzip") + packed))) is not None


def test_trickle_ends_in_time(serve: Serve) -> None:
    def trickle(wire: socket.socket) -> None:
        wire.sendall(head(10_000))
        with suppress(OSError):
            for _ in range(200):
                wire.sendall(b" ")
                sleep(0.05)

    began_s = monotonic()
    with pytest.raises(Unreachable, match="no answer in time"):
        asked(serve(trickle))
    assert monotonic() - began_s < 8  # it would go on for 10 s; the limit is 0.5


@pytest.mark.parametrize("is_proxy", [False, True])
def test_head_that_trickles_ends_in_time(serve: Serve, is_proxy: bool) -> None:
    def trickle(wire: socket.socket) -> None:
        with suppress(OSError):
            for letter in head(10_000)[:-2] + b"X-Long: " + b"x" * 200:
                wire.sendall(bytes([letter]))
                sleep(0.05)

    began_s, url = monotonic(), serve(trickle)
    with pytest.raises(Ambiguous):
        asked("http://exchange.invalid", proxies={"http": url}) if is_proxy else asked(url)
    assert monotonic() - began_s < 8  # it would go on for 15 s; the limit is 0.5


@pytest.mark.parametrize("packed", [False, True])
def test_answer_that_is_too_large_is_refused_before_it_is_all_there(serve: Serve, packed: bool) -> None:
    bomb = gzip.compress(b"0" * 50_000_000) if packed else b"0" * 5_000_000
    more = ("Content-Encoding: gzip",) if packed else ()

    def send(wire: socket.socket) -> None:
        with suppress(OSError):
            wire.sendall(head(None, *more) + bomb)

    with pytest.raises(Ambiguous, match="broke off: ContentDecodingError"):
        asked(serve(send), most_s=30.0)


@pytest.mark.parametrize(
    "body",
    [head(1_000) + GOOD, head(None, "Content-Encoding: gzip") + b"\x1f\x8bno gzip at all", head(None) + GOOD[:9]],
)
def test_answer_that_breaks_off_or_can_t_be_unpacked_is_no_answer(serve: Serve, body: bytes) -> None:
    with pytest.raises(Ambiguous):
        asked(serve(lambda wire: wire.sendall(body)))


def test_redirect_is_not_followed(serve: Serve) -> None:
    elsewhere = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(Ambiguous, match="TooManyRedirects"):
        asked(serve(lambda wire: wire.sendall(elsewhere)))


def test_charset_of_the_header_is_not_looked_at(serve: Serve) -> None:
    page = b"a-" + b"b" * 60_000  # as punycode, each letter moves all that come after it

    def answer(wire: socket.socket) -> None:
        wire.sendall(b"HTTP/1.1 500 Oh\r\nContent-Type: text/html; charset=punycode\r\n")
        wire.sendall(b"Content-Length: %d\r\n\r\n" % len(page) + page)

    url = serve(answer)
    with closing(requests.Session()) as session:
        session.trust_env = False
        session.mount("http://", BoundedAdapter(5.0))
        assert session.get(url, timeout=1).text == page.decode()


def test_connection_is_kept_for_the_next_request(serve: Serve) -> None:
    seen = []

    def answer(wire: socket.socket) -> None:
        for _ in range(3):
            seen.append(wire)
            wire.sendall(head(len(GOOD)) + GOOD)
            wire.recv(65_536)

    url = serve(answer)
    with closing(requests.Session()) as session:
        session.trust_env = False
        session.mount("http://", BoundedAdapter(5.0))
        assert [session.get(url, timeout=1).json()["retCode"] for _ in range(3)] == [0, 0, 0]
    assert len({id(wire) for wire in seen}) == 1
