"""Findings in sentences."""

from __future__ import annotations

from edgeproof.evaluation.findings import finding_sentences

BUILDS = {
    "deployed": "m.int8.onnx", "images": 64, "right_before": 56, "found": 17, "not_found": 39, "source_right": 51,
    "deployed_right": 30, "missed": 21,
}  # fmt: skip
QUERIES = {
    "images": 64,
    "wrong_before": 8,
    "found": 19,
    "not_found": 37,
    "spent": 99,
    "median": 4.5,
    "curve": [[1, 5], [9, 19]],
}


def test_every_count_stands_in_its_sentence() -> None:
    builds, queries = finding_sentences({"builds": BUILDS, "queries": QUERIES})
    assert builds == (
        "right in the source and wrong in m.int8.onnx: found for 17 of the 56 images that both get right when clean, not found "
        "for 39; a sign-off of the source alone would miss 21 of 64"
    )
    assert queries == (
        "adversaries for 19 of the 56 images that are right when clean, median 4.5 queries: 5 by 1, 19 by 9"
    )
    assert list(finding_sentences({})) == []
