"""The two protocols: requests and replies in SNS's query protocol and in SQS's JSON."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from uuid import uuid4
from xml.sax.saxutils import escape

from tests.fake_aws.queues import Attribute, AwsError, Received, Sent


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Call(NamedTuple):
    """A request, understood: the service is known by how it is asked."""

    service: str
    action: str
    parameters: dict[str, Any]


def parse(target: str, body: bytes) -> Call:
    if target:
        return Call("sqs", target.rpartition(".")[2], json.loads(body or b"{}"))
    form = _tree(parse_qsl(body.decode(), keep_blank_values=True))
    return Call("sns", form["Action"], form)


def received(deliveries: Iterable[Received]) -> Reply:
    """The answer to a ReceiveMessage."""
    messages = [_delivery(each) for each in deliveries]
    return json_reply({"Messages": messages} if messages else {})


def refusal(call: Call, error: AwsError) -> Reply:
    fault = "Sender" if error.status < 500 else "Receiver"
    if call.service == "sns":
        inner = f"<Type>{fault}</Type><Code>{error.code}</Code><Message>{escape(error.message)}</Message>"
        text = f"<ErrorResponse><Error>{inner}</Error><RequestId>{uuid4()}</RequestId></ErrorResponse>"
        return Reply(error.status, {"Content-Type": "text/xml"}, text.encode())
    headers = {"Content-Type": "application/x-amz-json-1.0", "x-amzn-query-error": f"{error.code};{fault}"}
    body = {"__type": f"com.amazonaws.sqs#{error.code}", "message": error.message}
    return Reply(error.status, headers, json.dumps(body).encode())


def sns_message(form: dict[str, Any]) -> Sent:
    attributes = {
        each["Name"]: Attribute(each["Value"]["DataType"], each["Value"]["StringValue"])
        for each in members(form, "MessageAttributes")
    }
    return Sent(form["Message"], attributes)


def _delivery(received: Received) -> dict[str, Any]:
    message = received.message
    attributes = message.sent.attributes.items()
    return {
        "MessageId": message.id,
        "ReceiptHandle": received.receipt,
        "MD5OfBody": md5(message.sent.body),
        "Body": message.sent.body,
        "Attributes": {
            "SentTimestamp": str(int(message.sent_at * 1000)),
            "ApproximateReceiveCount": received.receipt.rpartition("#")[2],
        },
        "MessageAttributes": {
            name: {"DataType": each.data_type, "StringValue": each.value} for name, each in attributes
        },
    }


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _tree(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The nested form of `a.b.1.c=value`."""
    root: dict[str, Any] = {}
    for key, value in pairs:
        node = root
        *path, last = key.split(".")
        for name in path:
            node = node.setdefault(name, {})
        node[last] = value
    return root


def members(form: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The numbered members of a list or map, in their order."""
    (numbered,) = form.get(name, {"member": {}}).values()
    return [numbered[number] for number in sorted(numbered, key=int)]


def xml_member(entry: dict[str, Any]) -> str:
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in entry.items()}
    return "<member>" + "".join(f"<{name}>{escape(text)}</{name}>" for name, text in texts.items()) + "</member>"


def xml_reply(action: str, result: str) -> Reply:
    text = (
        f'<{action}Response xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><{action}Result>{result}</{action}Result>'
        f"<ResponseMetadata><RequestId>{uuid4()}</RequestId></ResponseMetadata></{action}Response>"
    )
    return Reply(200, {"Content-Type": "text/xml"}, text.encode())


def json_reply(result: dict[str, Any]) -> Reply:
    return Reply(200, {"Content-Type": "application/x-amz-json-1.0"}, json.dumps(result).encode())
