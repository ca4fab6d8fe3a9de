"""Shards: provision divides the journals, the doctor sees what no queue or two queues receive, and no journal moves."""

import asyncio
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from tests.system.processes import Broker, Service
from tracker import cli
from tracker.core.message import end_marker, pack
from tracker.core.visit import encode_line
from tracker.local.provision import local_client
from tracker.operations.filter_policy import matches
from tracker.operations.findings import Finding, Level
from tracker.operations.lookups import Subscription
from tracker.operations.provision import Names, provision
from tracker.operations.shard_checks import check_coverage
from tracker.operations.shards import COUNTS, DIGITS, filter_policy, queue_names

from .conftest import REGION, Bench
from .test_guide import commands

LINE = encode_line("2026-11-24T10:00:00.000000+00:00", None, None, "192.0.2.1")
ARN = f"arn:aws:sqs:{REGION}:000000000000:"


def subscribed(queue: str, policy: dict[str, Any] | None, **settings: str) -> Subscription:
    text = {} if policy is None else {"FilterPolicy": json.dumps(policy)}
    return Subscription(f"arn:aws:sns:{queue}", ARN + queue, {"RawMessageDelivery": "true", **text, **settings})


def shards(count: int) -> list[Subscription]:
    return [subscribed(name, filter_policy(at, count)) for at, name in enumerate(queue_names("visits", count))]


def found(*subscriptions: Subscription) -> list[tuple[Level, str]]:
    return [(each.level, each.what) for each in check_coverage(subscriptions, "tracker provision --queue visits")]


