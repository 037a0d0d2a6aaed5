"""The command line in a checkout: `python cli.py ...` is the command `edgeproof ...`."""

import sys

try:
    from edgeproof.commands import main
except ModuleNotFoundError as error:
    print(
        f"error: {error.name} is not installed for {sys.executable}; run `make demo` once and then `. .venv/bin/activate`, "
        "or `pip install -e '.[train,data,cpu]'`",
        file=sys.stderr,
    )
    sys.exit(3)

if __name__ == "__main__":
    main()
