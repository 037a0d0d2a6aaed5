"""`python -m edgeproof` is the command `edgeproof`."""

from edgeproof.commands import main

if __name__ == "__main__":
    main()