@pytest.mark.parametrize("count", COUNTS)
def test_each_journal_and_what_has_none_belongs_to_one_shard(count: int) -> None:
    policies = [filter_policy(shard, count) for shard in range(count)]
    journals: Counter[int] = Counter()
    for start in range(256):
        journal = f"{start:02x}" * 16
        messages = [pack(journal, 0, LINE, compress=False), end_marker(journal, len(LINE))]
        chosen = {
            tuple(shard for shard, policy in enumerate(policies) if matches(policy, message.attributes) is True)
            for message in messages
        }
        [[shard]] = chosen
        journals[shard] += 1
    assert set(journals.values()) == {256 // count}
    assert [shard for shard, policy in enumerate(policies) if matches(policy, {"Type": "Visit"}) is True] == [0]


@pytest.mark.parametrize("count", COUNTS[1:])
def test_whole_sets_of_shards_are_well(count: int) -> None:
    [(level, what)] = found(*shards(count))
    assert level is Level.OK
    assert what.startswith(f"{count} queues receive each visit once")


def test_queues_that_each_receive_everything_are_no_shards() -> None:
    everything = subscribed("visits", {"Type": ["Visit"]})
    assert found(everything) == found(everything, subscribed("copy", None)) == []
    assert found(everything, subscribed("orders", {"Type": ["Order"]})) == []


PREFIXES = [{"prefix": digit} for digit in DIGITS]
FAULTY: list[tuple[str, list[Subscription], Level, str]] = [
    (
        "a queue is missing",
        shards(4)[:3],
        Level.FAULT,
        "no queue receives visits of journals that begin with c, d, e, f",
    ),
    ("the first is missing", shards(4)[1:], Level.FAULT, "0, 1, 2, 3 and visits without a journal"),
    ("one of two digits", [*shards(2)[:1], subscribed("b", {"Journal": PREFIXES[9:]})], Level.FAULT, "begin with 8"),
    (
        "two have a digit",
        [*shards(2), subscribed("visits-x", {"Journal": [{"prefix": "3"}]})],
        Level.FAULT,
        "each of visits-0, visits-x receives visits of journals that begin with 3",
    ),
    (
        "two have a longer prefix",
        [*shards(2), subscribed("visits-x", {"Journal": [{"prefix": "3f"}]})],
        Level.FAULT,
        "begin with 3f",
    ),
    (
        "a part of very few journals",
        [*shards(2)[:1], subscribed("b", {"Journal": [{"prefix": "8" * 9}]})],
        Level.FAULT,
        "and 111 other beginnings",
    ),
    ("a journal by its whole id", [*shards(2), subscribed("x", {"Journal": ["ab" * 16]})], Level.FAULT, "ab" * 16),
    (
        "shards of two numbers",
        [*shards(2), *[subscribed("visits-2", filter_policy(2, 4)), subscribed("visits-3", filter_policy(3, 4))]],
        Level.FAULT,
        "each of visits-1, visits-2 receives visits of journals that begin with 8, 9, a, b",
    ),
    (
        "a single queue is left",
        [*shards(2), subscribed("visits", {"Type": ["Visit"]})],
        Level.WARNING,
        "visits receives all visits, beside visits-0, visits-1",
    ),
    (
        "end markers go elsewhere",
        [*shards(2)[1:], subscribed("visits-0", {**filter_policy(0, 2), "Closed": [{"exists": False}]})],
        Level.UNKNOWN,
        "visits-0 receives some messages of a journal and not the others",
    ),
    (
        "an end of an id",
        [*shards(2), subscribed("x", {"Journal": [{"suffix": "0"}]})],
        Level.UNKNOWN,
        "x receives some messages of a journal",
    ),
    (
        "an operator that is not known",
        [*shards(2), subscribed("x", {"Journal": [{"between": "0"}]})],
        Level.UNKNOWN,
        "x: the operator between",
    ),
    (
        "a filter that cannot be read",
        [*shards(2), Subscription("arn:x", ARN + "x")],
        Level.UNKNOWN,
        "of x cannot be read",
    ),
]


@pytest.mark.parametrize(("subscriptions", "level", "said"), [case[1:] for case in FAULTY], ids=[c[0] for c in FAULTY])
def test_a_share_that_nobody_or_two_queues_receive_is_named(
    subscriptions: list[Subscription], level: Level, said: str
) -> None:
    findings = found(*subscriptions)
    assert any(each is level and said in what for each, what in findings), findings
    assert all(each is not Level.OK for each, _ in findings)


def test_that_no_queue_receives_the_visits_of_a_legacy_pixel_is_said() -> None:
    [(level, what)] = found(subscribed("a", {"Journal": PREFIXES[:8]}), *shards(2)[1:])
    assert level is Level.OK
    assert "none of a legacy .NET pixel" in what


def test_other_ways_to_write_the_same_filters_are_well() -> None:
    upper = {"Type": ["Visit"], "Journal": [{"anything-but": {"prefix": list(DIGITS[:8])}}]}
    assert found(*shards(2)[:1], subscribed("b", upper))[0][0] is Level.OK
    fine = {"Type": ["Visit"], "Journal": [{"prefix": f"{digit}{second}"} for digit in DIGITS[8:] for second in DIGITS]}
    assert found(*shards(2)[:1], subscribed("b", fine))[0][0] is Level.OK
    body = {"Journal": [{"prefix": "0"}]}
    assert found(*shards(2), subscribed("c", body, FilterPolicyScope="MessageBody"))[0][0] is Level.OK


async def test_provision_makes_every_shard_and_a_second_time_changes_nothing(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = uuid4().hex[:8]
    arguments = ["provision", "--endpoint-url", broker.endpoint, "--region", REGION, "--topic", f"t-{name}"]
    arguments += ["--queue", f"q-{name}", "--shards", "4"]
    assert await asyncio.to_thread(cli.main, [*arguments, "--dry-run"]) == 1
    assert capsys.readouterr().out.count(f"topic t-{name}: is created") == 1
    assert await asyncio.to_thread(cli.main, arguments) == 0
    said = capsys.readouterr().out
    assert await asyncio.to_thread(cli.main, [*arguments, "--dry-run"]) == 0
    blocks = said.split("# storage.yaml\n")[1:]
    assert [yaml.safe_load(block)["sqs"]["queue"] for block in blocks] == [f"q-{name}-{shard}" for shard in range(4)]

    async with local_client("sns", broker.endpoint, REGION) as sns, local_client("sqs", broker.endpoint, REGION) as sqs:
        topic = f"arn:aws:sns:{REGION}:000000000000:t-{name}"
        for start in range(0, 256, 5):
            message = pack(f"{start:02x}" * 16, 0, LINE, compress=False)
            typed = {key: {"DataType": "String", "StringValue": value} for key, value in message.attributes.items()}
            await sns.publish(TopicArn=topic, Message=message.body, MessageAttributes=typed)
        await sns.publish(
            TopicArn=topic, Message="{}", MessageAttributes={"Type": {"DataType": "String", "StringValue": "Visit"}}
        )
        counts = []
        for shard in range(4):
            url = (await sqs.get_queue_url(QueueName=f"q-{name}-{shard}"))["QueueUrl"]
            attributes = (await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]))["Attributes"]
            assert json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"] == f"{ARN}q-{name}-{shard}-dlq"
            counts.append(int(attributes["ApproximateNumberOfMessages"]))
        assert counts == [14, 13, 13, 13]  # 52 journals, and what has none


