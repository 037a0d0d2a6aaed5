"""The errors of every export."""

from __future__ import annotations


class ExportError(Exception):
    """A module, a graph or a setting that cannot be exported: what is wrong, what was expected, what to do, in one line."""


class MissingDeviceError(ExportError):
    """What has to be built on a device, where there is none."""
