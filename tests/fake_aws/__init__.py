"""SNS and SQS of our own: what AWS documents, also where moto differs from it, and faults on demand.

`queues` and `topics` are the two services, `faults` decides what goes wrong, and `world` does what a call asks for.
Three ways lead to them: `server` has ports that fail on demand; `in_memory` has a topic and a queue for tests in one
event loop; `benchmarks.fake_aws` is a process that takes little time. `http` and `protocol` are what is on the wire.
Nothing here but `in_memory` imports `tracker`.
"""

from tests.fake_aws.server import Endpoint, FakeAws

__all__ = ["Endpoint", "FakeAws"]
