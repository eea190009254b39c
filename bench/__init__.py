"""``tapecast bench``: what this machine does with this broker, and with what else could be used instead.

`bench.cli` parses, `bench.run` starts the servers and the load clients (processes of their own) and collects
what they report; `bench.load` is what a load client does. See bench/README.md for what each number means.
"""
