"""Names in configurations: options that differ from their fields, and what a path cannot name."""

from __future__ import annotations

#: What begins the name of a model, a set or images that exist in one process alone; a path begins otherwise.
IN_MEMORY = "in memory: "

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
