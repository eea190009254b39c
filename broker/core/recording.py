"""A tape on disk: blocks one after the other, each whole in itself. Pure; whoever has a file brings it.

    block = head body
    head  = "TAPE" version kind 2 × 0   4s B B 2x   kind: 0 ticks, 1 states
            length                      I           of the body, in bytes
            first last                  Q Q         the offsets that it covers, both inclusive
            at                          q           when it was written, nanoseconds of Unix time
            epoch                       32s         of the tape, in ASCII, filled up with zero bytes
            check                       I           CRC-32 of all of the head before it, then the body
    body  = zlib of MessagePack [[offset - first, …], [tick, …]]

All numbers are little-endian. A tick lies there as the tape had it encoded: as JSON if it begins with ``{``,
else as MessagePack. A block of states holds no ticks of the tape but what a snapshot would have shown
at ``last``, so that a reader who begins here has whole books. What a block covers and does not have was not to be
recorded; what no block covers is a hole: the recorder could not keep up, or files have been deleted.

A file is cut off wherever the machine stopped: every block before the cut can be read. Files of one recording are
read in the order of their names.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from broker.core.errors import BrokerError

Kind = Literal["ticks", "states"]

MAGIC = b"TAPE"
VERSION = 1
#: Of a body, packed or not: what is larger was not written by a recorder.
MAX_BODY_BYTES = 64 << 20

_HEAD = struct.Struct("<4sBB2xIQQq32s")
_CHECK = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _CHECK.size
_KINDS: tuple[Kind, ...] = ("ticks", "states")
#: Of zlib: 1 packs 100 MB a second, a fifth of what 6 needs, and a tenth worse.
_LEVEL = 1

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[list[int], list[bytes]]).decode


class RecordingError(BrokerError):
    """What is there is not a block. Not raised for the end of a file between two blocks."""


class Block(msgspec.Struct, frozen=True, gc=False):
    """A stretch of the tape.

    Attributes:
        kind: ``ticks``, or ``states``: what is valid at ``last``.
        epoch: the tape's.
        first, last: the offsets that it covers, inclusive; ``first`` is ``last + 1`` if it covers none.
        at: when it was written, in nanoseconds of Unix time: everything in it was received before.
        offsets: of each tick; ``last`` for states.
        ticks: encoded, as JSON or MessagePack.
    """

    kind: Kind
    epoch: str
    first: int
    last: int
    at: int
    offsets: list[int]
    ticks: list[bytes]


class Cut(msgspec.Struct, frozen=True):
    """Where a file can't be read on.

    Attributes:
        at: bytes before it, all of them in whole blocks.
        reason: for people.
        is_short: whether bytes are missing at the end, as while a block is being written.
    """

    at: int
    reason: str
    is_short: bool


class _Head(msgspec.Struct):
    kind: Kind
    length: int
    first: int
    last: int
    at: int
    epoch: str
    check: int
    raw: bytes


def encode_block(block: Block) -> bytes:
    """Return a block as it lies on disk.

    Raises:
        ValueError: its epoch is not ASCII, or longer than 32 characters.
    """
    epoch = block.epoch.encode("ascii")
    if len(epoch) > 32:
        raise ValueError(f"an epoch of more than 32 characters: {block.epoch!r}")
    first = block.first
    relative = [offset - first for offset in block.offsets]
    body = zlib.compress(_pack((relative, block.ticks)), _LEVEL)
    head = _HEAD.pack(MAGIC, VERSION, _KINDS.index(block.kind), len(body), first, block.last, block.at, epoch)
    return b"".join((head, _CHECK.pack(zlib.crc32(body, zlib.crc32(head))), body))


def read_blocks(read: Callable[[int], bytes]) -> Iterator[Block | Cut]:
    """Yield the blocks of a file, and at last a `Cut` if it does not end with a whole one.

    Args:
        read: returns so many bytes, fewer only at the end of the file, as `io.BufferedReader.read` does.
    """
    done = 0
    while raw := read(HEAD_BYTES):
        try:
            head = _parse_head(raw)
            body = read(head.length)
            yield _decode(head, body)
        except _ShortError as exc:
            yield Cut(done, str(exc), is_short=True)
            return
        except RecordingError as exc:
            yield Cut(done, str(exc), is_short=False)
            return
        done += HEAD_BYTES + head.length


class _ShortError(RecordingError):
    """The file ends within a block."""


def _parse_head(raw: bytes) -> _Head:
    if len(raw) < HEAD_BYTES:
        raise _ShortError(f"the file ends within the head of a block, after {len(raw)} bytes of it")
    magic, version, kind, length, first, last, at, epoch = _HEAD.unpack_from(raw)
    if magic != MAGIC:
        raise RecordingError(f"no block begins here, but {magic!r}")
    if version != VERSION or kind >= len(_KINDS):
        raise RecordingError(f"a block of version {version}, kind {kind}, which this reader does not know")
    if length > MAX_BODY_BYTES:
        raise RecordingError(f"a block of {length} bytes is too large to be one")
    (check,) = _CHECK.unpack_from(raw, _HEAD.size)
    name = epoch.rstrip(b"\0").decode("ascii", "replace")
    return _Head(_KINDS[kind], length, first, last, at, name, check, raw[: _HEAD.size])


def _decode(head: _Head, body: bytes) -> Block:
    if len(body) < head.length:
        raise _ShortError(f"the file ends within a block, after {len(body)} of {head.length} bytes")
    if zlib.crc32(body, zlib.crc32(head.raw)) != head.check:
        raise RecordingError("a block whose check sum is wrong")
    try:
        relative, ticks = _unpack(_decompress(body))
    except (zlib.error, msgspec.DecodeError, ValueError) as exc:
        raise RecordingError(f"a block that can't be unpacked: {exc}") from None
    if len(relative) != len(ticks) or not all(ticks):
        raise RecordingError("a block whose parts do not fit together")
    offsets = [head.first + offset for offset in relative]
    return Block(head.kind, head.epoch, head.first, head.last, head.at, offsets, ticks)


def _decompress(body: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    whole = unpacker.decompress(body, MAX_BODY_BYTES)
    if not unpacker.eof:
        raise ValueError("it is cut off, or too large")
    return whole
