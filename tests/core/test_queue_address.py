"""`sqs.queue`: a name, a URL or an ARN, and what follows from it."""

import pytest

from tracker.core.queue_address import QueueAddress, parse_queue
from tracker.errors import ConfigurationError

ACCOUNT = "123456789012"

# What is written, and the Region, the account and the endpoint that it gives.
FORMS: list[tuple[str, str | None, str | None, str | None]] = [
    ("visits", None, None, None),
    (f"arn:aws:sqs:eu-west-1:{ACCOUNT}:visits", "eu-west-1", ACCOUNT, None),
    (f"arn:aws-cn:sqs:cn-northwest-1:{ACCOUNT}:visits", "cn-northwest-1", ACCOUNT, None),
    (f"arn:aws-us-gov:sqs:us-gov-west-1:{ACCOUNT}:visits", "us-gov-west-1", ACCOUNT, None),
    (f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/visits", "eu-west-1", ACCOUNT, None),
    (f"https://sqs.us-gov-east-1.amazonaws.com/{ACCOUNT}/visits", "us-gov-east-1", ACCOUNT, None),
    (f"https://sqs.cn-north-1.amazonaws.com.cn/{ACCOUNT}/visits", "cn-north-1", ACCOUNT, None),
    (f"https://queue.amazonaws.com/{ACCOUNT}/visits", "us-east-1", ACCOUNT, None),
    (f"https://eu-west-1.queue.amazonaws.com/{ACCOUNT}/visits", "eu-west-1", ACCOUNT, None),
    (f"https://cn-north-1.queue.amazonaws.com.cn/{ACCOUNT}/visits", "cn-north-1", ACCOUNT, None),
    (f"https://SQS.EU-WEST-1.amazonaws.com/{ACCOUNT}/visits", "eu-west-1", ACCOUNT, None),
    *(
        (f"{endpoint}/{ACCOUNT}/visits", region, ACCOUNT, endpoint)
        for endpoint, region in (
            ("https://vpce-0a1b-2c3d.sqs.eu-west-1.vpce.amazonaws.com", "eu-west-1"),
            ("https://vpce-0a1b-2c3d-eu-west-1a.sqs.eu-west-1.vpce.amazonaws.com", "eu-west-1"),
            ("https://vpce-0a1b.sqs.cn-north-1.vpce.amazonaws.com.cn", "cn-north-1"),
            ("https://sqs-fips.us-east-1.amazonaws.com", "us-east-1"),
            ("https://sqs.eu-central-1.api.aws", "eu-central-1"),
            ("http://127.0.0.1:4566", None),
            ("http://[::1]:4566", None),
            ("http://localhost:9324", None),
            ("http://sqs.us-east-1.localhost.localstack.cloud:4566", "us-east-1"),
            ("http://broker.internal", None),
        )
    ),
    (f"http://localhost:4566/queue/eu-west-2/{ACCOUNT}/visits", "eu-west-2", ACCOUNT, "http://localhost:4566"),
    ("http://localhost:9324/queue/visits", None, None, "http://localhost:9324"),
]


@pytest.mark.parametrize(("text", "region", "account", "endpoint"), FORMS)
def test_a_queue_is_a_name_a_url_or_an_arn(
    text: str, region: str | None, account: str | None, endpoint: str | None
) -> None:
    url = text if "://" in text else None
    assert parse_queue(text) == QueueAddress("visits", region, account, url, endpoint)


@pytest.mark.parametrize(
    "text",
    [
        *("", "visits.fifo", "my queue", "v" * 81, "visits/", "fußball", "sqs.eu-west-1.amazonaws.com/1/visits"),
        *(f"arn:aws:sqs:eu-west-1:{ACCOUNT}:visits.fifo", f"arn:aws:sns:eu-west-1:{ACCOUNT}:visits", "arn:aws:sqs:::v"),
        *(f"arn:aws:sqs::{ACCOUNT}:visits", "arn:aws:sqs:eu-west-1:12:visits", f"arn:aws:sqs:eu-west-1:{ACCOUNT}:a:b"),
        *("https://sqs.eu-west-1.amazonaws.com/visits", f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/visits.fifo"),
        *(
            f"ftp://localhost/{ACCOUNT}/visits",
            f"https:///{ACCOUNT}/visits",
            "http://localhost:4566",
            "http://[::1/0/v",
        ),
        *(f"http://user:word@localhost/{ACCOUNT}/visits", f"http://localhost:x/{ACCOUNT}/visits"),
        *(f"https://queue.amazonaws.com/{ACCOUNT}/visits?Action=x", f"http://local host/{ACCOUNT}/visits"),
    ],
)
def test_anything_else_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"expected a queue that is no FIFO queue: its name .* its ARN"):
        parse_queue(text)
