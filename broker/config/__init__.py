"""The configuration: one frozen tree out of flags, environment, file and defaults, in this order.

``tree`` says which keys there are; ``sources`` reads a layer; ``problems`` words a mistake;
``checks`` holds keys against each other; ``load`` puts the layers together; ``template`` writes
the commented default, ``config.toml``.
"""

from broker.config.load import Loaded, load, load_config
from broker.config.template import default_toml
from broker.config.tree import Config, Debug, History, Limits, LogOptions, Server, SlowConsumer

__all__ = [
    "Config",
    "Debug",
    "History",
    "Limits",
    "Loaded",
    "LogOptions",
    "Server",
    "SlowConsumer",
    "default_toml",
    "load",
    "load_config",
]
