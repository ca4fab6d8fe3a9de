"""The form that is sent to SNS has the same parameters as botocore's own, and its signature is that of its bytes."""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from tracker.aws import open_topic
from tracker.aws.form import escape, write_form
from tracker.config import SnsConfig
from tracker.core.message import Message, pack

ARN = "arn:aws:sns:us-east-1:000000000000:tracking"
JOURNAL = "0123456789abcdef" * 2
ODD = "".join(map(chr, range(1, 0x180))) + "%41 +&=%\U0001f600\u2028"

texts = st.text(st.characters(exclude_categories=["Cs"]))


def parsed(body: bytes) -> list[tuple[str, str]]:
    return parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True)


@given(st.dictionaries(texts.filter(bool), texts, min_size=1))
def test_a_form_has_the_parameters_that_botocore_would_send(form: dict[str, str]) -> None:
    params: dict[str, Any] = {"body": form}
    write_form(params)
    assert parsed(params["body"]) == parsed(urlencode(form, doseq=True).encode()) == list(form.items())


@pytest.mark.parametrize("length", range(4))
def test_of_base64url_only_the_padding_is_escaped(length: int) -> None:
    text = "AZaz09-_"[:length] + "=="
    assert escape(text) == text.replace("=", "%3D").encode()


def test_a_body_that_is_no_form_is_sent_as_it_is() -> None:
    params: dict[str, Any] = {"body": b"a=%41"}
    write_form(params)
    assert params == {"body": b"a=%41"}


def messages(count: int) -> list[Message]:
    lines = b'{"Referer":null}\n' * 500
    sent = [pack(JOURNAL, index, lines[: 17 * (index + 1)], compress=index % 2 == 0) for index in range(count - 1)]
    return [*sent, Message(JOURNAL, 0, 1, 1, ODD, {"Type": "Visit", "Odd": ODD})]


def signature_of(headers: Mapping[str, str], url: str, body: bytes) -> str:
    """What botocore signs `body` with. The headers that it signs are named in the request."""
    request = AWSRequest("POST", url, data=body)
    signed = headers["Authorization"].partition("SignedHeaders=")[2].partition(",")[0]
    for name in set(signed.split(";")) - {"host"}:
        request.headers[name] = headers[name]
    request.context["timestamp"] = headers["X-Amz-Date"]
    auth = SigV4Auth(Credentials("mine", "secret"), "sns", "us-east-1")
    return str(auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request))


@pytest.mark.parametrize("count", [1, 8])
async def test_what_sns_receives_is_what_was_published_and_is_signed_as_it_is(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    received: asyncio.Future[tuple[Mapping[str, str], bytes]] = asyncio.get_running_loop().create_future()

    async def answer(request: web.Request) -> web.Response:
        if not received.done():
            received.set_result((request.headers.copy(), await request.read()))
        return web.Response(status=500)

    app = web.Application()
    app.router.add_post("/", answer)
    sent = messages(count)
    async with TestServer(app) as server:
        url = str(server.make_url("/"))
        async with open_topic(SnsConfig(topic_arn=ARN, endpoint_url=url)) as topic:
            await topic.publish(sent)
    headers, body = await received
    form = dict(parsed(body))
    assert [form[name] for name in form if name == "Message" or name.endswith(".Message")] == [m.body for m in sent]
    values = [form[name] for name in form if name.endswith(".Value.StringValue")]
    assert values == [value for message in sent for value in message.attributes.values()]
    assert form["Action"] == ("Publish" if count == 1 else "PublishBatch")
    assert form["TopicArn"] == ARN
    assert headers["Authorization"].endswith(f"Signature={signature_of(headers, url, body)}")
