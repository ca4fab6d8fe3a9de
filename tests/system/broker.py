"""The broker as seen by the tests: its SNS and SQS spoken over plain HTTP, and a proxy before it that makes trouble."""

import http.client
import json
import re
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode

from .wire import LOOPBACK

REGION = "us-east-1"


def _call(port: int, service: str, headers: Mapping[str, str], body: bytes) -> bytes:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    try:
        scope = f"placeholder/20260101/{REGION}/{service}/aws4_request"
        authorization = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
        connection.request("POST", "/", body, {"Authorization": authorization, **headers})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise AssertionError(f"{service} answered {response.status}: {answer.decode()}")
    return answer


class Aws:
    """The few calls the tests make, bypassing every proxy."""

    def __init__(self, port: int) -> None:
        self._port = port

    def sns(self, action: str, **parameters: str) -> str:
        form = urlencode({"Action": action, "Version": "2010-03-31", **parameters})
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        return _call(self._port, "sns", headers, form.encode()).decode()

    def sqs(self, action: str, **parameters: object) -> dict[str, Any]:
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"AmazonSQS.{action}"}
        answer: dict[str, Any] = json.loads(_call(self._port, "sqs", headers, json.dumps(parameters).encode()) or b"{}")
        return answer

    def create_topic(self, name: str) -> str:
        found = re.search("<TopicArn>(.*?)</TopicArn>", self.sns("CreateTopic", Name=name))
        assert found
        return found[1]

    def create_queue(self, name: str, **attributes: str) -> str:
        url: str = self.sqs("CreateQueue", QueueName=name, Attributes=attributes)["QueueUrl"]
        return url

    def queue_attributes(self, url: str) -> dict[str, str]:
        attributes: dict[str, str] = self.sqs("GetQueueAttributes", QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return attributes

    def depth(self, url: str) -> int:
        """Messages in the queue, waiting or in flight."""
        attributes = self.queue_attributes(url)
        return int(attributes["ApproximateNumberOfMessages"]) + int(attributes["ApproximateNumberOfMessagesNotVisible"])

    def subscribe(self, topic_arn: str, queue_arn: str, *, raw: bool) -> None:
        attributes = {"RawMessageDelivery": "true" if raw else "false", "FilterPolicy": '{"Type": ["Visit"]}'}
        entries: dict[str, str] = {}
        for number, (key, value) in enumerate(attributes.items(), 1):
            entries[f"Attributes.entry.{number}.key"] = key
            entries[f"Attributes.entry.{number}.value"] = value
        self.sns("Subscribe", TopicArn=topic_arn, Protocol="sqs", Endpoint=queue_arn, **entries)

    def send(self, url: str, body: str, **attributes: str) -> str:
        """Puts a message straight into the queue; returns its id."""
        typed = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        answer = self.sqs("SendMessage", QueueUrl=url, MessageBody=body, MessageAttributes=typed)
        message_id: str = answer["MessageId"]
        return message_id


class Proxy:
    """An HTTP proxy in front of the broker. It knows which call passes, and can refuse, hang or hold calls.

    Down, nothing listens on its port and every connection is cut. Of a held call nothing reaches the broker; it gets
    no answer until it is released, and then a cut connection instead of one.
    """

    def __init__(self, port: int, broker_port: int) -> None:
        self.port = port
        self._broker_port = broker_port
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        self._hold: frozenset[str] | None = frozenset()
        self._release = threading.Event()
        self.held: list[str] = []
        self.calls: list[tuple[str, bytes]] = []
        self.up()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def up(self) -> None:
        """Listens (again), and holds nothing."""
        self.release()
        if self._server is None:
            self._server = _ProxyServer((LOOPBACK, self.port), self._handler())
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Refuses connections and cuts those that are open."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self.release()
        with self._lock:
            for connection in self._open:
                connection.shutdown(socket.SHUT_RDWR)

    def hold(self, *actions: str) -> None:
        """Holds these calls from now on; without names, all of them."""
        self._hold, self._release = (frozenset(actions) if actions else None), threading.Event()

    def release(self) -> None:
        """Cuts the held calls off unanswered, and lets those to come pass."""
        self._hold = frozenset()
        self._release.set()

    def bodies(self, *actions: str) -> list[bytes]:
        """Bodies of the calls that were passed on."""
        return [body for action, body in self.calls if action in actions]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with proxy._lock:
                    proxy._open.add(self.connection)

            def finish(self) -> None:
                with proxy._lock:
                    proxy._open.discard(self.connection)
                super().finish()

            def do_POST(self) -> None:
                try:
                    self._forward()
                except OSError:
                    self.close_connection = True

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                target = self.headers.get("X-Amz-Target")
                action = target.rpartition(".")[2] if target else parse_qs(body.decode())["Action"][0]
                hold, release = proxy._hold, proxy._release
                if hold is None or action in hold:
                    proxy.held.append(action)
                    release.wait()
                    self.close_connection = True
                    return
                proxy.calls.append((action, body))
                broker = http.client.HTTPConnection(LOOPBACK, proxy._broker_port, timeout=60)
                try:
                    broker.request("POST", self.path, body, dict(self.headers.items()))
                    response = broker.getresponse()
                    answer = response.read()
                finally:
                    broker.close()
                self.send_response_only(response.status)
                for name in ("Content-Type", "x-amzn-RequestId", "x-amzn-query-error"):
                    if value := response.headers.get(name):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


class _ProxyServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A cut connection is what the tests ask for; a traceback of it on stderr would only mislead."""
