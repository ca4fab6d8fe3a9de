"""The local broker of the tests of the operator's commands serves here as well."""

from tests.operations.conftest import broker

__all__ = ["broker"]
