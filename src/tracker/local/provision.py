"""Creates at the local broker what `tracker provision` creates at AWS, with placeholders as credentials."""

import functools
from typing import Any

from aiobotocore.session import AioSession, get_session

from tracker.operations.provision import Provisioned, provision


async def provision_at(endpoint_url: str, region: str) -> Provisioned:
    """Create everything at a local broker, which accepts any credentials."""
    async with local_client("sns", endpoint_url, region) as sns, local_client("sqs", endpoint_url, region) as sqs:
        return await provision(sns, sqs)


async def make_bucket(endpoint_url: str, region: str, name: str) -> None:
    """Create a bucket of S3 at a local broker."""
    async with local_client("s3", endpoint_url, region) as s3:
        await s3.create_bucket(Bucket=name)


def local_client(service: str, endpoint_url: str, region: str) -> Any:
    """A context manager with a client that never looks for real credentials."""
    return _session().create_client(
        service,
        region_name=region,
        endpoint_url=endpoint_url,
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )


@functools.cache
def _session() -> AioSession:
    """One session for all clients: to make it takes three times as long as to make a client."""
    return get_session()
