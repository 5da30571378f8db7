"""Send queue of one client: answers are sent at once, messages after a delay, each in order."""

import asyncio
from collections import deque
from collections.abc import Iterable

from tasks.sandbox.stream_faults import Item

FINAL, CONTINUATION, TEXT, PING = 0x80, 0x0, 0x1, 0x9  # of a frame's first byte, RFC 6455


class Outbox:
    """A queue with two lanes; messages are delayed by `delay_s` real seconds."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()
        self._ready: deque[Item | bytes] = deque()
        self._under_way: deque[tuple[float, Item | bytes]] = deque()
        self._filled = asyncio.Event()

    def answer(self, text: str) -> None:
        """Send a text at once."""
        self._ready.append(text)
        self._filled.set()

    def message(self, items: Iterable[Item | bytes]) -> None:
        """Send these after the delay; bytes are the content of a ping frame."""
        if self._delay_s:
            due = self._loop.time() + self._delay_s
            self._under_way.extend((due, item) for item in items)
        else:
            self._ready.extend(items)
        self._filled.set()

    async def take(self) -> list[str] | Item | bytes:
        """Wait for the next items to send: several consecutive texts, or one other item.

        Texts are batched, because a write for each would take more time than everything else.
        """
        while not self._ready:
            self._arrive()
            if not self._ready:
                await self._wait()
        if not isinstance(self._ready[0], str):
            return self._ready.popleft()
        texts: list[str] = []
        while self._ready and isinstance(text := self._ready[0], str):
            texts.append(text)
            self._ready.popleft()
        return texts

    def _arrive(self) -> None:
        while self._under_way and self._under_way[0][0] <= self._loop.time():
            self._ready.append(self._under_way.popleft()[1])

    async def _wait(self) -> None:
        self._filled.clear()
        due = self._under_way[0][0] if self._under_way else None
        try:
            async with asyncio.timeout_at(due):
                await self._filled.wait()
        except TimeoutError:
            pass  # the next one is due


def frame(payload: bytes, opcode: int = TEXT, *, final: bool = True) -> bytes:
    """Return a server's frame, which is not masked (RFC 6455, sec. 5.2)."""
    size = len(payload)
    if size < 126:
        length = bytes([size])
    elif size < 1 << 16:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    return bytes([(FINAL if final else 0) | opcode]) + length + payload


def frames(payload: bytes, count: int) -> bytes:
    """Return a text in up to `count` frames."""
    size = -(-len(payload) // count)
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    opcodes = [TEXT] + [CONTINUATION] * (len(parts) - 1)
    return b"".join(frame(part, opcode, final=part is parts[-1]) for part, opcode in zip(parts, opcodes, strict=True))
