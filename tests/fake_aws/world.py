"""All topics and queues of a fake, and each call of the services as something that is done with them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tests.fake_aws.faults import ENTRY, Faults
from tests.fake_aws.protocol import Call, Reply, json_reply, md5, members, refusal, sns_message, xml_member, xml_reply
from tests.fake_aws.queues import ACCOUNT, REGION, Attribute, AwsError, Queue, Sent
from tests.fake_aws.topics import SNS_BYTES, Subscription, Topic

BATCH_ENTRIES = 10


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
        return xml_reply(call.action, result) if call.service == "sns" else json_reply(result)

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
        return f"<Topics>{''.join(xml_member({'TopicArn': arn}) for arn in self.topics)}</Topics>"

    def _sns_Subscribe(self, form: dict[str, Any], _: str) -> str:
        attributes = {each["key"]: each["value"] for each in members(form, "Attributes")}
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
        return f"<Subscriptions>{''.join(map(xml_member, listed))}</Subscriptions>"

    def _sns_Publish(self, form: dict[str, Any], _: str) -> str:
        message_id = self._topic(form["TopicArn"]).publish(sns_message(form), "Publish")
        return f"<MessageId>{message_id}</MessageId>"

    def _sns_PublishBatch(self, form: dict[str, Any], _: str) -> str:
        topic = self._topic(form["TopicArn"])
        entries = _checked(members(form, "PublishBatchRequestEntries"), "")
        if sum(sns_message(entry).size for entry in entries) > SNS_BYTES:
            raise AwsError("BatchRequestTooLong", "The length of all the messages put together is more than the limit.")

        def publish(entry: dict[str, Any]) -> dict[str, str]:
            return {"MessageId": topic.publish(sns_message(entry), "PublishBatch")}

        outcome = _each(entries, self.sns_faults, "PublishBatch", publish)
        lists = {name: "".join(map(xml_member, listed)) for name, listed in outcome.items()}
        return "".join(f"<{name}>{inner}</{name}>" for name, inner in lists.items())

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
        return {"MessageId": self.queue_at(call["QueueUrl"]).send(sent), "MD5OfMessageBody": md5(sent.body)}

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
