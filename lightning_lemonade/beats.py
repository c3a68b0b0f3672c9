"""Who hears whether workers are alive: apart, since its process then imports nothing else, which would take it seconds."""

import time


class Beats:
    """Hears signs of life. An actor beside the controller."""

    def __init__(self) -> None:
        self._heard, self._began = dict[int, float](), time.monotonic()

    def beat(self, worker: int) -> None:
        """Notes a sign of life."""
        self._heard[worker] = time.monotonic()

    def silence(self) -> tuple[float, dict[int, float]]:
        """Returns for how many seconds this actor has listened, and heard nothing of each worker that it ever heard of."""
        now = time.monotonic()
        return now - self._began, {worker: now - heard for worker, heard in self._heard.items()}
