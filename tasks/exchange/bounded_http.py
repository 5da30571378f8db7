"""HTTP responses with a limit on size and on total time.

`requests` limits the wait between two pieces of a response, but not the whole: it would read for ever from a server
that sends one byte every few seconds, and a response of gigabytes, or one that unpacks to them, would fill the memory.
"""

import socket
import threading
from contextlib import suppress
from time import monotonic
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

MOST_BYTES = 4_000_000
"""Most bytes of a response, unpacked; a page of 1,000 candles has some 90,000."""

_PIECE = 65_536


class BoundedAdapter(HTTPAdapter):
    """Reads a whole response before returning it, or raises; follows no redirect.

    Args:
        most_s: Longest time until the last byte of a response, seconds, headers included.
        most_bytes: Most bytes of a response, unpacked.
    """

    def __init__(self, most_s: float, most_bytes: int = MOST_BYTES) -> None:
        self._most_s, self._most_bytes = most_s, most_bytes
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Use connections that give up on headers which take too long."""
        super().init_poolmanager(*args, **kwargs)
        most_s = self._most_s

        class Http(_ImpatientHead, urllib3.connection.HTTPConnection):
            limit_s = most_s

        class Https(_ImpatientHead, urllib3.connection.HTTPSConnection):
            limit_s = most_s

        class HttpPool(urllib3.HTTPConnectionPool):
            ConnectionCls = Http

        class HttpsPool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Https

        self._pools = {"http": HttpPool, "https": HttpsPool}
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> urllib3.PoolManager:
        """Return the connections through a proxy; one for SOCKS has classes of its own, which wait longer."""
        manager: urllib3.PoolManager = super().proxy_manager_for(proxy, **kwargs)
        if isinstance(manager, urllib3.ProxyManager):
            manager.pool_classes_by_scheme = self._pools
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send one request and return its response, read to the end.

        Raises:
            requests.RequestException: The response is too slow, too large, incomplete or a redirect.
        """
        give_up_s = monotonic() + self._most_s
        kwargs["stream"] = True
        response = super().send(request, *args, **kwargs)
        try:
            if response.is_redirect:
                raise requests.TooManyRedirects("the answer points elsewhere", response=response)
            response._content = self._read(response, give_up_s)
            response._content_consumed = True
            response.encoding = "utf-8"  # whatever the header says: "punycode" would take minutes for 1 MB
        finally:
            response.close()
        return response

    def _read(self, response: requests.Response, give_up_s: float) -> bytes:
        read = bytearray()
        try:
            while piece := response.raw.read1(_PIECE, decode_content=True):
                read += piece
                if len(read) > self._most_bytes:
                    raise requests.exceptions.ContentDecodingError(f"an answer of more than {self._most_bytes} bytes")
                if monotonic() > give_up_s:
                    raise requests.ReadTimeout(f"an answer that takes more than {self._most_s:g} s")
            if response.raw.length_remaining:
                raise requests.exceptions.ChunkedEncodingError("an answer that ends too early")
        except urllib3.exceptions.ReadTimeoutError as err:
            raise requests.ReadTimeout(err) from err
        except urllib3.exceptions.ProtocolError as err:
            raise requests.exceptions.ChunkedEncodingError(err) from err
        except urllib3.exceptions.HTTPError as err:
            raise requests.exceptions.ContentDecodingError(err) from err
        return bytes(read)


class _ImpatientHead:
    """A connection that is shut down if the headers of a response have not come in time."""

    limit_s: float
    sock: socket.socket | None

    def getresponse(self) -> Any:
        """Return the response once its headers have come."""
        timer = threading.Timer(self.limit_s, self._shut_down)
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()  # type: ignore[misc]  # of the connection that this is mixed into
        finally:
            timer.cancel()

    def _shut_down(self) -> None:
        if self.sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # the plain socket's, without a TLS close message
