"""The published schema is that of the models."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from edgeproof.evaluation.schema import schema_text

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "results.schema.json"


def test_the_published_schema_is_up_to_date() -> None:
    assert PUBLISHED.read_text() == schema_text(), (
        "run: python -m edgeproof.evaluation.schema > docs/results.schema.json"
    )


def test_the_published_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(PUBLISHED.read_text()))
