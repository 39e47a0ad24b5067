"""The environment of programs that batch systems start."""

from __future__ import annotations

import os


def outsiders_environment() -> dict[str, str]:
    """Ours without Penstock's settings, which hold passwords."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
