"""What tests in a browser share."""

from browser_site import browser, context, page, site
from loop_fixture import loop

__all__ = ["browser", "context", "loop", "page", "site"]
