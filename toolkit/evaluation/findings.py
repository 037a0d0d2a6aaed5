"""Findings of an attack beyond images, in sentences: success against queries, and what only one of two builds gets wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def finding_sentences(findings: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence with the counts for each finding of an adversarial set (`AdversarialSet.findings`)."""
    if builds := findings.get("builds"):
        yield (
            f"right in the source and wrong in {builds['deployed']}: found for {builds['found']} of the "
            f"{builds['right_before']} images that both get right when clean, not found for {builds['not_found']}; "
            f"a sign-off of the source alone would miss {builds['missed']} of {builds['images']}"
        )
    if queries := findings.get("queries"):
        right = queries["images"] - queries["wrong_before"]
        curve = ", ".join(f"{hits} by {count}" for count, hits in queries["curve"])
        median = "" if queries["median"] is None else f", median {queries['median']:g} queries"
        yield f"adversaries for {queries['found']} of the {right} images that are right when clean{median}: {curve}"
