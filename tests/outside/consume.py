"""A consumer process for tests: `python consume.py QUEUE...`, with the settings from the environment."""

from __future__ import annotations

import sys

from pipeline.logs import configure_logging
from pipeline.runtime.consumer import Consumer
from pipeline.settings_file import load_settings

if __name__ == "__main__":
    settings = load_settings()
    configure_logging(settings, "consumer")
    sys.exit(Consumer(settings, sys.argv[1:]).run())
