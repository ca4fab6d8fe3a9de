"""What an object of S3 has beside its content, so that it can be replaced without losing any of it.

Three calls return it: GetObject has most of it, and the tags and the grants to other accounts have a call each. One put
sets all of it. A few things follow from the put and cannot be kept: the version, the time of its creation, from which
the rules of a bucket count, and the checksum.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote, urlencode

import msgspec

KEPT = (
    "Metadata",
    *("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType", "Expires"),
    "WebsiteRedirectLocation",
    "StorageClass",
    *("ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled"),
    "ObjectLockLegalHoldStatus",
    *("ObjectLockEventHold", "ObjectLockEventHoldDurationDays", "ObjectLockEventHoldDurationYears"),
)
"""The members of the reply to GetObject that a put takes back as they are, by AWS's own names."""
KEPT_UNTIL = ("ObjectLockMode", "ObjectLockRetainUntilDate")
"""The same, but only before that date: S3 refuses a put with a date that has passed."""

_REPLICATED = {"PENDING", "COMPLETED", "REPLICA"}
_GRANTS = {
    "FULL_CONTROL": "GrantFullControl",
    "READ": "GrantRead",
    "READ_ACP": "GrantReadACP",
    "WRITE_ACP": "GrantWriteACP",
}


@dataclass(frozen=True, slots=True)
class Held:
    """What a put must have so that the object stays what it was, but for its tags and its grants."""

    settings: dict[str, Any]
    lock: str | None = None
    """Why this version cannot be deleted, if Object Lock forbids it."""
    is_replicated: bool = False
    """Whether S3 copies it to another bucket, or has copied it from one."""


class Tag(msgspec.Struct, frozen=True):
    """A tag, by AWS's own names."""

    Key: str
    Value: str = ""


class Tags(msgspec.Struct, frozen=True):
    """The reply to GetObjectTagging."""

    TagSet: list[Tag] = []


class Grantee(msgspec.Struct, frozen=True):
    """An account, by its ID, or a group of callers, by its URI."""

    ID: str = ""
    URI: str = ""


class Grant(msgspec.Struct, frozen=True):
    """What a grantee may do. AWS's fifth permission, WRITE, is one of buckets."""

    Grantee: Grantee
    Permission: Literal["FULL_CONTROL", "READ", "READ_ACP", "WRITE_ACP"]


class AccessList(msgspec.Struct, frozen=True):
    """The reply to GetObjectAcl. With the bucket's ACLs disabled it has the owner alone. Other servers name nobody."""

    Owner: Grantee = Grantee()
    Grants: list[Grant] = []


def held_of(reply: dict[str, Any]) -> Held:
    """What the reply to GetObject says of an object."""
    until = reply.get("ObjectLockRetainUntilDate")
    names = KEPT if until is None or until <= datetime.now(UTC) else KEPT + KEPT_UNTIL
    return Held(
        settings={name: reply[name] for name in names if reply.get(name) not in (None, "OFF")},
        lock=_lock(reply),
        is_replicated=reply.get("ReplicationStatus") in _REPLICATED,
    )


def tagging(tags: Iterable[Tag]) -> dict[str, str]:
    """The parameter of a put that sets these tags. Only AWS itself may set those of `aws:`."""
    text = urlencode([(tag.Key, tag.Value) for tag in tags if not tag.Key.startswith("aws:")], quote_via=quote)
    return {"Tagging": text} if text else {}


def granting(access: AccessList) -> dict[str, str]:
    """The parameters of a put that grant the same. Without a grant to others than the owner there are none.

    The grants of a put replace those that it has by default, so the owner's own ones are among them.
    """
    if all(each.Grantee.ID == access.Owner.ID for each in access.Grants):
        return {}
    grants = defaultdict[str, list[str]](list)
    for each in access.Grants:
        grantee = f'uri="{each.Grantee.URI}"' if each.Grantee.URI else f'id="{each.Grantee.ID}"'
        grants[_GRANTS[each.Permission]].append(grantee)
    return {name: ", ".join(grantees) for name, grantees in grants.items()}


def _lock(reply: dict[str, Any]) -> str | None:
    if reply.get("ObjectLockLegalHoldStatus") == "ON":
        return "it is under a legal hold"
    if reply.get("ObjectLockEventHold") == "ON":
        return "it is under an event hold"
    if until := reply.get("ObjectLockRetainUntilDate"):
        return f"it is locked until {until:%Y-%m-%d %H:%M} UTC ({reply.get('ObjectLockMode', 'Object Lock')})"
    return None
