"""The published JSON Schema of `results.json`, made from its models: `python -m edgeproof.evaluation.schema > docs/results.schema.json`."""

from __future__ import annotations

import json

from edgeproof.evaluation.results import Results


def schema_text() -> str:
    """Return the JSON Schema (draft 2020-12) as it stands in docs/results.schema.json."""
    schema = Results.model_json_schema(mode="serialization")
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edgeproof results.json"}
    return json.dumps({**about, **{key: value for key, value in schema.items() if key not in about}}, indent=1) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
