"""Tracker: a pixel collector that writes every answered visit to a log exactly once."""

import os

__version__ = "0.1.0"

# prometheus_client reads these when it is imported, and would then keep every value in files of that directory. They
# are meant for other programs, and our own metrics do not work that way. Only this place is always early enough.
for _name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
    os.environ.pop(_name, None)
