"""The version of this release. Both wheels read it here when they are built."""

from typing import Final

VERSION: Final = "0.1.0"
