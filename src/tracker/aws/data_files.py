"""Reads botocore's data files: the models of the services, and the endpoints of every service in every Region.

botocore's own reader makes ordered dictionaries of all that is in a file. Those of `endpoints.json` take 7 MB of
memory, and a client needs one service of it. Therefore:

1. A file is decoded into plain dictionaries, which take less memory and time.
2. The services in `endpoints.json` stay JSON. One that is looked up is decoded then.
"""

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from botocore.loaders import JSONFileLoader

_ENDPOINTS = "endpoints"


class DataFiles(JSONFileLoader):  # type: ignore[misc]
    """What botocore's `Loader` calls to read a file. `file_path` has no extension."""

    def load_file(self, file_path: str) -> dict[str, Any] | None:
        """The content of the file; None if it does not exist. Raises OSError, and ValueError if it is not JSON."""
        plain, packed = Path(f"{file_path}.json"), Path(f"{file_path}.json.gz")
        if plain.is_file():
            data = plain.read_bytes()
        elif packed.is_file():
            data = gzip.decompress(packed.read_bytes())
        else:
            return None
        if plain.stem == _ENDPOINTS:
            return _endpoints(data)
        content: dict[str, Any] = msgspec.json.decode(data)
        return content


class _Services(Mapping[str, Any]):
    """The services of a partition by name, each decoded when it is looked up."""

    def __init__(self, encoded: msgspec.Raw) -> None:
        self._encoded = msgspec.json.decode(encoded, type=dict[str, msgspec.Raw])

    def __getitem__(self, name: str) -> Any:
        return msgspec.json.decode(self._encoded[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._encoded)

    def __len__(self) -> int:
        return len(self._encoded)


def _endpoints(data: bytes) -> dict[str, Any]:
    file = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    partitions = msgspec.json.decode(file.pop("partitions"), type=list[dict[str, msgspec.Raw]])
    return {
        **{name: msgspec.json.decode(value) for name, value in file.items()},
        "partitions": [
            {
                name: _Services(value) if name == "services" else msgspec.json.decode(value)
                for name, value in each.items()
            }
            for each in partitions
        ],
    }
