"""What `make run` prints once all parts are ready: where everything is, and what can be typed."""

import contextlib
import shlex
import sys
from pathlib import Path

from tracker.archive.command import PAUSE_SECONDS
from tracker.local.demo import embed_snippet
from tracker.local.plan import Plan


def announcement(plan: Plan) -> str:
    log = plan.storage.log.path
    return f"""
  demo page    {plan.demo_url}
  pixel        {plan.pixel_url}
  visit log    {log}    (tail -F {shlex.quote(log)})
  report       {as_typed("tracker")} report {shlex.quote(log)}{"*" if plan.bucket else ""}
{_archive(plan)}  outbox       {plan.pixel.outbox.dir}
  health       {_health(plan, "readyz")}
  metrics      {_health(plan, "metrics")}
  SNS and SQS  {plan.endpoint}

  put it on a page:
  {embed_snippet(plan.pixel_url)}

  Ctrl-C stops everything.
"""


def _health(plan: Plan, page: str) -> str:
    urls = (plan.pixel_admin_url, plan.storage_admin_url, plan.archive_admin_url)
    return "    ".join(f"{url}/{page}" for url in urls if url)


def _archive(plan: Plan) -> str:
    if not plan.bucket:
        return ""
    rotate = plan.storage.log.rotate
    closed = [f"has {rotate.max_bytes:,} bytes"] if rotate.max_bytes is not None else []
    closed += [f"has the visits of a UTC {rotate.every} that is over"] if rotate.every is not None else []
    folder = shlex.quote(str(Path(plan.storage.log.path).parent / "archive"))
    return f"""\
  archive      {plan.storage.archive.url} at {plan.endpoint}, in memory: it ends with this run
               A log that {" or ".join(closed)} is closed by the next visit. Its objects follow within
               {PAUSE_SECONDS:.0f} seconds. To read them:
               {as_typed("python")} -m tracker.local copy --port {plan.broker_port} {folder}
               {as_typed("tracker")} report {folder}
"""


def as_typed(command: str) -> str:
    """A command of this environment as the user can type it here."""
    path = Path(sys.executable).with_name(command)
    with contextlib.suppress(ValueError):
        path = path.relative_to(Path.cwd())
    return shlex.quote(str(path))
