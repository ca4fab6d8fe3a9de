"""What a bucket of S3 holds: the current objects, their older versions, and uploads that are not completed."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass
class Object:
    """One version. Without versioning its id is `null`. A locked one cannot be deleted."""

    body: bytes
    digest: str
    version: str = "null"
    headers: dict[str, str] = field(default_factory=dict)
    """All other headers of its put that S3 keeps, with lower-case names."""
    locked_until: datetime | None = field(default=None, kw_only=True)
    restored: bool = field(default=False, kw_only=True)
    """Whether one of the storage class GLACIER can be read for some days."""

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.body).hexdigest()}"'


@dataclass
class Parts:
    """An upload in parts."""

    key: str
    digest: str
    headers: dict[str, str] = field(default_factory=dict)
    bodies: dict[int, bytes] = field(default_factory=dict)
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))


class Store:
    """The content of one bucket. `versioned` may be changed, as by enabling and suspending the versioning."""

    def __init__(self, *, versioned: bool = False) -> None:
        self.versioned = versioned
        self.objects: dict[str, Object] = {}
        """The current ones. A key that is missing here and has older versions is under a delete marker."""
        self.older: dict[str, list[Object]] = {}
        """The other versions of each key, the oldest first."""
        self.uploads: dict[str, Parts] = {}
        self._made = 0

    def put(self, key: str, body: bytes, digest: str, headers: dict[str, str] | None = None) -> Object:
        """Replace an object without a condition, as somebody else may do it, too."""
        self._put_aside(key)
        self._made += 1
        version = f"version-{self._made}" if self.versioned else "null"
        self.objects[key] = made = Object(body, digest, version, dict(headers or {}))
        return made

    def mark_deleted(self, key: str) -> None:
        """Delete an object without naming a version."""
        self._put_aside(key)

    def _put_aside(self, key: str) -> None:
        current = self.objects.pop(key, None)
        if not self.versioned:  # the version `null` is replaced, wherever it is
            self.older[key] = [each for each in self.older.get(key, []) if each.version != "null"]
        if current is not None and (self.versioned or current.version != "null"):
            self.older.setdefault(key, []).append(current)

    def find(self, key: str, version: str) -> Object | None:
        return next((each for each in self._of(key) if each.version == version), None)

    def delete(self, key: str, version: str) -> bool:
        """Delete one version. The latest of the others becomes current. False when it is locked."""
        found = self.find(key, version)
        if found is None:
            return True
        if found.locked_until is not None:
            return False
        older = self.older.get(key, [])
        if found is self.objects.get(key):
            del self.objects[key]
            if older:
                self.objects[key] = older.pop()
        else:
            older.remove(found)
        return True

    def versions(self, prefix: str = "") -> list[tuple[str, Object, bool]]:
        """Key, version, and whether it is current: in the order of the keys, of each the latest first."""
        keys = sorted({*self.objects, *self.older})
        return [
            (key, each, each is self.objects.get(key))
            for key in keys
            if key.startswith(prefix)
            for each in self._of(key)
        ]

    def _of(self, key: str) -> Iterator[Object]:
        if key in self.objects:
            yield self.objects[key]
        yield from reversed(self.older.get(key, []))
