"""SNS and SQS of our own over real HTTP: what AWS documents, where moto is otherwise, and faults on demand.

`queues` and `topics` are the two services without a socket or a loop, `faults` decides what goes wrong, `protocol` is
what is on the wire, `world` does what a call asks for, and `server` is the ports. Nothing here imports `tracker`.
"""

from tests.fake_aws.server import Endpoint, FakeAws

__all__ = ["Endpoint", "FakeAws"]
