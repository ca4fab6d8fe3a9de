"""SNS, SQS and S3 as the others see them.

`SnsTopic` publishes messages, `SqsQueue` receives deliveries, `S3Bucket` keeps the archive, and `S3Versions` has all
versions of its objects.

No other package imports botocore. The modules, from the caller down:

1. `topic`, `queue`, `bucket` and `versions` implement the interfaces that the services and the archive use.
   `object_settings` knows what an object of S3 keeps when it is replaced.
2. `calls` makes one call: its deadline, its errors, and the check of its reply.
3. `clients` makes botocore's clients and keeps their credentials valid, with `credential_helper`.
4. `settings` reads the settings of the AWS tools before a service starts, and finds what is wrong with them.
5. `data_files` reads the descriptions of the services that botocore ships.
6. `form` writes the body of a request to SNS.
7. `http` sends the requests and checks that a reply comes from SNS or SQS.

Every failure of AWS is raised as one of the errors of `tracker.errors`. botocore repeats a failed call once. The
callers handle outages of any length: they try again, after longer and longer pauses.
"""

from tracker.aws.bucket import bucket_and_prefix, open_bucket
from tracker.aws.calls import ask, incomplete_reply, open_client
from tracker.aws.queue import SqsQueue, open_queue, queue_parameters
from tracker.aws.settings import read_settings
from tracker.aws.topic import BATCH_BYTES, SnsTopic, open_topic

__all__ = [
    "BATCH_BYTES",
    "SnsTopic",
    "SqsQueue",
    "ask",
    "bucket_and_prefix",
    "incomplete_reply",
    "open_bucket",
    "open_client",
    "open_queue",
    "open_topic",
    "queue_parameters",
    "read_settings",
]
