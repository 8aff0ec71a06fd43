"""Ports for the servers that tests bring up."""

import socket
from contextlib import ExitStack


def free_ports(n: int) -> list[int]:
    """Ports of the loopback on which nobody listens."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
