"""`python -m palp_core`: the same as the command `palp`."""

from .cli.main import main

if __name__ == "__main__":
    main()
