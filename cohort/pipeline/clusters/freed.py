"""Memory that a worker has freed and its allocator still holds: given back before Dask takes it for used."""

from distributed import Worker, WorkerPlugin
from tornado.ioloop import PeriodicCallback

from cohort.kernels import heap

SHARE = 0.6
"""Of a worker's limit: from here on freed memory goes back. Dask pauses a worker at 0.8 of it."""

INTERVAL_MS = 500
"""Between two looks at a worker's memory."""


class GiveBack(WorkerPlugin):
    """Has each worker give freed memory back to the system when it comes near its limit.

    Dask judges a worker by its resident memory, in which glibc's freed but not returned heap counts, and a paused worker
    frees nothing more: its last task would wait for ever.
    """

    name = "cohort-give-back"
    idempotent = True

    def setup(self, worker: Worker) -> None:
        """Begin to look, on the event loop, which goes on while a worker is paused."""
        limit = worker.memory_manager.memory_limit
        if not limit or not heap.available():
            return

        def look() -> None:
            if worker.monitor.get_process_memory() > SHARE * limit:
                heap.give_back()

        self._looking = PeriodicCallback(look, INTERVAL_MS)
        self._looking.start()

    def teardown(self, worker: Worker) -> None:
        """Look no more."""
        if hasattr(self, "_looking"):
            self._looking.stop()
