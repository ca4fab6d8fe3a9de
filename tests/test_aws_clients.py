"""SNS and SQS as they should not be: credential providers that hang or fail, redirects, answers that are not AWS's.

All of it runs through `tracker.aws` with the real botocore, against small servers of our own.
"""

import asyncio
import contextlib
import gzip
import json
import logging
import os
import signal
import stat
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.waiting import until
from tracker.aws import SnsTopic, ask, calls, clients, credential_helper, open_client, open_queue, open_topic
from tracker.config import SnsConfig, SqsConfig
from tracker.core.delivery import Delivery, Queue
from tracker.core.message import Message, pack
from tracker.core.visit import encode_line
from tracker.errors import AwsRefused, AwsUnreachable, PublishFailed, QueueFailed
from tracker.operations.findings import Level
from tracker.operations.lookups import queue_attributes, queue_url
from tracker.operations.provision import Names, provision
from tracker.operations.redrive import redrive
from tracker.operations.remedies import Setup
from tracker.operations.topic_checks import check_topic, with_aws_errors

REGION = "us-east-1"
ARN = f"arn:aws:sns:{REGION}:000000000000:tracking"
LINE = encode_line("2026-11-23T07:09:24.932706+00:00", None, "agent", "192.0.2.1")
XMLNS = 'xmlns="http://sns.amazonaws.com/doc/2010-03-31/"'


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """AWS settings of the test's own: a profile is in the file `config`, if there is one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


def messages(count: int) -> list[Message]:
    return [pack("0123456789abcdef" * 2, index * len(LINE), LINE, compress=False) for index in range(count)]


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers every request as `answer` says, and counts them."""

    def __init__(self) -> None:
        self.answer: Answer = self._accept
        self.requests = 0
        self.authorization = ""
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self.server = TestServer(app)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        self.authorization = request.headers.get("Authorization", "")
        return await self.answer(request)

    async def _accept(self, request: web.Request) -> web.StreamResponse:
        """A sound answer to a Publish or a ReceiveMessage."""
        if "X-Amz-Target" in request.headers:
            return web.Response(text="{}", content_type="application/x-amz-json-1.0")
        return web.Response(text=publish_xml("<MessageId>m</MessageId>"), content_type="text/xml")

    @property
    def url(self) -> str:
        return str(self.server.make_url("/"))

    @property
    def sns(self) -> SnsConfig:
        return SnsConfig(topic_arn=ARN, endpoint_url=self.url)

    @property
    def sqs(self) -> SqsConfig:
        return SqsConfig(queue=f"{self.url}000000000000/visits", region=REGION, endpoint_url=self.url)

    @property
    def by_name(self) -> SqsConfig:
        return SqsConfig(queue="visits", region=REGION, endpoint_url=self.url)


@asynccontextmanager
async def running_server() -> AsyncIterator[Server]:
    made = Server()
    await made.server.start_server()
    yield made
    await made.server.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with running_server() as made:
        yield made


@pytest.fixture
async def elsewhere() -> AsyncIterator[Server]:
    """Where redirects point to."""
    async with running_server() as made:
        yield made


