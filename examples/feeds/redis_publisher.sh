#!/bin/sh
# Adds ticks to a Redis stream, for a feed of the type `redis`:
#
#     [[feeds]]
#     type = "redis"
#     venue = "DESK"
#     streams = ["ticks:{symbol}"]
#
# The key says the symbol. MAXLEN keeps the stream from growing for ever; ~ lets Redis do it cheaply.
port=${1:-6379} count=${2:-1000000000} pause_s=${3:-0.5}
number=0
while [ "$number" -lt "$count" ]; do
    number=$((number + 1))
    redis-cli -p "$port" XADD ticks:COIN MAXLEN '~' 100000 '*' \
        ch trade price "100.$((number % 90 + 10))" size "$((number % 50 + 1))" side buy id "$number" >/dev/null || exit
    sleep "$pause_s"
done
