"""The two protocols: SNS's query protocol (forms and XML) and SQS's JSON, as the same calls and results."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from uuid import uuid4
from xml.sax.saxutils import escape

import msgspec

from tests.fake_aws.http import Reply, Request
from tests.fake_aws.queues import AwsError

_JSON = "application/x-amz-json-1.0"


class Call(NamedTuple):
    """A request, understood: the service is known by how it is asked."""

    service: str
    action: str
    parameters: dict[str, Any]


def parse(request: Request) -> Call:
    if request.target:
        return Call("sqs", request.target.rpartition(".")[2], json.loads(request.body or b"{}"))
    form = _nested(parse_qsl(request.body.decode(), keep_blank_values=True))
    return Call("sns", form["Action"], form)


def success(call: Call, result: dict[str, Any]) -> Reply:
    if call.service == "sqs":
        return Reply(200, _JSON, msgspec.json.encode(result))
    text = (
        f'<{call.action}Response xmlns="http://sns.amazonaws.com/doc/2010-03-31/">'
        f"<{call.action}Result>{_xml(result)}</{call.action}Result>"
        f"<ResponseMetadata><RequestId>{uuid4()}</RequestId></ResponseMetadata></{call.action}Response>"
    )
    return Reply(200, "text/xml", text.encode())


def refusal(call: Call, error: AwsError) -> Reply:
    fault = "Sender" if error.status < 500 else "Receiver"
    if call.service == "sns":
        inner = _xml({"Error": {"Type": fault, "Code": error.code, "Message": error.message}, "RequestId": uuid4()})
        return Reply(error.status, "text/xml", f"<ErrorResponse>{inner}</ErrorResponse>".encode())
    body = {"__type": f"com.amazonaws.sqs#{error.code}", "message": error.message}
    return Reply(error.status, _JSON, json.dumps(body).encode(), f"x-amzn-query-error: {error.code};{fault}\r\n")


def _nested(pairs: Iterable[tuple[str, str]]) -> Any:
    """The nested form of `a.member.1.b=value`, with its lists (`member`) and maps (`entry`)."""
    root: dict[str, Any] = {}
    for key, value in pairs:
        node = root
        *path, last = key.split(".")
        for name in path:
            node = node.setdefault(name, {})
        node[last] = value
    return _plain(root)


def _plain(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    plain = {name: _plain(value) for name, value in node.items()}
    if plain.keys() == {"member"}:
        return [plain["member"][number] for number in sorted(plain["member"], key=int)]
    if plain.keys() == {"entry"}:  # each is a name and a value, in this order
        return dict(tuple(entry.values()) for entry in plain["entry"].values())
    return plain


def _xml(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(f"<{name}>{_xml(inner)}</{name}>" for name, inner in value.items())
    if isinstance(value, list):
        return "".join(f"<member>{_xml(inner)}</member>" for inner in value)
    return str(value).lower() if isinstance(value, bool) else escape(str(value))
