"""What a client takes from the machine it runs on: time and chance. A test gives it its own."""

from __future__ import annotations

import asyncio
import random
import time

__all__ = ["Surroundings"]


class Surroundings:
    """Those of the system; override what a test wants to own."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, by the wall clock: it must mean the same after a restart."""
        return time.time_ns() // 1_000_000

    def draw(self, at_least_ms: int, at_most_ms: int) -> int:
        """A number in this range, each as likely as any other."""
        return random.SystemRandom().randint(at_least_ms, at_most_ms)

    def sleep(self, pause_ms: int) -> None:
        """Waits; for `Client`."""
        time.sleep(pause_ms / 1000)

    async def sleep_async(self, pause_ms: int) -> None:
        """Waits; for `AsyncClient`."""
        await asyncio.sleep(pause_ms / 1000)
