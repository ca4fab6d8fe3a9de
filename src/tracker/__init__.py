"""Tracker: a pixel collector that writes every answered visit to a log exactly once."""

import os

__version__ = "0.1.0"

# prometheus_client reads these variables when it is imported, and then keeps every value in files of that directory.
# Tracker's metrics do not work with such files, so the variables are removed, even if they are set for other programs.
# It is done here because this module is always imported before prometheus_client.
for _name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
    os.environ.pop(_name, None)
