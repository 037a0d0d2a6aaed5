"""The package of plug-ins that are named by their path: `my_attacks.py` is imported as `edgeproof.plugins.files.my_attacks`.

Having a `__path__`, this module is a package whose modules lie in the folders of those files, for this process and for those that
it starts. Nothing is run before a module is asked for.
"""

from __future__ import annotations

from edgeproof.plugins.importing import named_files

__path__ = list(dict.fromkeys(str(file.parent) for file in named_files()))
