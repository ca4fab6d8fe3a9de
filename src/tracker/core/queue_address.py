"""The key `sqs.queue`: a queue's name, its URL or its ARN, and what each of these says about Region and account.

| form | example | it names |
|---|---|---|
| name | `visits` | a queue of the caller's own account |
| ARN | `arn:aws-cn:sqs:cn-north-1:123456789012:visits` | the Region and the account |
| URL of AWS | `https://sqs.eu-west-1.amazonaws.com/123456789012/visits` | the Region and the account |
| older URLs | `https://queue.amazonaws.com/…` (us-east-1), `https://eu-west-1.queue.amazonaws.com/…` | the same |
| VPC endpoint | `https://vpce-….sqs.eu-west-1.vpce.amazonaws.com/…` | the Region, and the endpoint to call |
| FIPS, IPv6 | `https://sqs-fips.us-east-1.amazonaws.com/…`, `https://sqs.eu-west-1.api.aws/…` | the same |
| another broker | `http://127.0.0.1:4566/000000000000/visits` | the endpoint to call |

https://docs.aws.amazon.com/general/latest/gr/sqs-service.html lists AWS's hosts.
"""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from tracker.errors import ConfigurationError

EXPECTATION = (
    "a queue that is no FIFO queue: its name (letters, digits, - and _, at most 80), its URL or its ARN, "
    "arn:aws:sqs:REGION:ACCOUNT:NAME"
)

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
_REGION = r"[a-z]{2,}(?:-[a-z]+)+-[0-9]{1,2}"
_ARN = re.compile(rf"arn:aws(?:-[a-z]+)*:sqs:({_REGION}):([0-9]{{12}}):([^:]*)")
_AWS_HOST = re.compile(rf"(?:sqs\.({_REGION})|(?:({_REGION})\.)?queue)\.amazonaws\.com(?:\.cn)?")
_REGION_IN_HOST = re.compile(rf"(?:^|\.)sqs(?:-fips)?\.({_REGION})\.")
_REGION_IN_PATH = re.compile(rf"/queue/({_REGION})/")  # LocalStack's URLs with SQS_ENDPOINT_STRATEGY=path


class QueueAddress(NamedTuple):
    """What a text of the key says. `endpoint` is None for AWS's own endpoint of the Region."""

    name: str
    region: str | None = None
    account: str | None = None
    url: str | None = None
    endpoint: str | None = None


def parse_queue(text: str) -> QueueAddress:
    """The address that `text` is. Raises ConfigurationError with what was expected."""
    address: QueueAddress | None
    if "://" in text:
        address = _from_url(text)
    elif text.startswith("arn:"):
        found = _ARN.fullmatch(text)
        address = QueueAddress(found[3], found[1], found[2]) if found else None
    else:
        address = QueueAddress(text)
    if address is None or not _NAME.fullmatch(address.name):
        raise ConfigurationError(f"expected {EXPECTATION}, got {text!r}")
    return address


def _from_url(text: str) -> QueueAddress | None:
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        _ = parts.port  # raises ValueError for a port that is none
    except ValueError:
        return None
    segments = parts.path.split("/")
    plain = re.fullmatch(r"[!-~]+", text) and not (parts.username or parts.password or parts.query or parts.fragment)
    if parts.scheme not in ("http", "https") or not host or not plain or len(segments) < 3:
        return None
    account = segments[-2] if re.fullmatch(r"[0-9]{12}", segments[-2]) else None
    if aws := _AWS_HOST.fullmatch(host):
        if account is None:
            return None
        default = "cn-north-1" if host.endswith(".cn") else "us-east-1"
        return QueueAddress(segments[-1], aws[1] or aws[2] or default, account, text)
    region = _REGION_IN_HOST.search(host) or _REGION_IN_PATH.match(parts.path)
    return QueueAddress(segments[-1], region[1] if region else None, account, text, f"{parts.scheme}://{parts.netloc}")
