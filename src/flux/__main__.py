"""`python -m flux` is `flux`."""

from flux.cli.main import main

if __name__ == "__main__":
    main()