async def test_no_journal_is_given_to_another_queue(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    name = uuid4().hex[:8]

    async def made(*options: str) -> int:
        arguments = ["provision", "--endpoint-url", broker.endpoint, "--region", REGION, "--topic", f"t-{name}"]
        return await asyncio.to_thread(cli.main, [*arguments, "--queue", f"q-{name}", *options])

    assert await made("--dead-letter-queue", f"dead-{name}") == 0
    assert await made("--shards", "2") == 3
    said = capsys.readouterr().err
    assert f"to q-{name}." in said
    assert "use a new topic" in said
    assert await made("--queue", f"copy-{name}", "--dead-letter-queue", f"dead-{name}") == 0  # a second reader

    name = uuid4().hex[:8]
    assert await made("--shards", "2") == 0
    for other in ("1", "4", "16"):
        assert await made("--shards", other, "--dry-run") == 3, other
    async with local_client("sqs", broker.endpoint, REGION) as sqs:
        listed = (await sqs.list_queues(QueueNamePrefix=f"q-{name}"))["QueueUrls"]
    assert len(listed) == 4  # two shards with their dead letters: nothing else was made


async def test_the_doctor_compares_the_filters_and_its_remedy_works(bench: Bench) -> None:
    shards = Names(topic=f"{bench.names.topic}-s", queue=bench.names.queue).shards(2)
    first, second = [await provision(bench.sns, bench.sqs, each) for each in shards]
    pixel = bench.pixel_config({"sns": {"topic_arn": first.topic_arn}})
    storage = bench.storage_config({"sqs": {"queue": shards[0].queue}})

    async def look() -> list[Finding]:
        findings = await bench.doctor(pixel=pixel, storage=storage)
        assert not [each for each in findings if each.subject in ("subscription", "queue") and each.fix]
        return [each for each in findings if each.subject == "shards"]

    async def follow(finding: Finding) -> None:
        words = shlex.split(finding.fix.rpartition(" Then: ")[2])
        assert words[0] == "tracker"
        assert await asyncio.to_thread(cli.main, words[1:]) == 0

    [fine] = await look()
    assert fine.level is Level.OK

    await bench.sns.unsubscribe(SubscriptionArn=second.subscription_arn)
    [fault] = await look()
    assert fault.level is Level.FAULT
    await follow(fault)
    assert [each.level for each in await look()] == [Level.OK]

    await bench.sqs.delete_queue(QueueUrl=second.queue_url)
    fault, _ = await look()
    assert (fault.level, fault.what) == (
        Level.FAULT,
        f"the queue {second.queue_arn} does not exist, but the topic divides the journals with it",
    )
    await provision(bench.sns, bench.sqs, shards[1])
    assert [each.level for each in await look()] == [Level.OK]

    wide = {"Type": ["Visit"], "Journal": [{"prefix": digit} for digit in DIGITS[:9]] + [{"exists": False}]}
    setting = {"AttributeName": "FilterPolicy", "AttributeValue": json.dumps(wide)}
    await bench.sns.set_subscription_attributes(SubscriptionArn=first.subscription_arn, **setting)
    [fault] = await look()
    assert "receives visits of journals that begin with 8" in fault.what
    await follow(fault)
    assert [each.level for each in await look()] == [Level.OK]


async def test_a_canary_of_another_shard_is_no_fault(bench: Bench) -> None:
    shards = Names(topic=f"{bench.names.topic}-s", queue=bench.names.queue).shards(2)
    topic, _ = [(await provision(bench.sns, bench.sqs, each)).topic_arn for each in shards]
    pixel = bench.pixel_config({"sns": {"topic_arn": topic}})
    ports = json.loads(pixel.read_text())
    configs: list[Path] = []
    services = [Service("tracker.pixel", pixel, bench.folder, None, ports["http"]["port"], ports["admin"]["port"])]
    try:
        for shard, names in enumerate(shards):
            file = bench.storage_config(
                {"sqs": {"queue": names.queue}, "log": {"path": str(bench.folder / f"visits-{shard}.log")}}
            )
            configs.append(file.rename(file.with_name(f"storage-{shard}.yaml")))
            admin = json.loads(configs[-1].read_text())["admin"]["port"]
            services.append(Service("tracker.storage", configs[-1], bench.folder, None, 0, admin))
        for service in services:
            service.wait_ready()
        said = {}
        for names, file in zip(shards, configs, strict=True):
            canary = [
                each for each in await bench.doctor(pixel=pixel, storage=file, canary=True) if each.subject == "canary"
            ]
            assert {each.level for each in canary} == {Level.OK}, canary
            said[names.queue] = canary[-1].what
    finally:
        for service in services:
            service.destroy()
    [(own, _)] = [(queue, what) for queue, what in said.items() if what.startswith("from the request to its line")]
    [other] = [what for queue, what in said.items() if queue != own]
    assert f"whose visits go to {own}: its line is not in this storage's log" in other


async def test_provision_completes_one_shard_and_leaves_its_part(bench: Bench) -> None:
    shards = Names(topic=f"{bench.names.topic}-s", queue=bench.names.queue).shards(2)
    made = [await provision(bench.sns, bench.sqs, each) for each in shards]
    await bench.sqs.set_queue_attributes(QueueUrl=made[1].queue_url, Attributes={"MessageRetentionPeriod": "60"})
    arguments = ["provision", "--region", REGION, "--endpoint-url", bench.endpoint, "--topic", shards[1].topic]
    assert await asyncio.to_thread(cli.main, [*arguments, "--queue", shards[1].queue]) == 0
    for each in shards:
        assert not (await provision(bench.sns, bench.sqs, each)).changes
    await bench.sns.unsubscribe(SubscriptionArn=made[0].subscription_arn)
    assert await asyncio.to_thread(cli.main, [*arguments, "--queue", shards[1].queue]) == 0
    assert not (await provision(bench.sns, bench.sqs, shards[1])).changes  # also while the other shard is missing


@pytest.mark.parametrize("queue", ["visits", f"{ARN}visits", "https://sqs.eu-west-1.amazonaws.com/000000000000/visits"])
def test_the_remedy_names_all_shards_in_the_form_in_which_the_queue_is_configured(queue: str) -> None:
    first, _ = shards(2)
    [finding] = check_coverage([first], f"tracker provision --topic tracking --queue {queue}-0 --region {REGION}")
    assert finding.fix == f"tracker provision --topic tracking --queue {queue} --shards 2 --region {REGION}"


def test_the_command_of_the_guide_makes_shards(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    [command] = [each for each in commands("operations.md", "tracker provision") if "--shards" in each]
    words = shlex.split(command)[1:]
    assert cli.main([*words, "--endpoint-url", broker.endpoint]) == 0
    said = capsys.readouterr().out
    assert all(f"queue visits-4-{shard}-dlq: is created" in said for shard in range(4))


@pytest.mark.parametrize("number", ["3", "0", "32", "x"])
def test_other_numbers_of_shards_are_refused(number: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["provision", "--endpoint-url", "http://127.0.0.1:9", "--region", REGION, "--shards", number])
    assert ended.value.code == 2


def test_shards_have_dead_letter_queues_of_their_own() -> None:
    arguments = ["provision", "--endpoint-url", "http://127.0.0.1:9", "--region", REGION, "--shards", "2"]
    assert cli.main([*arguments, "--dead-letter-queue", "dead"]) == 2
