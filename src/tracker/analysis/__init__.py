"""Reports and exports of the visit log: `tracker report` and `tracker export`.

This package only reads log files. Of the services it knows the log line, which `core` defines, and the names of log
files. DuckDB, rich and the lists of user agents are imported in this package only, and only when a command runs. They
are the `analysis` extra.
"""

from tracker import extras

_PACKAGES = {
    **extras.ZSTD,
    "duckdb": "DuckDB",
    "rich": "rich",
    "ua_parser": "ua-parser",
    "ua_parser_rs": "ua-parser-rs",
    "crawleruseragents": "crawler-user-agents",
}


def require_extra() -> None:
    """Raises TrackerError, with what to install, when a package of the extra is missing."""
    extras.require(_PACKAGES, "analysis", "reports and exports need")
