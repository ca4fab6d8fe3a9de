"""botocore's data files, read by our reader: the same content, in less memory."""

import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import JSONFileLoader, Loader
from botocore.regions import EndpointResolver

from tracker.aws.data_files import DataFiles

DATA = Path(Loader.BUILTIN_DATA_PATH)


def plain(content: Any) -> Any:
    """The content with plain dictionaries, so that any two mappings with the same items are equal."""
    if isinstance(content, Mapping):
        return {name: plain(value) for name, value in content.items()}
    return [plain(each) for each in content] if isinstance(content, list) else content


@pytest.mark.parametrize("name", ["endpoints", "partitions", "sdk-default-configuration", "sns/2010-03-31/service-2"])
def test_a_file_has_the_content_that_botocore_reads(name: str) -> None:
    assert DataFiles().exists(str(DATA / name))
    assert plain(DataFiles().load_file(str(DATA / name))) == plain(JSONFileLoader().load_file(str(DATA / name)))


def test_a_file_that_is_not_there_has_no_content() -> None:
    assert not DataFiles().exists(str(DATA / "nothing"))
    assert DataFiles().load_file(str(DATA / "nothing")) is None


@pytest.mark.parametrize("extension", [".json", ".json.gz"])
def test_a_file_that_is_not_json_is_an_error_as_with_botocore(tmp_path: Path, extension: str) -> None:
    (tmp_path / f"endpoints{extension}").write_bytes(b"not JSON")
    for files in (DataFiles(), JSONFileLoader()):
        with pytest.raises((ValueError, OSError)):
            files.load_file(str(tmp_path / "endpoints"))


def test_an_endpoint_is_the_one_that_botocore_finds() -> None:
    ours, theirs = (
        EndpointResolver(files.load_file(str(DATA / "endpoints"))) for files in (DataFiles(), JSONFileLoader())
    )
    for service in ("sns", "sqs", "s3", "sts", "kms", "portal.sso", "oidc", "a service of next year"):
        assert ours.get_available_endpoints(service) == theirs.get_available_endpoints(service)
        for region in ("us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1", "aws-global", "xx-1"):
            assert ours.construct_endpoint(service, region) == theirs.construct_endpoint(service, region)


def test_services_that_nobody_looks_up_take_little_memory() -> None:
    sizes = {}
    for files in (DataFiles(), JSONFileLoader()):
        tracemalloc.start()
        resolver = EndpointResolver(files.load_file(str(DATA / "endpoints")))
        resolver.construct_endpoint("sns", "us-east-1")
        sizes[type(files)] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert sizes[DataFiles] < sizes[JSONFileLoader] / 2
