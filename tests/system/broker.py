"""The broker as seen by the tests, moto's or our fake: its SNS and SQS spoken over plain HTTP."""

import http.client
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

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
    """The few calls the tests make."""

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

    def subscribe(
        self, topic_arn: str, queue_arn: str, *, raw: bool = True, filter_policy: Mapping[str, Any] | None = None
    ) -> None:
        policy = json.dumps(filter_policy or {"Type": ["Visit"]})
        attributes = {"RawMessageDelivery": "true" if raw else "false", "FilterPolicy": policy}
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
