"""All topics and queues of a fake, and each call of the services as something that is done with them."""

import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tests.fake_aws.faults import ENTRY, Faults
from tests.fake_aws.http import Reply
from tests.fake_aws.protocol import Call, refusal, success
from tests.fake_aws.queues import ACCOUNT, REGION, Attribute, AwsError, Queue, Received, Sent
from tests.fake_aws.topics import SNS_BYTES, Subscription, Topic

BATCH_ENTRIES = 10

Parameters = dict[str, Any]


@dataclass
class World:
    """All topics and queues; every endpoint of a fake leads here. Without `checks` it accepts any message."""

    seconds: Callable[[], float] = time.time
    sns_faults: Faults = field(default_factory=Faults)
    sqs_faults: Faults = field(default_factory=Faults)
    checks: bool = True
    topics: dict[str, Topic] = field(default_factory=dict)
    queues: dict[str, Queue] = field(default_factory=dict)

    def create_topic(self, name: str) -> Topic:
        arn = f"arn:aws:sns:{REGION}:{ACCOUNT}:{name}"
        return self.topics.setdefault(arn, Topic(arn, self.sns_faults, self.checks))

    def create_queue(self, name: str, attributes: dict[str, str] | None = None) -> Queue:
        if name not in self.queues:
            given = dict(attributes or {})
            self.queues[name] = Queue(name, given, self.seconds, self.sqs_faults, self.queue, self.checks)
        return self.queues[name]

    def topic(self, arn: str) -> Topic:
        if arn not in self.topics:
            raise AwsError("NotFound", "Topic does not exist", 404)
        return self.topics[arn]

    def queue(self, name: str) -> Queue:
        """The queue of this name, URL or ARN."""
        queue = self.queues.get(name.rpartition("/")[2].rpartition(":")[2])
        if queue is None:
            raise AwsError("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")
        return queue

    def perform(self, call: Call, base_url: str) -> Reply | Coroutine[Any, Any, Reply]:
        """The reply to a call. That to a long poll which has to wait comes later."""
        try:
            if call.action == "ReceiveMessage":
                return self._receive(call)
            handler = getattr(self, f"_{call.service}_{call.action}", None)
            if handler is None:
                raise AwsError("InvalidAction", f"{call.action} is none of the calls this fake speaks")
            return success(call, handler(call.parameters, base_url))
        except AwsError as error:
            return refusal(call, error)

    # -- SNS

    def _sns_CreateTopic(self, form: Parameters, _: str) -> Parameters:
        return {"TopicArn": self.create_topic(form["Name"]).arn}

    def _sns_ListTopics(self, form: Parameters, _: str) -> Parameters:
        return {"Topics": [{"TopicArn": arn} for arn in self.topics]}

    def _sns_Subscribe(self, form: Parameters, _: str) -> Parameters:
        attributes = form.get("Attributes", {})
        raw = attributes.get("RawMessageDelivery") == "true"
        arn = f"{form['TopicArn']}:{uuid4()}"
        filter_policy = json.loads(attributes.get("FilterPolicy") or "{}")
        subscription = Subscription(arn, self.queue(form["Endpoint"]), raw, filter_policy)
        self.topic(form["TopicArn"]).subscriptions.append(subscription)
        return {"SubscriptionArn": arn}

    def _sns_ListSubscriptionsByTopic(self, form: Parameters, _: str) -> Parameters:
        subscriptions = self.topic(form["TopicArn"]).subscriptions
        return {
            "Subscriptions": [
                {"SubscriptionArn": each.arn, "Protocol": "sqs", "Endpoint": each.queue.arn} for each in subscriptions
            ]
        }

    def _sns_Publish(self, form: Parameters, _: str) -> Parameters:
        return {"MessageId": self.topic(form["TopicArn"]).publish(_sent(form["Message"], form), "Publish")}

    def _sns_PublishBatch(self, form: Parameters, _: str) -> Parameters:
        topic = self.topic(form["TopicArn"])
        entries = _checked(form.get("PublishBatchRequestEntries") or [], "")
        if sum(_sent(entry["Message"], entry).size for entry in entries) > SNS_BYTES:
            raise AwsError("BatchRequestTooLong", "The length of all the messages put together is more than the limit.")

        def publish(entry: Parameters) -> Parameters:
            return {"MessageId": topic.publish(_sent(entry["Message"], entry), "PublishBatch")}

        return _each(entries, self.sns_faults, "PublishBatch", publish)

    # -- SQS

    def _sqs_CreateQueue(self, call: Parameters, base_url: str) -> Parameters:
        self.create_queue(call["QueueName"], call.get("Attributes"))
        return self._sqs_GetQueueUrl(call, base_url)

    def _sqs_GetQueueUrl(self, call: Parameters, base_url: str) -> Parameters:
        name = call["QueueName"] if call.get("QueueOwnerAWSAccountId", ACCOUNT) == ACCOUNT else "of another account"
        return {"QueueUrl": f"{base_url}/{ACCOUNT}/{self.queue(name).name}"}

    def _sqs_SetQueueAttributes(self, call: Parameters, _: str) -> Parameters:
        self.queue(call["QueueUrl"]).attributes.update(call["Attributes"])
        return {}

    def _sqs_GetQueueAttributes(self, call: Parameters, _: str) -> Parameters:
        return {"Attributes": self.queue(call["QueueUrl"]).all_attributes()}

    def _sqs_SendMessage(self, call: Parameters, _: str) -> Parameters:
        return {"MessageId": self.queue(call["QueueUrl"]).send(_sent(call["MessageBody"], call))}

    def _receive(self, call: Call) -> Reply | Coroutine[Any, Any, Reply]:
        parameters = call.parameters
        queue = self.queue(parameters["QueueUrl"])
        count, visibility = (
            int(parameters.get("MaxNumberOfMessages", 1)),
            float(parameters.get("VisibilityTimeout", 30)),
        )
        wait = float(parameters.get("WaitTimeSeconds", 0))

        async def poll() -> Reply:
            return success(call, _received(await queue.poll(count, visibility, wait)))

        received = queue.receive(count, visibility)
        return success(call, _received(received)) if received or not wait else poll()

    def _sqs_DeleteMessageBatch(self, call: Parameters, _: str) -> Parameters:
        queue = self.queue(call["QueueUrl"])
        return _each(
            _checked(call["Entries"]),
            self.sqs_faults,
            "DeleteMessageBatch",
            lambda entry: queue.delete(entry["ReceiptHandle"]),
        )

    def _sqs_ChangeMessageVisibilityBatch(self, call: Parameters, _: str) -> Parameters:
        queue = self.queue(call["QueueUrl"])
        return _each(
            _checked(call["Entries"]),
            self.sqs_faults,
            "ChangeMessageVisibilityBatch",
            lambda entry: queue.change_visibility(entry["ReceiptHandle"], float(entry["VisibilityTimeout"])),
        )


