"""The command line in a checkout: `python cli.py ...` is the command `edgeproof ...`."""

import sys
from pathlib import Path

try:
    from edgeproof.__main__ import main
except ImportError:
    here = Path(__file__).resolve().parent
    venv = here / ".venv" / "bin" / "activate"
    print(
        f"error: edgeproof is not installed for {sys.executable}; "
        + (f"run `. {venv}`" if venv.is_file() else f"run `make -C {here} demo` once and then `. {venv}`")
        + f", or install it with: pip install -e '{here}[train,data,cpu]'",
        file=sys.stderr,
    )
    sys.exit(3)

if __name__ == "__main__":
    main()