@pytest.fixture
async def mute() -> AsyncIterator[str]:
    """An address at which every connection is taken and nothing is ever answered."""
    over = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    listening = await asyncio.start_server(hold, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    over.set()
    listening.close()


def publish_xml(result: str, operation: str = "Publish") -> str:
    return (
        f"<{operation}Response {XMLNS}><{operation}Result>{result}</{operation}Result>"
        f"<ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></{operation}Response>"
    )


# -- Answers that are not AWS's -------------------------------------------------------------------------------


def answering(status: int, body: str | bytes = "", **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        data = body.encode() if isinstance(body, str) else body
        return web.Response(status=status, body=data, headers={"Content-Type": "text/xml", **headers})

    return answer


XHTML = "<html><head><title>Sign in</title></head><body><p>Please log in</p></body></html>"
ANSWERS = {
    "html": answering(200, "<html><p>Please log in"),
    "well-formed html": answering(200, XHTML),
    "empty": answering(200),
    "blanks": answering(200, " \n"),
    "no content": answering(204),
    "accepted for later": answering(202, "{}"),
    "another json": answering(200, '{"status": "ok"}'),
    "json array": answering(200, "[]"),
    "json null": answering(200, "null"),
    "json string": answering(200, '"Messages"'),
    "json of other types": answering(
        200, '{"Messages": 5, "QueueUrl": 5, "Attributes": 5, "Successful": "x", "MessageId": 5, "Failed": {}}'
    ),
    "truncated json": answering(200, '{"Messages": [{"Message'),
    "truncated xml": answering(200, publish_xml("<MessageId>m</MessageId>")[:-40]),
    "no result": answering(200, f"<PublishResponse {XMLNS}/>"),
    "no id": answering(200, publish_xml("")),
    "empty id": answering(200, publish_xml("<MessageId/>")),
    "no entries": answering(200, publish_xml("", "PublishBatch")),
    "another operation": answering(200, publish_xml("<TopicArn>a</TopicArn>", "CreateTopic")),
    "not text": answering(200, b"\xff\xfe\x00\x01" * 20),
    "compressed": answering(200, gzip.compress(b"{}"), **{"Content-Encoding": "gzip"}),
    "not modified": answering(304),
    "redirect to nowhere": answering(301),
    "html error": answering(403, "<html><p>Forbidden"),
    "well-formed html error": answering(403, XHTML),
    "empty error": answering(404),
    "another service's error": answering(403, "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"),
}
DELIVERIES = [Delivery("m", "receipt", "body", {}, 0, 1, 0.0)]
QUEUE_CALLS: dict[str, Callable[[Queue], Awaitable[object]]] = {
    "receive": lambda queue: queue.receive(0),
    "delete": lambda queue: queue.delete(DELIVERIES),
    "change_visibility": lambda queue: queue.change_visibility(DELIVERIES, 30),
    "attributes": lambda queue: queue.attributes(),
}


async def test_an_answer_that_is_not_of_sns_is_a_failure_and_neither_acceptance_nor_refusal(server: Server) -> None:
    async with open_topic(server.sns) as topic:
        for name, server.answer in ANSWERS.items():
            for count in (1, 3):
                outcomes = await topic.publish(messages(count))
                assert [type(outcome) for outcome in outcomes] == [PublishFailed] * count, name
                assert str(outcomes[0]), name


async def test_an_answer_that_is_not_of_sqs_is_a_failure_and_not_an_empty_queue(server: Server) -> None:
    async with open_queue(server.sqs) as queue, open_queue(server.by_name) as unknown:
        for name, server.answer in ANSWERS.items():
            for call in [make(queue) for make in QUEUE_CALLS.values()] + [unknown.ready()]:
                error = await raised_by(call)
                assert isinstance(error, QueueFailed), name
                assert str(error), name


async def raised_by(call: Awaitable[object]) -> Exception | None:
    try:
        await call
    except Exception as error:
        return error
    return None


async def test_an_answer_that_names_no_entry_confirms_nothing(server: Server) -> None:
    server.answer = answering(200, "{}")
    async with open_queue(server.by_name) as unknown:
        with pytest.raises(QueueFailed, match="QueueUrl"):
            await unknown.ready()
    async with open_queue(server.sqs) as queue:
        assert await queue.receive(0) == []  # which is how SQS says it
        assert await queue.delete(DELIVERIES) == DELIVERIES
        assert await queue.change_visibility(DELIVERIES, 30) == DELIVERIES
        with pytest.raises(QueueFailed, match="Attributes"):
            await queue.attributes()


GOOD = {"MessageId": "m", "ReceiptHandle": "r", "Body": "b"}


async def test_a_message_that_lacks_what_every_message_has_is_a_failure(server: Server) -> None:
    async with open_queue(server.sqs) as queue:
        for key in GOOD:
            for odd in ({**GOOD, key: 5}, {**GOOD, key: []}, {name: GOOD[name] for name in GOOD if name != key}):
                server.answer = answering(200, json.dumps({"Messages": [GOOD, odd]}))
                with pytest.raises(QueueFailed, match="not from AWS"):
                    await queue.receive(0)


async def test_a_message_that_is_no_text_fails_no_other_one(server: Server) -> None:
    """SQS takes no half of a surrogate pair; other brokers do."""
    server.answer = answering(200, json.dumps({"Messages": [{**GOOD, "Body": "\ud800"}, GOOD]}))
    async with open_queue(server.sqs) as queue:
        assert [delivery.body for delivery in await queue.receive(0)] == ["\ud800", "b"]


async def test_a_reply_that_is_longer_than_any_of_sns_is_not_parsed(server: Server) -> None:
    server.answer = answering(200, publish_xml("<MessageId>m</MessageId>" + "<a/>" * 100_000))
    async with open_topic(server.sns) as topic:
        (outcome,) = await topic.publish(messages(1))
        assert "longer than 262144 bytes" in str(outcome)
    long = {**GOOD, "Body": "b" * 1_000_000}
    server.answer = answering(200, json.dumps({"Messages": [long] * 10}))
    async with open_queue(server.sqs) as queue:
        assert len(await queue.receive(0)) == 10


@pytest.mark.parametrize("sent", ["-1", str(2**63), "9" * 40, "soon"])
async def test_a_time_of_sending_that_no_clock_shows_is_a_failure(server: Server, sent: str) -> None:
    """The ledger counts the time by it, and forgets by it."""
    server.answer = answering(200, json.dumps({"Messages": [{**GOOD, "Attributes": {"SentTimestamp": sent}}]}))
    async with open_queue(server.sqs) as queue:
        with pytest.raises(QueueFailed, match="SentTimestamp"):
            await queue.receive(0)
        server.answer = answering(200, json.dumps({"Messages": [GOOD], "SomethingNew": 1}))
        assert [delivery.body for delivery in await queue.receive(0)] == ["b"]


@pytest.mark.parametrize("body", ["", XHTML])
async def test_no_redirect_is_followed(server: Server, elsewhere: Server, body: str) -> None:
    async with open_topic(server.sns) as topic, open_queue(server.sqs) as queue:
        for status in (300, 301, 302, 303, 307, 308):
            server.answer = answering(status, body, Location=elsewhere.url)
            for count in (1, 3):
                for outcome in await topic.publish(messages(count)):
                    assert type(outcome) is PublishFailed, status
                    assert elsewhere.url in str(outcome), status
            for call in QUEUE_CALLS.values():
                with pytest.raises(QueueFailed, match="redirect to"):
                    await call(queue)
    assert elsewhere.requests == 0


@pytest.mark.parametrize("count", [1, 3])
async def test_an_endless_answer_is_a_failure_and_is_not_kept(server: Server, count: int) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" " * 65_536)
                sent += 65_536
        return response

    server.answer = endless
    async with open_topic(server.sns) as topic:
        outcomes = await topic.publish(messages(count))
    assert [type(outcome) for outcome in outcomes] == [PublishFailed] * count
    assert "longer than 262144 bytes" in str(outcomes[0])
    assert sent < 64 << 20


async def test_an_answer_that_never_ends_is_given_up_at_the_deadline(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dripping(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.02)
        return response

    server.answer = dripping
    monkeypatch.setattr(calls, "CALL_SECONDS", 0.3)
    async with open_topic(server.sns) as topic:
        (outcome,) = await topic.publish(messages(1))
    assert type(outcome) is PublishFailed
    assert "no reply in time" in str(outcome)


async def test_the_commands_name_an_answer_that_is_not_aws_s(server: Server) -> None:
    async with open_client("sns", REGION, server.url) as sns, open_client("sqs", REGION, server.url) as sqs:
        for name, server.answer in ANSWERS.items():
            for call in (
                provision(sns, sqs, Names(topic="tracking", queue="visits", dead_letter_queue="visits-dlq")),
                redrive(sqs, source=f"{server.url}q/dead", target=f"{server.url}q/visits", most=None),
                queue_attributes(sqs, f"{server.url}q/visits"),
                ask(sns.set_subscription_attributes(SubscriptionArn=ARN, AttributeName="a", AttributeValue="b")),
            ):
                assert isinstance(await raised_by(call), AwsUnreachable | AwsRefused), name
    server.answer = ANSWERS["html"]
    findings = [finding async for finding in with_aws_errors(check_topic(server.sns, Setup()), "topic")]
    assert [finding.level for finding in findings] == [Level.UNKNOWN]


async def test_the_commands_name_what_a_sound_answer_lacks(server: Server) -> None:
    async def hollow(request: web.Request) -> web.StreamResponse:
        if "X-Amz-Target" in request.headers:
            return web.Response(text="{}", content_type="application/x-amz-json-1.0")
        action = (await request.post())["Action"]
        return web.Response(text=publish_xml("", str(action)), content_type="text/xml")

    server.answer = hollow
    async with open_client("sns", REGION, server.url) as sns, open_client("sqs", REGION, server.url) as sqs:
        with pytest.raises(AwsUnreachable, match="TopicArn is missing"):
            await provision(sns, sqs, Names(topic="tracking", queue="visits", dead_letter_queue="visits-dlq"))
        with pytest.raises(AwsUnreachable, match="QueueUrl is missing"):
            await queue_url(sqs, "visits")
        with pytest.raises(AwsUnreachable, match="Attributes is missing"):
            await queue_attributes(sqs, f"{server.url}q/visits")
    findings = [finding async for finding in with_aws_errors(check_topic(server.sns, Setup()), "topic")]
    assert "Attributes is missing" in str(findings)


# -- Credential providers -------------------------------------------------------------------------------------


GIVEN = {"Version": 1, "AccessKeyId": "given", "SecretAccessKey": "secret"}


class Helper:
    """A `credential_process` that does what the file `script` says; it notes its own process id."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._script = directory / "helper"
        (directory / "config").write_text(f"[default]\ncredential_process = {self._script}\n")
        self.does("pass")

    def does(self, python: str) -> None:
        text = f"#!{sys.executable}\nimport os, subprocess, sys, time\n"
        text += f"open({str(self._directory / 'pids')!r}, 'a').write(f'{{os.getpid()}}\\n')\n{python}\n"
        fresh = self._directory / "helper.new"
        fresh.write_text(text)
        fresh.chmod(fresh.stat().st_mode | stat.S_IXUSR)
        fresh.rename(self._script)  # a running one keeps its own text

    def prints(self, document: Any) -> None:
        self.does(f"print({json.dumps(document)!r})")

    def hangs(self) -> None:
        """It and a child of its own."""
        self.does(
            f"child = subprocess.Popen(['sleep', '600'])\n"
            f"open({str(self._directory / 'pids')!r}, 'a').write(f'{{child.pid}}\\n')\ntime.sleep(600)"
        )

    def pids(self) -> list[int]:
        path = self._directory / "pids"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def running(self) -> list[int]:
        return [pid for pid in self.pids() if _is_running(pid)]


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    made = Helper(tmp_path)
    yield made
    for pid in made.running():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for; a helper needs some 0.1 s to start, and longer on a busy machine."""
    monkeypatch.setattr(clients, "CREDENTIAL_SECONDS", 5.0)
    monkeypatch.setattr(credential_helper, "HELPER_SECONDS", 2.5)


async def failure(topic_or_queue: SnsTopic | Queue) -> str:
    with pytest.raises((PublishFailed, QueueFailed)) as raised:
        await topic_or_queue.ready()
    return str(raised.value)


@pytest.mark.usefixtures("hurried")
async def test_a_helper_that_hangs_is_named_and_killed_and_works_again_later(server: Server, helper: Helper) -> None:
    helper.hangs()
    async with open_topic(server.sns) as topic, open_queue(server.sqs) as queue:
        assert "credential_process" in await failure(topic)
        assert "credential_process" in await failure(queue)
        (outcome,) = await topic.publish(messages(1))
        assert "credential_process" in str(outcome)
        assert len(helper.pids()) == 6
        await until(lambda: not helper.running())
        helper.prints(GIVEN)
        assert await topic.publish(messages(1)) == [None]
        assert "Credential=given/" in server.authorization
        assert await queue.receive(0) == []


async def test_a_helper_ends_when_nobody_waits_for_it_any_more(server: Server, helper: Helper) -> None:
    helper.hangs()
    async with open_queue(server.sqs) as queue:
        opening = asyncio.create_task(queue.ready())
        await until(lambda: len(helper.running()) == 2)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await until(lambda: not helper.running())


@pytest.mark.usefixtures("hurried")
async def test_the_helper_of_an_assumed_roles_source_is_killed_too(
    server: Server, helper: Helper, tmp_path: Path, mute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"[default]\nrole_arn = arn:aws:iam::000000000000:role/r\nsource_profile = source\nregion = {REGION}\n"
        f"[profile source]\ncredential_process = {tmp_path / 'helper'}\n"
    )
    helper.hangs()
    async with open_topic(server.sns) as topic:
        assert "assume-role" in await failure(topic)
        await until(lambda: not helper.running())
        helper.prints(GIVEN)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", mute)
        assert "assume-role" in await failure(topic)


TOO_EARLY = {**GIVEN, "Expiration": "2020-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    "does",
    [
        "pass",
        "print('Please log in')",
        "print('{')",
        "print('[]')",
        "print('null')",
        "print('5')",
        r"sys.stdout.buffer.write(b'\xff\xfe{}')",
        "sys.exit('the token is too old')",
        r"sys.stderr.buffer.write(b'\xff\xfe'); sys.exit(3)",
        "os.kill(os.getpid(), 9)",
        "while True: print('y' * 1000)",
        "while True: print('y' * 1000, file=sys.stderr)",
        *(
            f"print({json.dumps(document)!r})"
            for document in (
                {},
                {"Version": 1},
                {**GIVEN, "Version": 2},
                {**GIVEN, "AccessKeyId": None},
                {**GIVEN, "AccessKeyId": ["a"]},
                {**GIVEN, "SecretAccessKey": 5},
                {**GIVEN, "SecretAccessKey": ""},
                {**GIVEN, "Expiration": "soon"},
                {**GIVEN, "Expiration": 5},
                TOO_EARLY,
            )
        ),
    ],
)
async def test_a_helper_that_fails_or_prints_junk_is_named_and_asked_again(
    server: Server, helper: Helper, does: str
) -> None:
    helper.does(does)
    descriptors = len(os.listdir("/dev/fd"))
    async with open_queue(server.sqs) as queue:
        assert "credential_process: " in await failure(queue)
        assert len(os.listdir("/dev/fd")) == descriptors, "a try leaves no pipe open"
        helper.prints(GIVEN)
        await queue.ready()
    await until(lambda: not helper.running())


@pytest.mark.parametrize("command", ["/nowhere/helper --now", "/", "'unclosed", '""', "/dev/null"])
async def test_a_helper_that_cannot_be_started_is_named(server: Server, tmp_path: Path, command: str) -> None:
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {command}\n")
    async with open_topic(server.sns) as topic:
        assert "credential_process: " in await failure(topic)


@pytest.mark.parametrize("provider", ["container-role", "iam-role", "assume-role-with-web-identity"])
async def test_a_provider_that_does_not_answer_is_named(
    provider: str, server: Server, mute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "CREDENTIAL_SECONDS", 2.0)  # time for the steps before
    (tmp_path / "token").write_text("token")
    settings = {
        "container-role": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": mute},
        "iam-role": {"AWS_EC2_METADATA_SERVICE_ENDPOINT": mute, "AWS_EC2_METADATA_DISABLED": "false"},
        "assume-role-with-web-identity": {
            "AWS_ROLE_ARN": "arn:aws:iam::000000000000:role/r",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
            "AWS_ENDPOINT_URL_STS": mute,
        },
    }
    for name, value in settings[provider].items():
        monkeypatch.setenv(name, value)
    endpoint = "http://sns.invalid" if provider == "iam-role" else server.url  # on loopback it is not asked
    async with open_topic(SnsConfig(topic_arn=ARN, endpoint_url=endpoint)) as topic:
        assert f"credentials from {provider}: no answer in time" in await failure(topic)
    assert server.requests == 0


@pytest.mark.parametrize("setting", ["variable", "profile", "container"])
async def test_a_token_that_is_a_pipe_is_named_and_stops_nothing(
    setting: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)  # so that opening it ends also without the check, and reading it does not
    os.write(end, b"token")
    if setting == "container":
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", server.url)
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(pipe))
    elif setting == "variable":
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::000000000000:role/r")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(pipe))
    else:
        role = "role_arn = arn:aws:iam::000000000000:role/r"
        (tmp_path / "config").write_text(f"[default]\n{role}\nweb_identity_token_file = {pipe}\n")
    # Without the check the event loop would stop in `read`: closing the last writer ends it, and fails the test.
    ending = threading.Timer(5.0, os.close, [end])
    ending.start()
    async with open_topic(server.sns) as topic:
        assert f"{pipe}: ValueError: expected a file" in await failure(topic)
    ending.cancel()
    ending.join()
    os.close(end)
    assert server.requests == 0


METADATA_SERVICES = {
    "container-role": lambda url: {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url},
    "iam-role": lambda url: {"AWS_EC2_METADATA_SERVICE_ENDPOINT": url, "AWS_EC2_METADATA_DISABLED": "false"},
}


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("provider", METADATA_SERVICES)
async def test_no_redirect_is_followed_where_credentials_come_from(
    provider: str, server: Server, elsewhere: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = answering(302, "", Location=elsewhere.url)
    for name, value in METADATA_SERVICES[provider](server.url).items():
        monkeypatch.setenv(name, value)
    async with open_topic(SnsConfig(topic_arn=ARN, endpoint_url="http://sns.invalid")) as topic:
        await failure(topic)
    assert server.requests > 0
    assert elsewhere.requests == 0


@pytest.mark.parametrize("provider", METADATA_SERVICES)
async def test_an_endless_answer_of_a_metadata_service_is_not_kept(
    provider: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while sent < 64 << 20:
                await response.write(b" " * 65_536)
                sent += 65_536
        return response

    server.answer = endless
    for name, value in METADATA_SERVICES[provider](server.url).items():
        monkeypatch.setenv(name, value)
    async with open_topic(SnsConfig(topic_arn=ARN, endpoint_url="http://sns.invalid")) as topic:
        assert "longer than 262144 bytes" in await failure(topic)
    assert 0 < sent < 64 << 20


def write_junk(path: Path) -> str:
    path.write_text("-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n")
    return str(path)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"AWS_PROFILE": "nobody"}, "nobody"),
        ({"AWS_CA_BUNDLE": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"REQUESTS_CA_BUNDLE": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"AWS_CA_BUNDLE": "{tmp}/junk.pem"}, "junk.pem"),
        ({"AWS_CA_BUNDLE": "{tmp}/pipe"}, "pipe"),
        ({"AWS_CONFIG_FILE": "{tmp}/broken"}, "broken"),
        ({"AWS_SHARED_CREDENTIALS_FILE": "{tmp}/broken"}, "broken"),
        ({"AWS_ENDPOINT_URL_SNS": "no url"}, "no url"),
    ],
)
async def test_a_broken_setting_is_named_and_read_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], named: str
) -> None:
    write_junk(tmp_path / "junk.pem")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").write_text("[default\nno = section")
    endpoint = None if "AWS_ENDPOINT_URL_SNS" in settings else server.url
    async with open_topic(SnsConfig(topic_arn=ARN, endpoint_url=endpoint)) as topic:
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value.replace("{tmp}", str(tmp_path)))
            assert named in await failure(topic)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SNS", server.url)
        assert await topic.publish(messages(1)) == [None]


