"""The report as one HTML page. It has no script and loads nothing. It suits light and dark screens, phones and paper.

What a visitor sent is text on the page and never markup, because every name goes through `text.escaped`. As a second
protection, the Content-Security-Policy of the page allows only its own style sheet, by its hash.
"""

import base64
import hashlib
import html
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib import resources

from tracker.analysis.charts import columns, heat_map, ranking
from tracker.analysis.summary import Summary
from tracker.analysis.text import escaped, number, share
from tracker.analysis.timeline import timeline
from tracker.core.printable import printable

_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect x='5' y='5' width='6' height='6' rx='1' fill='%23d9480f'/%3E%3C/svg%3E"
)
_MOST_DAYS = 120  # in a chart
_DEFINITIONS = (
    "A visit is one loading of the pixel; its page is what the browser sent as referrer. A visitor is an address with "
    "a user agent: people who share both are one, a person with two devices is two. Proxies, mail scanners and bots "
    "are recognised by their user agent. Those that send a browser's are counted as people."
)
_WHEN = (
    "People's visits in an hour of a weekday: the mean of all Mondays, all Tuesdays, ... between first and last visit"
)
_KINDS = (
    ("people", "People"),
    ("proxies", "Mail and image proxies"),
    ("scanners", "Mail scanners"),
    ("bots", "Bots"),
)


def render(summary: Summary, *, refresh: int | None = None) -> str:
    """The page. With `refresh` it reloads itself after this many seconds."""
    style, digest = _style()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n{again}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        '<meta name="robots" content="noindex">\n<title>Visits</title>\n'
        f'<link rel="icon" href="{_ICON}">\n<style>{style}</style>\n</head>\n<body>\n<main>\n'
        + "\n".join([_header(summary, live=refresh is not None), *_body(summary), _footer(summary)])
        + "\n</main>\n</body>\n</html>\n"
    )


@cache
def _style() -> tuple[str, str]:
    text = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    return text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _body(summary: Summary) -> list[str]:
    if not summary.total.visits:
        return ['<section class="wide"><p class="none">No visit.</p></section>']
    people, visits = summary.total.people, summary.total.visits
    return [
        _numbers(summary),
        _over_time(summary),
        _card("When people visit", heat_map(summary.hours), "wide", hint=_WHEN),
        _new_and_returning(summary),
        _card("Pages", ranking(summary.pages, "Page", missing="no page was sent", whole=visits), "most"),
        _card("Sites and groups", ranking(summary.sites, "Site or group", missing="no page was sent", whole=visits)),
        _card("Browsers", ranking(summary.browsers, "Browser", whole=people), hint="of people"),
        _card("Systems", ranking(summary.systems, "System", whole=people), hint="of people"),
        _card("Devices", ranking(summary.devices, "Device", whole=people), hint="of people"),
        _card("Bots", ranking(summary.bots, "Bot", whole=visits, visitors=False)),
        _card("Mail scanners", ranking(summary.scanners, "Scanner", whole=visits, visitors=False)),
        _card("Mail and image proxies", ranking(summary.proxies, "Proxy", whole=visits, visitors=False)),
    ]


def _header(summary: Summary, *, live: bool) -> str:
    span = ""
    if summary.first is not None and summary.last is not None:
        span = f"{_time(summary.first)} to {_time(summary.last)}, {escaped(str(summary.zone))}"
    only = f'<p class="only">Only {escaped(str(summary.selection))}</p>' if str(summary.selection) else ""
    return f"<header><h1><i></i>Visits{' <b>live</b>' if live else ''}</h1><p>{span}</p>{only}</header>"


def _numbers(summary: Summary) -> str:
    total = summary.total
    on_sites = f"in {number(summary.sites_seen)} {'site or group' if summary.sites_seen == 1 else 'sites and groups'}"
    tiles = [
        ("Visits", number(total.visits), ""),
        ("Visitors", number(total.visitors), "people, by address and browser"),
        ("Pages", number(summary.pages_seen), on_sites),
        ("People", share(total.people, total.visits), f"{number(total.people)} visits"),
        ("Proxies", share(total.proxies, total.visits), f"{number(total.proxies)} visits"),
        ("Scanners", share(total.scanners, total.visits), f"{number(total.scanners)} visits"),
        ("Bots", share(total.bots, total.visits), f"{number(total.bots)} visits"),
    ]
    body = "".join(f"<div><dt>{name}</dt><dd>{value}</dd><dd>{hint}</dd></div>" for name, value, hint in tiles)
    return f'<dl class="numbers">{body}</dl>'


def _over_time(summary: Summary) -> str:
    line = timeline(summary.quarters)
    rows = [(bar.name, (bar.people, bar.proxies, bar.scanners, bar.bots)) for bar in line.bars]
    title = f"Visits by {line.step}"
    table = _table([line.step.capitalize(), *(name for _, name in _KINDS)], rows)
    return _card(title, columns(rows, [kind for kind, _ in _KINDS], title) + _legend(_KINDS) + table, "wide")


def _new_and_returning(summary: Summary) -> str:
    if len(summary.days) < 2:
        return ""  # with one day only, everybody is new
    rows = [(f"{day.day:%a %d %b %Y}", (day.visitors - day.new, day.new)) for day in summary.days]
    legend = (("people", "Returning: seen on an earlier day of this report"), ("new", "New: not seen before in it"))
    table = _table(["Day", "Returning", "New"], rows)
    chart = columns(rows[-_MOST_DAYS:], ["people", "new"], "New and returning visitors by day")
    hint = "On the first day everybody is new, because the report does not know earlier visits"
    if len(rows) > _MOST_DAYS:
        hint += f". The chart shows the last {_MOST_DAYS} days, the table all"
    return _card("New and returning visitors", chart + _legend(legend) + table, "wide", hint=hint)


def _card(title: str, body: str, size: str = "small", *, hint: str = "") -> str:
    """A box of the page; `size` is its class: small, most or wide."""
    said = f"<p>{hint}</p>" if hint else ""
    return f'<section class="{size}"><h2>{title}</h2>{said}{body}</section>'


def _legend(kinds: Sequence[tuple[str, str]]) -> str:
    return '<ul class="legend">' + "".join(f'<li class="{kind}">{name}</li>' for kind, name in kinds) + "</ul>"


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[int]]]) -> str:
    """The numbers of a chart, shown on a click."""
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{number(value)}</td>" for value in values)}</tr>'
        for name, values in rows
    )
    return (
        f"<details><summary>Table</summary><table><thead><tr>{names}</tr></thead>"
        f"<tbody>{body}</tbody></table></details>"
    )


def _footer(summary: Summary) -> str:
    paragraphs = [_DEFINITIONS, *(html.escape(printable(note)) for note in summary.notes)]
    files = ", ".join(f"<code>{escaped(name)}</code>" for name in summary.files)
    return f"<footer>{''.join(f'<p>{text}</p>' for text in paragraphs)}<p>Read from {files}</p></footer>"


def _time(moment: datetime) -> str:
    return f"{moment.day} {moment:%b %Y, %H:%M}"
