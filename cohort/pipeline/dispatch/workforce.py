"""Who is there to work: threads and memory of a cluster's workers, and whether anybody is left."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cohort.pipeline.dispatch.stopping import Stop

if TYPE_CHECKING:
    from distributed import Client

LOOK_SECONDS = 2.0
"""How often the scheduler is asked."""

NO_WORKERS_SECONDS = 120.0
"""How long it may have no workers, unless Dask's ``distributed.scheduler.no-workers-timeout`` says otherwise."""

CONNECTION_SECONDS = 10.0
"""How long its connection may be away."""


class Workforce:
    """The workers of a client, looked at now and then; a call without any is told to stop.

    Parameters
    ----------
    client : Client
    stop : Stop
        Gets the reason when nobody is left.
    """

    def __init__(self, client: "Client", stop: Stop) -> None:
        import dask
        from dask.utils import parse_timedelta

        stated = dask.config.get("distributed.scheduler.no-workers-timeout", None)
        self._patience = NO_WORKERS_SECONDS if stated is None else float(parse_timedelta(stated))
        self._client, self._stop = client, stop
        self._workers: dict[str, int] = {}
        self._looked = 0.0
        self._here = time.monotonic()
        """When there was a worker, the last time it was looked."""
        self.threads = 1
        self.memory = 0
        self.gone = False
        """Whether nothing that is under way will come to an end."""

    def look(self) -> None:
        """Ask the scheduler for its workers, every `LOOK_SECONDS` at most."""
        now = time.monotonic()
        if self.gone or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        if self._client.status != "running":
            self.lost()
            return
        try:
            workers = dict(self._client.nthreads())
        except (OSError, TimeoutError):
            self.lost()
            return
        if workers:
            self._here = now
        elif now - self._here >= self._patience:
            self._give_up(f"no worker is left, for {now - self._here:.0f} s")
        if workers != self._workers:
            self._workers = workers
            self.threads = max(1, sum(workers.values()))
            found = self._client.scheduler_info(n_workers=-1)["workers"].values()
            limits = [w["memory_limit"] for w in found]
            # A worker without a limit does not say what it has.
            self.memory = sum(limits) if all(limits) else 1 << 62

    def lost(self) -> None:
        """Note that the scheduler is gone, and everything under way with it."""
        self._give_up("the scheduler does not answer any more")

    def tell(self, function: Callable[..., Any]) -> None:
        """Call a function with `dask_worker` on every worker, without waiting: one that hangs must not hold up the others."""

        def run() -> None:
            try:
                self._client.run(function, on_error="ignore")
            except Exception:  # noqa: BLE001 - who cannot be told is gone, and its work with it
                return

        threading.Thread(target=run, daemon=True).start()

    def _give_up(self, reason: str) -> None:
        self.gone = True
        self._stop.give_up(reason)