async def test_elsewhere_missing_credentials_are_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # .invalid resolves nowhere: were placeholders used, the first failure would be another one.
    async with open_topic(SnsConfig(topic_arn=ARN, endpoint_url="http://sns.invalid")) as topic:
        (outcome,) = await topic.publish(messages(1))
        assert type(outcome) is PublishFailed
        assert "no AWS credentials found: set AWS_ACCESS_KEY_ID" in str(outcome)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        (outcome,) = await topic.publish(messages(1))
        assert "sns.invalid" in str(outcome)


def expiring(minutes: float) -> dict[str, Any]:
    return {**GIVEN, "Expiration": (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()}


@pytest.mark.usefixtures("hurried")
async def test_a_renewal_that_hangs_fails_the_calls_and_locks_no_later_one_out(server: Server, helper: Helper) -> None:
    helper.prints(expiring(5))  # so soon that every call renews them first
    async with open_topic(server.sns) as topic:
        assert await topic.publish(messages(1)) == [None]
        helper.hangs()
        calls = await asyncio.gather(*(topic.publish(messages(count)) for count in (1, 3, 1)))
        outcomes = [outcome for call in calls for outcome in call]
        assert [type(outcome) for outcome in outcomes] == [PublishFailed] * 5
        assert all("credential_process" in str(outcome) for outcome in outcomes)
        await until(lambda: not helper.running())
        helper.prints(GIVEN | {"AccessKeyId": "renewed"} | {"Expiration": expiring(60)["Expiration"]})
        assert await topic.publish(messages(1)) == [None]
        assert "Credential=renewed/" in server.authorization


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("how", ["hangs", "fails"])
async def test_credentials_that_are_still_valid_go_on_while_their_renewal_fails(
    server: Server, helper: Helper, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    helper.prints(expiring(12))  # a renewal is tried from fifteen minutes before the end, and must succeed from ten
    async with open_topic(server.sns) as topic:
        await topic.ready()
        if how == "hangs":
            helper.hangs()
        else:
            helper.does("sys.exit('not now')")
        with caplog.at_level(logging.WARNING):
            assert await topic.publish(messages(1)) == [None]
    told = [record for record in caplog.records if record.name.startswith("aiobotocore")]
    assert told
    assert all(record.exc_info is None for record in told)
    assert ("not now" if how == "fails" else "did not end") in told[0].getMessage()
    await until(lambda: not helper.running())


async def test_a_command_names_the_provider_as_well(server: Server, helper: Helper) -> None:
    helper.does("sys.exit('not now')")
    with pytest.raises(AwsUnreachable, match=r"credential_process: .*not now"):
        async with open_client("sqs", REGION, server.url):
            pass


# -- The CPU time of a request --------------------------------------------------------------------------------


async def test_others_may_run_before_a_request_is_signed_and_before_it_is_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[int] = []
    monkeypatch.setattr(clients, "let_others_run", lambda: pauses.append(server.requests))
    async with open_topic(server.sns) as topic:
        for number in range(2):
            assert await topic.publish(messages(1)) == [None]
            assert pauses == [each for each in range(number + 1) for _ in range(2)]
