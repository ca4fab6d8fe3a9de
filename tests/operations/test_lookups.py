"""A queue may be named by its name, its URL or its ARN; Region and account come from the latter two."""

import pytest

from tracker.operations.lookups import QueueAddress, parse_queue

ACCOUNT = "123456789012"


@pytest.mark.parametrize(
    ("text", "account", "region"),
    [
        ("visits", None, None),
        (f"arn:aws:sqs:eu-west-1:{ACCOUNT}:visits", ACCOUNT, "eu-west-1"),
        (f"arn:aws-cn:sqs:cn-north-1:{ACCOUNT}:visits", ACCOUNT, "cn-north-1"),
        (f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/visits", ACCOUNT, "eu-west-1"),
        (f"https://sqs.cn-north-1.amazonaws.com.cn/{ACCOUNT}/visits", ACCOUNT, "cn-north-1"),
        (f"https://sqs-fips.us-east-2.amazonaws.com/{ACCOUNT}/visits", ACCOUNT, "us-east-2"),
        (f"https://eu-west-1.queue.amazonaws.com/{ACCOUNT}/visits", ACCOUNT, "eu-west-1"),
        (f"https://queue.amazonaws.com/{ACCOUNT}/visits", ACCOUNT, "us-east-1"),
        (f"https://vpce-0a1-b2.sqs.eu-west-1.vpce.amazonaws.com/{ACCOUNT}/visits", ACCOUNT, "eu-west-1"),
        (f"http://127.0.0.1:4566/{ACCOUNT}/visits", ACCOUNT, None),
        ("http://localhost:4566/queue/visits", "queue", None),
    ],
)
def test_account_and_region_are_read_from_a_queues_url_and_arn(
    text: str, account: str | None, region: str | None
) -> None:
    assert parse_queue(text) == QueueAddress(text, "visits", account, region)
