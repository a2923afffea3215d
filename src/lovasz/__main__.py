"""`python -m lovasz`: the same as the `lovasz` command, for where scripts are not on the path."""

from lovasz.lab.cli import main

if __name__ == "__main__":
    main()
