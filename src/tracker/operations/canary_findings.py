"""What the doctor says of its canary: which steps were seen and after which time, or what a missing one means."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tracker.operations.findings import Finding, fault, ok, unknown


@dataclass
class Trace:
    """When each step was seen, by the monotonic clock; None where it was not seen."""

    token: str
    sent: float
    answered: float | None = None
    accepted: float | None = None
    received: float | None = None
    line: float | None = None
    ip: str = ""
    elsewhere: str = ""  # the journal and the queue, if another storage has it
    unseen: dict[str, str] = field(default_factory=dict)  # steps that could not be checked from here, and why


def findings_of(seen: Trace, *, followed: bool, direct: bool) -> list[Finding]:
    """One finding for each step; without `followed`, only the answer and SNS's acceptance could be looked for.

    `direct` says that the canary passed no proxy, so that its address proves nothing about the proxies in front.
    """
    assert seen.answered is not None
    findings = [ok("canary", f"answered with the GIF after {_ms(seen.answered - seen.sent)}")]
    steps: list[tuple[str, str, Callable[[], Finding]]] = [
        ("accepted", "accepted by SNS", _not_accepted),
        ("received", "received by storage from SQS", _not_received),
        ("line", "a line of the visit log", _no_line),
    ]
    before = seen.answered
    is_followed = followed and not seen.elsewhere
    for step, words, missing in steps if is_followed else steps[:1]:
        at = getattr(seen, step)
        if at is not None:
            at = max(at, before)
            findings.append(ok("canary", f"{words} after {_ms(at - before)}"))
            before = at
        elif step in seen.unseen:
            findings.append(
                unknown(
                    "canary",
                    f"{words}: this step could not be checked from here: {seen.unseen[step]}",
                    fix=_RUN_AS_THE_SERVICE,
                )
            )
        elif seen.line is None:
            findings.append(missing())
            break
    if seen.line is not None:
        total = _ms(seen.line - seen.sent)
        way = "; it went to the pixel directly, and --url URL sends it through the proxies in front" if direct else ""
        findings.append(ok("canary", f"from the request to its line {total}, logged with the address {seen.ip}{way}"))
    elif seen.elsewhere and seen.accepted is not None:
        findings.append(_of_another_storage(seen))
    elif not followed and seen.accepted is not None:
        findings.append(_on_the_other_host(seen.token))
    return findings


_RUN_AS_THE_SERVICE = "run the doctor where the service runs, as its user: sudo -u tracker tracker doctor …"


def no_gif(url: str, what: str) -> Finding:
    return fault(
        "canary",
        f"no GIF from {url}: {what}",
        why="visitors get no GIF either",
        fix="check that the pixel runs, that the URL is right (http.path), and that proxies in front let it through",
    )


def _not_accepted() -> Finding:
    return fault(
        "canary",
        "answered, but SNS did not accept it in time (or it was not recorded)",
        why="visits wait in the outbox, or are discarded",
        fix="read the pixel's findings above; a rate limit or a privacy signal discards a canary too",
    )


def _not_received() -> Finding:
    return fault(
        "canary",
        "accepted by SNS, but storage received nothing in time",
        why="SNS or SQS still has it, or it was delivered to another consumer, or to none",
        fix="read the findings on subscription, filter and policy above; check what else reads this queue",
    )


def _no_line() -> Finding:
    return fault(
        "canary",
        "the visit log did not get its line in time",
        why="it is still in the queue, or storage cannot write, or storage writes to another file than log.path",
        fix="read storage's findings above; check that storage runs with this configuration",
    )


def _on_the_other_host(token: str) -> Finding:
    return ok("canary", f"its line was not looked for (no --storage); on storage's host: grep -c {token} <log.path>")


def _of_another_storage(seen: Trace) -> Finding:
    return ok(
        "canary",
        f"it is of {seen.elsewhere}: its line is not in this storage's log; look in that of the storage of this queue: "
        f"grep -c {seen.token} <log.path>. Run the doctor again to follow a visit of this storage",
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
