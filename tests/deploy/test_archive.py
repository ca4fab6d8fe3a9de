"""The template of the archive is one with the code that writes the archive."""

import re
import threading
from pathlib import Path

import pyarrow.parquet as pq

from tests.archive.closed import close, line
from tests.deploy.test_aws import ARCHIVE, actions, resources
from tracker.archive.lines import ClosedLog
from tracker.archive.objects import make_objects

from .tools import ROOT

# What IAM calls the permission of each call of S3.
PERMISSIONS = {
    "head_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "list_object_versions": "s3:ListBucketVersions",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "get_object": "s3:GetObjectVersion",  # each call has a version
    "get_object_tagging": "s3:GetObjectVersionTagging",
    "get_object_acl": "s3:GetObjectVersionAcl",
    "delete_object": "s3:DeleteObjectVersion",
}
HEADERS = {"s3:PutObjectTagging"} | {  # of a put, and of the reply to get_object
    f"s3:{action}Object{lock}" for action in ("Get", "Put") for lock in ("Retention", "LegalHold")
}
TYPES = {"timestamp": "timestamp[us, tz=UTC]", "string": "string", "bigint": "int64"}


def permissions(*modules: str) -> set[str]:
    """Those of all calls of S3 in these modules, and the one with which S3 answers 404 and not 403."""
    text = "".join((ROOT / f"src/tracker/aws/{module}.py").read_text() for module in modules)
    return {PERMISSIONS[call] for call in re.findall(r"client\.([a-z_]+)\(", text)} | {"s3:ListBucket"}


def test_the_policy_allows_what_the_archiver_calls_and_nothing_at_the_queue() -> None:
    assert actions("ArchivePolicy", ARCHIVE) == permissions("bucket")


def test_the_policy_of_the_erasure_allows_what_it_calls_and_the_archiver_can_delete_nothing() -> None:
    assert actions("ErasePolicy", ARCHIVE) == permissions("bucket", "versions") | HEADERS
    assert not [action for action in actions("ArchivePolicy", ARCHIVE) if "Delete" in action or "Version" in action]


def test_the_doctor_may_look_at_the_bucket_and_at_no_object_but_the_one_that_it_asks_for() -> None:
    source = "".join(
        (ROOT / f"src/tracker/operations/{module}.py").read_text() for module in ("archive_checks", "upload_checks")
    )
    [key] = re.findall(r'f"\{prefix\}([\w-]+)"', source)
    calls = set(re.findall(r"(?:s3|versions)\.(get_\w+|head_\w+|list_\w+|uploads)\(", source))
    named = {
        "list_objects_v2": "s3:ListBucket",
        "head_object": "s3:GetObject",
        "uploads": "s3:ListBucketMultipartUploads",
        "get_bucket_versioning": "s3:GetBucketVersioning",
        "get_public_access_block": "s3:GetBucketPublicAccessBlock",
        "get_bucket_lifecycle_configuration": "s3:GetLifecycleConfiguration",
    }
    assert actions("ArchiveDoctorPolicy", ARCHIVE) == {named[call] for call in calls}
    document = resources(ARCHIVE)["ArchiveDoctorPolicy"]["PolicyDocument"]
    [read] = [each["Resource"] for each in document["Statement"] if "s3:GetObject" in each["Action"]]
    assert read.endswith(f"/${{Prefix}}/{key}")


def test_the_table_has_the_columns_of_an_object_and_finds_its_day(tmp_path: Path) -> None:
    with ClosedLog(close(tmp_path / "visits.log", line(1))) as log:
        [made] = make_objects(log, tmp_path, threading.Event()).objects
    table = resources(ARCHIVE)["Table"]["TableInput"]
    assert {each["Name"]: TYPES[each["Type"]] for each in table["StorageDescriptor"]["Columns"]} == {
        field.name: str(field.type) for field in pq.read_schema(made.file)
    }
    location = table["Parameters"]["storage.location.template"].removeprefix("!Sub ")
    pattern = location.rpartition("}/")[2].replace("${!date}", r"\d{4}-\d\d-\d\d")
    assert re.fullmatch(pattern, made.name.partition("/")[0])


def test_the_bucket_is_private_encrypted_and_keeps_versions() -> None:
    bucket = resources(ARCHIVE)["Bucket"]
    assert all(bucket["PublicAccessBlockConfiguration"].values())
    assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    rules = bucket["LifecycleConfiguration"]["Rules"]
    assert any("AbortIncompleteMultipartUpload" in rule for rule in rules)
