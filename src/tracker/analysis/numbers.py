"""The numbers of a report as JSON, for programs."""

import json
from collections.abc import Sequence
from typing import Any

from tracker.analysis.summary import Count, Summary


def as_json(summary: Summary) -> str:
    """One object. Times have their offset from UTC; docs/analysis.md names the keys. Texts are whole and in ASCII."""
    lists = ("pages", "sites", "browsers", "systems", "devices", "bots", "scanners", "proxies")
    total = summary.total
    return json.dumps(
        {
            "visits": total.visits,
            "people_visits": total.people,
            "proxies_visits": total.proxies,
            "scanners_visits": total.scanners,
            "bots_visits": total.bots,
            "visitors": total.visitors,
            "pages_seen": summary.pages_seen,
            "sites_seen": summary.sites_seen,
            "doctor": summary.doctor,
            "first": summary.first.isoformat() if summary.first else None,
            "last": summary.last.isoformat() if summary.last else None,
            "zone": str(summary.zone),
            "selection": str(summary.selection),
            "files": summary.files,
            "notes": summary.notes,
            "days": [{"day": str(day.day), "visitors": day.visitors, "new": day.new} for day in summary.days],
            "quarters": [{"begin": begin.isoformat()} | _kinds(count) for begin, count in summary.quarters.items()],
        }
        | {name: _rows(getattr(summary, name)) for name in lists},
        indent=1,
    )


def _rows(counts: Sequence[Count]) -> list[dict[str, Any]]:
    return [
        {"name": count.name or None}
        | _kinds(count)
        | {"visitors": count.visitors}
        | ({"note": count.note} if count.note else {})
        for count in counts
    ]


def _kinds(count: Count) -> dict[str, int]:
    return {
        "visits": count.visits, "people": count.people, "proxies": count.proxies, "scanners": count.scanners,
        "bots": count.bots,
    }  # fmt: skip
