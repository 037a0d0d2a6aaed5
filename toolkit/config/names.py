"""Names of options that differ from the names of their fields."""

from __future__ import annotations

#: Options whose everyday name is not the name of the field.
SHORT = {
    "data.name": "data",
    "engines": "engine",
    "sets": "adversaries",
    "precisions": "precision",
    "recipes": "recipe",
    "batch_sizes": "batch-size",
    "source": "from",
    "input_range": "range",
}
