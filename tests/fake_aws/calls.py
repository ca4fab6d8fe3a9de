"""The two protocols: SNS's query protocol and SQS's JSON, each call of the services turned into one of `messaging`."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from uuid import uuid4
from xml.sax.saxutils import escape

from tests.fake_aws.faults import ENTRY, Faults
from tests.fake_aws.messaging import (
    ACCOUNT,
    REGION,
    SNS_BYTES,
    Attribute,
    AwsError,
    Queue,
    Received,
    Sent,
    Subscription,
    Topic,
)

BATCH_ENTRIES = 10


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


@dataclass
class World:
    """All topics and queues; every endpoint of a fake leads here."""

    seconds: Callable[[], float]
    sns_faults: Faults
    sqs_faults: Faults
    topics: dict[str, Topic] = field(default_factory=dict)
    queues: dict[str, Queue] = field(default_factory=dict)
    on_send: Callable[[], None] = lambda: None

    def perform(self, call: Call, base_url: str) -> Reply:
        """Any call but ReceiveMessage, which may have to wait."""
        try:
            handler = getattr(self, f"_{call.service}_{call.action}", None)
            if handler is None:
                raise AwsError("InvalidAction", f"{call.action} is none of the calls this fake speaks")
            result = handler(call.parameters, base_url)
        except AwsError as error:
            return refusal(call, error)
        return _xml_reply(call.action, result) if call.service == "sns" else _json_reply(result)

    def queue_at(self, url: str) -> Queue:
        queue = self.queues.get(url.rpartition("/")[2])
        if queue is None:
            raise AwsError("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")
        return queue

    def _topic(self, arn: str) -> Topic:
        if arn not in self.topics:
            raise AwsError("NotFound", "Topic does not exist", 404)
        return self.topics[arn]

    # -- SNS

    def _sns_CreateTopic(self, form: dict[str, Any], _: str) -> str:
        arn = f"arn:aws:sns:{REGION}:{ACCOUNT}:{form['Name']}"
        self.topics.setdefault(arn, Topic(arn, self.sns_faults))
        return f"<TopicArn>{arn}</TopicArn>"

    def _sns_ListTopics(self, form: dict[str, Any], _: str) -> str:
        return f"<Topics>{''.join(_xml_member({'TopicArn': arn}) for arn in self.topics)}</Topics>"

    def _sns_Subscribe(self, form: dict[str, Any], _: str) -> str:
        attributes = {each["key"]: each["value"] for each in _members(form, "Attributes")}
        queue = self.queues[form["Endpoint"].rpartition(":")[2]]
        raw = attributes.get("RawMessageDelivery") == "true"
        arn = f"{form['TopicArn']}:{uuid4()}"
        subscription = Subscription(arn, queue, raw, json.loads(attributes.get("FilterPolicy") or "{}"))
        self._topic(form["TopicArn"]).subscriptions.append(subscription)
        return f"<SubscriptionArn>{arn}</SubscriptionArn>"

    def _sns_ListSubscriptionsByTopic(self, form: dict[str, Any], _: str) -> str:
        listed = [
            {"SubscriptionArn": each.arn, "Protocol": "sqs", "Endpoint": each.queue.arn}
            for each in self._topic(form["TopicArn"]).subscriptions
        ]
        return f"<Subscriptions>{''.join(map(_xml_member, listed))}</Subscriptions>"

    def _sns_Publish(self, form: dict[str, Any], _: str) -> str:
        message_id = self._topic(form["TopicArn"]).publish(_sns_message(form), "Publish")
        return f"<MessageId>{message_id}</MessageId>"

    def _sns_PublishBatch(self, form: dict[str, Any], _: str) -> str:
        topic = self._topic(form["TopicArn"])
        entries = _checked(_members(form, "PublishBatchRequestEntries"), "")
        if sum(_sns_message(entry).size for entry in entries) > SNS_BYTES:
            raise AwsError("BatchRequestTooLong", "The length of all the messages put together is more than the limit.")

        def publish(entry: dict[str, Any]) -> dict[str, str]:
            return {"MessageId": topic.publish(_sns_message(entry), "PublishBatch")}

        outcome = _each(entries, self.sns_faults, "PublishBatch", publish)
        members = {name: "".join(map(_xml_member, listed)) for name, listed in outcome.items()}
        return "".join(f"<{name}>{inner}</{name}>" for name, inner in members.items())

    # -- SQS

    def _sqs_CreateQueue(self, call: dict[str, Any], base_url: str) -> dict[str, Any]:
        name = call["QueueName"]
        if name not in self.queues:
            attributes = dict(call.get("Attributes", {}))
            self.queues[name] = Queue(
                name, attributes, self.seconds, self.sqs_faults, self._queue_of_arn, lambda: self.on_send()
            )
        return self._sqs_GetQueueUrl(call, base_url)

    def _sqs_GetQueueUrl(self, call: dict[str, Any], base_url: str) -> dict[str, Any]:
        return {"QueueUrl": f"{base_url}/{ACCOUNT}/{self.queue_at(call['QueueName']).name}"}

    def _sqs_SetQueueAttributes(self, call: dict[str, Any], _: str) -> dict[str, Any]:
        self.queue_at(call["QueueUrl"]).attributes.update(call["Attributes"])
        return {}

    def _sqs_GetQueueAttributes(self, call: dict[str, Any], _: str) -> dict[str, Any]:
        queue = self.queue_at(call["QueueUrl"])
        visible, hidden = queue.counts()
        counts = {
            "ApproximateNumberOfMessages": str(visible),
            "ApproximateNumberOfMessagesNotVisible": str(hidden),
            "QueueArn": queue.arn,
        }
        return {"Attributes": {**queue.attributes, **counts}}

    def _sqs_SendMessage(self, call: dict[str, Any], _: str) -> dict[str, Any]:
        given = call.get("MessageAttributes", {}).items()
        attributes = {name: Attribute(each["DataType"], each["StringValue"]) for name, each in given}
        sent = Sent(call["MessageBody"], attributes)
        return {"MessageId": self.queue_at(call["QueueUrl"]).send(sent), "MD5OfMessageBody": _md5(sent.body)}

    def _sqs_DeleteMessageBatch(self, call: dict[str, Any], _: str) -> dict[str, Any]:
        queue = self.queue_at(call["QueueUrl"])

        def delete(entry: dict[str, Any]) -> dict[str, str]:
            queue.delete(entry["ReceiptHandle"])
            return {}

        return _each(_checked(call["Entries"]), self.sqs_faults, "DeleteMessageBatch", delete)

    def _sqs_ChangeMessageVisibilityBatch(self, call: dict[str, Any], _: str) -> dict[str, Any]:
        queue = self.queue_at(call["QueueUrl"])

        def change(entry: dict[str, Any]) -> dict[str, str]:
            queue.change_visibility(entry["ReceiptHandle"], float(entry["VisibilityTimeout"]))
            return {}

        return _each(_checked(call["Entries"]), self.sqs_faults, "ChangeMessageVisibilityBatch", change)

    def _queue_of_arn(self, arn: str) -> Queue:
        return self.queues[arn.rpartition(":")[2]]


def received(deliveries: Iterable[Received]) -> Reply:
    """The answer to a ReceiveMessage."""
    messages = [_delivery(each) for each in deliveries]
    return _json_reply({"Messages": messages} if messages else {})


def refusal(call: Call, error: AwsError) -> Reply:
    fault = "Sender" if error.status < 500 else "Receiver"
    if call.service == "sns":
        inner = f"<Type>{fault}</Type><Code>{error.code}</Code><Message>{escape(error.message)}</Message>"
        text = f"<ErrorResponse><Error>{inner}</Error><RequestId>{uuid4()}</RequestId></ErrorResponse>"
        return Reply(error.status, {"Content-Type": "text/xml"}, text.encode())
    headers = {"Content-Type": "application/x-amz-json-1.0", "x-amzn-query-error": f"{error.code};{fault}"}
    body = {"__type": f"com.amazonaws.sqs#{error.code}", "message": error.message}
    return Reply(error.status, headers, json.dumps(body).encode())


def _each(
    entries: list[dict[str, Any]], faults: Faults, action: str, do: Callable[[dict[str, Any]], dict[str, str]]
) -> dict[str, list[dict[str, Any]]]:
    """The two lists of a batch's answer. What the service fails or forgets by itself, it fails as its own fault."""
    outcome: dict[str, list[dict[str, Any]]] = {"Successful": [], "Failed": []}
    for entry in entries:
        fault = faults.first(ENTRY, action)
        if fault == "partial":
            outcome["Failed"].append(_failed(entry, "InternalError", "We encountered an internal error.", False))
        if fault in ("partial", "unlisted_undone"):
            continue
        try:
            done = do(entry)
        except AwsError as error:
            outcome["Failed"].append(_failed(entry, error.code, error.message, True))
            continue
        if fault != "unlisted_done":
            outcome["Successful"].append({"Id": entry["Id"], **done})
    return outcome


