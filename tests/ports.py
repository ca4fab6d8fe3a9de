"""TCP ports of the loopback for servers of the tests: free, each given once a run, and no outgoing connection's."""

import itertools
import random
import socket

# Below the range from which Linux and macOS take the ports of outgoing connections.
_candidates = itertools.cycle(random.sample(range(15_000, 32_000), 17_000))


def free_port() -> int:
    """A port nobody listens on."""
    for port in _candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("an endless cycle has ended")
