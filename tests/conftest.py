"""Says which interpreter runs, and keeps the machine's own settings out of the tests."""

from __future__ import annotations

import os
import platform


def pytest_configure(config):
    for name in [name for name in os.environ if name.startswith(("HANGWATCH_", "OTEL_"))]:
        del os.environ[name]


def pytest_report_header(config):
    return f"interpreter: {platform.python_implementation()} {platform.python_version()}"
