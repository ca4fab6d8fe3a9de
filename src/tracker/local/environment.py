"""The process environment of `make run` and of the local broker: nothing in it leads to AWS or to a proxy."""

import os
from collections.abc import MutableMapping

_PLACEHOLDERS = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_EC2_METADATA_DISABLED": "true",
    # The user's own files may have mistakes, for which botocore ends with an error.
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    # In both forms: on macOS the settings of the system would count if there were none.
    "NO_PROXY": "*",
    "no_proxy": "*",
    # Everything is plain HTTP. Each process would read all certificates of the system, for 50 ms of CPU time.
    "SSL_CERT_FILE": os.devnull,
}

# botocore and requests refuse to work when such a file is missing, also for plain HTTP.
_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def make_local(environ: MutableMapping[str, str], region: str) -> None:
    """Replace all settings of AWS, of moto, of proxies and of certificates by placeholders."""
    for name in list(environ):
        if name.startswith(("AWS_", "BOTO_", "MOTO_")) or name in _CERTIFICATES or name.upper().endswith("_PROXY"):
            del environ[name]
    environ.update(_PLACEHOLDERS, AWS_REGION=region, AWS_DEFAULT_REGION=region)
