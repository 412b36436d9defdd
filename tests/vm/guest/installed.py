"""The same service with the agent inside."""

from service import app

import hangwatch

hangwatch.install()

__all__ = ["app"]
