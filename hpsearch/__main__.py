"""``python -m hpsearch`` is ``hpsearch``."""

from hpsearch.cli import enter

if __name__ == "__main__":
    enter()