def _sent(body: str, call: Parameters) -> Sent:
    given = call.get("MessageAttributes", {}).items()
    return Sent(body, {name: Attribute(each["DataType"], each["StringValue"]) for name, each in given})


def _received(deliveries: list[Received]) -> Parameters:
    messages = [
        {
            "MessageId": message.id,
            "ReceiptHandle": receipt,
            "Body": message.sent.body,
            "Attributes": {"SentTimestamp": str(message.sent_ms), "ApproximateReceiveCount": str(receives)},
            "MessageAttributes": {
                name: {"DataType": each.data_type, "StringValue": each.value}
                for name, each in message.sent.attributes.items()
            },
        }
        for message, receipt, receives in deliveries
    ]
    return {"Messages": messages} if messages else {}


def _each(
    entries: list[Parameters], faults: Faults, action: str, do: Callable[[Parameters], Parameters | None]
) -> Parameters:
    """The two lists of a batch's answer. What the service fails or forgets by itself, it fails as its own fault."""
    outcome: dict[str, list[Parameters]] = {"Successful": [], "Failed": []}
    for entry in entries:
        fault = faults.first(ENTRY, action)
        if fault == "partial":
            outcome["Failed"].append(_failed(entry, "InternalError", "We encountered an internal error.", False))
        if fault in ("partial", "unlisted_undone"):
            continue
        try:
            done = do(entry) or {}
        except AwsError as error:
            outcome["Failed"].append(_failed(entry, error.code, error.message, True))
            continue
        if fault != "unlisted_done":
            outcome["Successful"].append({"Id": entry["Id"], **done})
    return outcome


def _failed(entry: Parameters, code: str, message: str, sender_fault: bool) -> Parameters:
    return {"Id": entry["Id"], "Code": code, "Message": message, "SenderFault": sender_fault}


def _checked(entries: list[Parameters], prefix: str = "AWS.SimpleQueueService.") -> list[Parameters]:
    if not entries:
        raise AwsError(f"{prefix}EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(entries) > BATCH_ENTRIES:
        raise AwsError(f"{prefix}TooManyEntriesInBatchRequest", "Maximum number of entries per request are 10.")
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise AwsError(f"{prefix}BatchEntryIdsNotDistinct", "Two or more batch entries have the same Id.")
    return entries
