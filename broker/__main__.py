"""``python -m broker`` is the command ``tapecast``."""

from broker.cli import run

if __name__ == "__main__":
    run()
