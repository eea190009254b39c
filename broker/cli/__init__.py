"""The command ``tapecast``: verbs, their flags and exit codes. Only this package reads the environment."""

from broker.cli.main import run

__all__ = ["run"]
