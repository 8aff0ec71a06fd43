"""``python -m cohort``: the command line where its script is not on the path."""

from cohort.cli import main

if __name__ == "__main__":
    main()
