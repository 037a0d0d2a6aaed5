"""Run folders: the only way in which stages talk to each other."""

from edgeproof.runs.files import atomic, sha256_file, write_json, write_text
from edgeproof.runs.fresh import MANIFEST
from edgeproof.runs.run import Run, runs_root

__all__ = ["MANIFEST", "Run", "atomic", "runs_root", "sha256_file", "write_json", "write_text"]