def _failed(entry: dict[str, Any], code: str, message: str, sender_fault: bool) -> dict[str, Any]:
    return {"Id": entry["Id"], "Code": code, "Message": message, "SenderFault": sender_fault}


def _checked(entries: list[dict[str, Any]], prefix: str = "AWS.SimpleQueueService.") -> list[dict[str, Any]]:
    if not entries:
        raise AwsError(f"{prefix}EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(entries) > BATCH_ENTRIES:
        raise AwsError(f"{prefix}TooManyEntriesInBatchRequest", "Maximum number of entries per request are 10.")
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise AwsError(f"{prefix}BatchEntryIdsNotDistinct", "Two or more batch entries have the same Id.")
    return entries


def _sns_message(form: dict[str, Any]) -> Sent:
    attributes = {
        each["Name"]: Attribute(each["Value"]["DataType"], each["Value"]["StringValue"])
        for each in _members(form, "MessageAttributes")
    }
    return Sent(form["Message"], attributes)


def _delivery(received: Received) -> dict[str, Any]:
    message = received.message
    attributes = message.sent.attributes.items()
    return {
        "MessageId": message.id,
        "ReceiptHandle": received.receipt,
        "MD5OfBody": _md5(message.sent.body),
        "Body": message.sent.body,
        "Attributes": {
            "SentTimestamp": str(int(message.sent_at * 1000)),
            "ApproximateReceiveCount": received.receipt.rpartition("#")[2],
        },
        "MessageAttributes": {
            name: {"DataType": each.data_type, "StringValue": each.value} for name, each in attributes
        },
    }


def _md5(text: str) -> str:
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


def _members(form: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The numbered members of a list or map, in their order."""
    (members,) = form.get(name, {"member": {}}).values()
    return [members[number] for number in sorted(members, key=int)]


def _xml_member(entry: dict[str, Any]) -> str:
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in entry.items()}
    return "<member>" + "".join(f"<{name}>{escape(text)}</{name}>" for name, text in texts.items()) + "</member>"


def _xml_reply(action: str, result: str) -> Reply:
    text = (
        f'<{action}Response xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><{action}Result>{result}</{action}Result>'
        f"<ResponseMetadata><RequestId>{uuid4()}</RequestId></ResponseMetadata></{action}Response>"
    )
    return Reply(200, {"Content-Type": "text/xml"}, text.encode())


def _json_reply(result: dict[str, Any]) -> Reply:
    return Reply(200, {"Content-Type": "application/x-amz-json-1.0"}, json.dumps(result).encode())
