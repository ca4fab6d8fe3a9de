"""A storage of an earlier release, as far as that matters: it does not know the encoding that the pixel sends today.

Run as `python -m tests.system.earlier_storage --config FILE`; the one module here that knows `tracker` from inside.
"""

import sys

from tracker.core import message
from tracker.storage.__main__ import main

if __name__ == "__main__":
    message._DEFLATED = "none that anybody sends"
    sys.exit(main())
