"""How a long poll learns that what it waits for has changed. Everything runs on one event loop."""

from __future__ import annotations

import asyncio
from collections import defaultdict

__all__ = ["Signals"]


class Signals:
    """Named wake-ups. Look first, then wait, with no `await` in between: then no change is missed."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)

    def notify(self, *names: str) -> None:
        """Wakes everyone who waits for one of these names."""
        for name in names:
            for future in self._waiting.pop(name, ()):
                if not future.done():
                    future.set_result(None)

    async def wait(self, name: str, timeout_s: float) -> bool:
        """Whether `name` was notified within `timeout_s` seconds."""
        if timeout_s <= 0:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[name].add(future)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            waiting = self._waiting.get(name)
            if waiting is not None:
                waiting.discard(future)
                if not waiting:
                    del self._waiting[name]
        return True
