"""The settings of the AWS tools (variables and files), read once before a service starts: what is missing or wrong.

Without this check a service would start, and would try in vain until somebody reads its log. A setting that breaks
later, while the service runs, is read again before each try (`clients`).
"""

import os
import ssl
from pathlib import Path
from typing import Any

from botocore.exceptions import NoCredentialsError, NoRegionError, ProfileNotFound
from botocore.session import get_session

from tracker.config_reader import AwsSettings
from tracker.strict_yaml import mistake_line

MAX_ERROR_TEXT = 500
"""An error text of botocore or of another program is cut to this many characters in our messages."""

_FILES = {"config_file": "AWS_CONFIG_FILE", "credentials_file": "AWS_SHARED_CREDENTIALS_FILE"}
_PROFILE_VARIABLES = ("AWS_DEFAULT_PROFILE", "AWS_PROFILE")  # in botocore's order


def read_settings() -> AwsSettings:
    """Read the settings as the clients will. No call is made, and no credential provider is asked."""
    session = get_session()
    for setting, variable in _FILES.items():
        path = Path(session.get_config_variable(setting)).expanduser()
        if path.is_fifo():  # reading it would block until somebody writes to it
            return _broken(f"environment {variable}", f"expected a file, {path} is a pipe")
    try:
        if source := _missing_source_profile(session):
            return _broken(*source)
        region = os.environ.get("AWS_REGION") or session.get_config_variable("region")
        found = find_ca_bundle(session)
    except ProfileNotFound:
        files = " and ".join(str(session.get_config_variable(setting)) for setting in _FILES)
        variable = next((name for name in _PROFILE_VARIABLES if os.environ.get(name)), "AWS_PROFILE")
        return _broken(f"environment {variable}", f"expected a profile of {files}, there is no {session.profile!r}")
    except Exception as error:  # a file that is no INI file; botocore's error names it
        return _broken("AWS settings", error_text(error))
    if found is not None:
        setting, bundle = found
        try:
            load_certificates(Path(bundle))
        except (OSError, ValueError) as error:
            return AwsSettings(
                has_region=bool(region),
                mistakes=(mistake_line(setting, f"expected a file of certificates, {bundle}: {_reason(error)}"),),
            )
    return AwsSettings(has_region=bool(region))


def _missing_source_profile(session: Any) -> tuple[str, str] | None:
    """The setting that names a profile which does not exist, and what was expected. Raises ProfileNotFound."""
    profiles = session.full_config["profiles"]
    name, config, seen = session.profile or "default", session.get_scoped_config(), set[str]()
    while "role_arn" in config and "source_profile" in config and name not in seen:
        seen.add(name)
        source = config["source_profile"]
        if source not in profiles:
            return f"source_profile of the AWS profile {name}", f"expected a profile, there is no {source!r}"
        name, config = source, profiles[source]
    return None


def find_ca_bundle(session: Any) -> tuple[str, str] | None:
    """The setting that names a file of certificates, and the file; None if there is no such setting."""
    if bundle := session.get_config_variable("ca_bundle"):
        if os.environ.get("AWS_CA_BUNDLE"):
            return "environment AWS_CA_BUNDLE", bundle
        return f"ca_bundle of the AWS profile {session.profile or 'default'}", bundle
    if bundle := os.environ.get("REQUESTS_CA_BUNDLE"):
        return "environment REQUESTS_CA_BUNDLE", bundle
    return None


def load_certificates(bundle: Path) -> None:
    """Raises OSError or ssl.SSLError when the file cannot be used; botocore's own error does not name it."""
    if bundle.exists() and not bundle.is_file():  # opening a pipe would block for ever
        raise OSError("it is not a file")
    ssl.create_default_context(cafile=bundle)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return "it has no certificate that can be read"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _broken(source: str, text: str) -> AwsSettings:
    """The Region is not missing as far as one can tell: it may come from the setting that is broken."""
    return AwsSettings(has_region=True, mistakes=(mistake_line(source, text),))


def error_text(error: BaseException) -> str:
    """One line for the operator: what happened and, for the usual errors, what to do."""
    if isinstance(error, NoCredentialsError):
        return "no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role"
    if isinstance(error, NoRegionError):
        return "no AWS region found: set the region in the configuration, with --region, or AWS_REGION"
    if isinstance(error, TimeoutError):
        return "no reply in time: check the endpoint and the network"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_ERROR_TEXT]
