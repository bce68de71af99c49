"""``python -m hatvid`` is the ``hatvid`` command."""

from hatvid.cli.main import main

if __name__ == "__main__":
    main()
