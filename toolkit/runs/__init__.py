"""Run folders: the only way in which stages talk to each other."""

from edgeproof.runs.files import atomic, write_json, write_text
from edgeproof.runs.fresh import MANIFEST
from edgeproof.runs.run import Run, runs_root
from edgeproof.system.files import sha256_file

__all__ = ["MANIFEST", "Run", "atomic", "runs_root", "sha256_file", "write_json", "write_text"]
