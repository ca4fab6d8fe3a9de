"""Checks of uploads in parts to the archive, and of the rule of the bucket that ends them.

S3 charges for the parts of an upload that is neither completed nor aborted. They are no objects, so no listing of
objects and no report has them. A killed archiver, or one that lost the network, leaves such an upload.
"""

import json
import shlex
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from typing import Any, TypeVar

from tracker.aws import ask, bucket_and_prefix
from tracker.aws.versions import Upload, open_versions
from tracker.config import ArchiveConfig
from tracker.errors import AwsRefused
from tracker.operations.findings import Finding, ok, unknown, warning

STACK = "deploy/aws/archive.yaml"

_RULE = "RemoveUploadsThatWereNotCompleted"  # its name in the stack
_RULE_DAYS = 7
_RUNNING_DAYS = 1.0  # a younger upload may still be running
_LATE_DAYS = 2.0  # S3 applies its rules once a day, not at the minute
_SHOWN = 10
_WHY = "S3 charges for the parts of an upload that is not completed, and no listing of objects shows them"

T = TypeVar("T")


async def check_uploads(config: ArchiveConfig, s3: Any) -> AsyncIterator[Finding]:
    bucket, prefix = bucket_and_prefix(config)
    found = await looked_up(_lifecycle(s3, bucket), "s3:GetLifecycleConfiguration")
    days = None
    if isinstance(found, Finding):
        yield found
    elif (days := _days(found["Rules"], prefix)) is not None:
        yield ok("archive", f"a rule of the bucket ends uploads that are not completed, after {days} days")
    else:
        yield warning(
            "archive",
            "no rule of the bucket ends uploads that are not completed",
            why=_WHY,
            fix=_command("put-bucket-lifecycle-configuration", config, *_with_rule(found, prefix)),
        )
    async with open_versions(config) as versions:
        uploads = await looked_up(versions.uploads(prefix), "s3:ListBucketMultipartUploads")
    yield uploads if isinstance(uploads, Finding) else _uploads(uploads, config, days)


async def looked_up(call: Awaitable[T], permission: str) -> T | Finding:
    """What `call` returns, or a finding when these credentials may not make it."""
    try:
        return await call
    except AwsRefused as error:
        if not error.is_denied:
            raise
        return unknown(
            "archive",
            f"{permission} is denied",
            fix=f"run the doctor with the policy ArchiveDoctorPolicy of {STACK}; the archiver does not need it",
        )


async def _lifecycle(s3: Any, bucket: str) -> dict[str, Any]:
    try:
        return {"Rules": []} | await ask(s3.get_bucket_lifecycle_configuration(Bucket=bucket))
    except AwsRefused as error:
        if error.status != 404:
            raise
        return {"Rules": []}


def _days(rules: list[dict[str, Any]], prefix: str) -> int | None:
    """The days after which a rule ends the uploads of all keys that begin with `prefix`; None if no rule does."""
    days = [
        rule["AbortIncompleteMultipartUpload"].get("DaysAfterInitiation", 0)
        for rule in rules
        if rule.get("Status") == "Enabled"
        and "AbortIncompleteMultipartUpload" in rule
        and rule.get("Filter", {}).keys() <= {"Prefix"}
        and prefix.startswith(rule.get("Prefix") or rule.get("Filter", {}).get("Prefix", ""))
    ]
    return min(days, default=None)


def _with_rule(found: dict[str, Any], prefix: str) -> list[str]:
    """The options that set the rules of the bucket once more, with one that ends uploads below `prefix`.

    The call replaces all rules. Rules of the old form have no filter, and S3 does not take both forms at once.
    """
    kept = [rule for rule in found["Rules"] if rule.get("ID") != _RULE]
    is_old_form = any("Prefix" in rule for rule in kept)
    rule = {
        "ID": _RULE,
        "Status": "Enabled",
        **({"Prefix": prefix} if is_old_form else {"Filter": {"Prefix": prefix}}),
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _RULE_DAYS},
    }
    options = ["--lifecycle-configuration", json.dumps({"Rules": [*kept, rule]}, default=datetime.isoformat)]
    if size := found.get("TransitionDefaultMinimumObjectSize"):
        options += ["--transition-default-minimum-object-size", size]
    return options


def _uploads(uploads: list[Upload], config: ArchiveConfig, rule_days: int | None) -> Finding:
    if not uploads:
        return ok("archive", "every upload in parts is completed")
    uploads = sorted(uploads, key=lambda each: each.begun)
    limit = _RUNNING_DAYS if rule_days is None else rule_days + _LATE_DAYS
    now = datetime.now(UTC)
    old = [each for each in uploads if (now - each.begun).total_seconds() > limit * 86_400]
    since = f"the oldest, of {uploads[0].key}, since {uploads[0].begun:%Y-%m-%d %H:%M} UTC"
    if not old:
        return ok("archive", f"{len(uploads)} uploads in parts are not completed, {since}: they may be running")
    commands = [
        _command("abort-multipart-upload", config, "--key", each.key, "--upload-id", each.id) for each in old[:_SHOWN]
    ]
    return warning(
        "archive",
        f"{len(uploads)} uploads in parts are not completed, {since}",
        why=_WHY,
        fix=" && ".join(commands) + ("" if len(old) <= _SHOWN else f" # and {len(old) - _SHOWN} more"),
    )


def _command(name: str, config: ArchiveConfig, *options: str) -> str:
    """A command of the AWS CLI, as one can paste it."""
    bucket, _ = bucket_and_prefix(config)
    place = [("--region", config.region), ("--endpoint-url", config.endpoint_url)]
    words = [word for option, value in place if value for word in (option, value)]
    return shlex.join(["aws", "s3api", name, "--bucket", bucket, *words, *options])
