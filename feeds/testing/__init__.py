"""The conformance kit for adapters: ``tapecast feed check NAME``, and the same as a plug-in of pytest.

An adapter is run as the broker runs it, under the broker's own supervisor, against a venue that plays its golden
frames (`feeds.testing.golden` says how they are written) and misbehaves as venues do: all on a simulated clock, and
without a network. In a test, with
``addopts = ["-p", "feeds.testing.plugin"]`` in the settings of pytest::

    @pytest.mark.tapecast_feed("tapecast_acme:Acme")
    def test_adapter_conforms(feed_check):
        feed_check()
"""

from __future__ import annotations

from feeds.testing.checks import NAMES
from feeds.testing.kit import Kit
from feeds.testing.subject import Subject, SubjectError
from feeds.testing.verdicts import Verdict

__all__ = ["NAMES", "Kit", "Subject", "SubjectError", "Verdict"]
