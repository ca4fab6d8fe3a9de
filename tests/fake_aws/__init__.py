"""SNS and SQS of our own over real HTTP: what AWS documents, where moto is otherwise, and faults on demand.

`messaging` is the two services without a socket or a loop, `faults` decides what goes wrong, `calls` speaks the two
protocols, and `server` puts them on ports of the loopback. Nothing here imports `tracker`.
"""

from tests.fake_aws.server import Endpoint, FakeAws

__all__ = ["Endpoint", "FakeAws"]
