"""The numbers of a report as JSON, for programs."""

import json
from collections.abc import Sequence
from typing import Any

from tracker.analysis.summary import Count, Summary

_LISTS = ("pages", "sites", "browsers", "systems", "devices", "bots", "scanners", "proxies")


def as_json(summary: Summary) -> str:
    """One object with all fields of the summary. Times have their offset from UTC. Texts are whole and in ASCII."""
    selection = summary.selection
    numbers = {
        "zone": str(summary.zone),
        "selection": {
            "since": selection.since.isoformat() if selection.since else None,
            "until": selection.until.isoformat() if selection.until else None,
            "page": selection.page,
            "exclude_bots": selection.exclude_bots,
        },
        "files": summary.files,
        "notes": summary.notes,
        "lines": summary.lines,
        "malformed": summary.malformed,
        "doctor": summary.doctor,
        "total": _kinds(summary.total) | {"visitors": summary.total.visitors},
        "pages_seen": summary.pages_seen,
        "sites_seen": summary.sites_seen,
        "first": summary.first.isoformat() if summary.first else None,
        "last": summary.last.isoformat() if summary.last else None,
        "quarters": [{"begin": begin.isoformat()} | _kinds(count) for begin, count in summary.quarters],
        "hours": summary.hours,
        "days": [{"day": str(day.day), "visitors": day.visitors, "new": day.new} for day in summary.days],
    }
    return json.dumps(numbers | {name: _rows(getattr(summary, name)) for name in _LISTS}, indent=1)


def _rows(counts: Sequence[Count]) -> list[dict[str, Any]]:
    return [
        {"name": count.name or None, "note": count.note or None} | _kinds(count) | {"visitors": count.visitors}
        for count in counts
    ]


def _kinds(count: Count) -> dict[str, int]:
    return {
        "visits": count.visits, "people": count.people, "proxies": count.proxies, "scanners": count.scanners,
        "bots": count.bots,
    }  # fmt: skip
