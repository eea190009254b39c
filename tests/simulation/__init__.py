"""The real broker under a simulated clock and network; a seed reproduces a run to the byte.

`run.py` puts a run together, `judge.py` says what must hold, and ``python -m tests.simulation --seed N``
repeats one. Nothing here reads the broker's answers with the broker's own code.
"""
