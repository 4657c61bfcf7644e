"""``python -m hpsearch`` is ``hpsearch``."""

from hpsearch.cli.main import enter

if __name__ == "__main__":
    enter()
