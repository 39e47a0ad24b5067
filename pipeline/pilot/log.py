"""One line per event on standard error: time, past-tense event name, key=value."""

import json
import sys
import threading
import time

_LOCK = threading.Lock()


def log(event: str, **fields: object) -> None:
    """Write one event; a standard error that nobody reads any more is no reason to stop."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    words = [stamp, event] + ["{}={}".format(name, json.dumps(value)) for name, value in fields.items()]
    try:
        with _LOCK:
            sys.stderr.write(" ".join(words) + "\n")
            sys.stderr.flush()
    except (OSError, ValueError):
        return
