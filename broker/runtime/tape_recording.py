"""Playing a tape's recording: its files in their order, and on to what is being recorded right now."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import structlog
import trio

from broker.core.recording import Block, Cut
from broker.core.replay import Item, Plan
from broker.runtime.recorder import InThread, Recorder
from broker.runtime.replays import Player, Recording
from broker.runtime.tape_files import TapeFile, TapeReader, list_files

log = structlog.get_logger()


class TapeRecording(Recording):
    """A folder of tape files; where the broker records it, a replay ends live without a seam."""

    venues = None

    def __init__(
        self,
        name: str,
        folder: Path,
        recorder: Recorder | None = None,
        *,
        in_thread: InThread = trio.to_thread.run_sync,
    ) -> None:
        """``recorder`` writes the recording, if this broker does."""
        self.name = name
        self._folder = folder
        self._recorder = recorder
        self._in_thread = in_thread

    def knows(self, epoch: str, offset: int) -> bool:
        """See `Recording.knows`."""
        return any(file.epoch == epoch and file.before <= offset for file in list_files(self._folder))

    async def play(self, player: Player) -> None:
        """See `Recording.play`."""
        follower = _Follower(self.name, self._folder, self._recorder, self._in_thread)
        try:
            await follower.begin(player.plan)
            while True:
                await self._play_all(follower, player)
                if self._recorder is None:
                    return
                # Not before the subscriber has it all: what comes meanwhile is recorded, not held in memory.
                await player.wait_until_sent()
                await self._recorder.flush()
                if await self._play_all(follower, player):
                    continue
                if not follower.epoch:
                    # Nothing is recorded yet; what will be begins here.
                    follower.epoch, follower.position = self._recorder.epoch, self._recorder.position
                    await player.put(player.head.turn(follower.epoch, follower.position))
                await player.put(player.head.end())
                player.end(is_final=False)
                await self._recorder.wait_beyond(max(follower.position, self._recorder.position))
                player.go_on()
        finally:
            follower.close()

    @staticmethod
    async def _play_all(follower: _Follower, player: Player) -> int:
        """Play everything that is there now; return how many blocks that were."""
        blocks = 0
        while (block := await follower.next()) is not None:
            blocks += 1
            if block.epoch != follower.epoch:
                follower.epoch = block.epoch
                await player.put(player.head.turn(block.epoch, block.first - 1))
            await player.put(_items(player, block))
            follower.position = block.last
            player.read_to(block.last)
        return blocks


def _items(player: Player, block: Block) -> list[Item]:
    if block.kind == "states":
        return list(player.head.states(block.last, block.ticks))
    items: list[Item] = []
    for offset, tick in zip(block.offsets, block.ticks, strict=True):
        items += player.head.tick(offset, tick)
    return items


class _Follower:
    """Reads the files of a recording one after the other, the last one as it is written.

    Attributes:
        epoch: of the last block, empty before the first.
        position: the offset up to which everything has been read.
    """

    def __init__(self, name: str, folder: Path, recorder: Recorder | None, in_thread: InThread) -> None:
        self.epoch = ""
        self.position = 0
        self._name = name
        self._folder = folder
        self._recorder = recorder
        self._in_thread = in_thread
        self._file: TapeFile | None = None
        self._reader: TapeReader | None = None
        self._warned: TapeFile | None = None

    async def begin(self, plan: Plan) -> None:
        """Begin with the file in which a plan begins."""
        first = await self._in_thread(_first_file, self._folder, plan)
        if first is not None:
            await self._open(first)

    async def next(self) -> Block | None:
        """Return the next block, ``None`` if there is none at present."""
        while True:
            # Asked before it is read: a file that is not written any more has an end.
            is_written = self._recorder is not None and self._recorder.file == self._file
            block = None if self._reader is None else await self._in_thread(self._reader.read)
            if isinstance(block, Block):
                return block
            if self._file is not None and is_written:
                return None
            if isinstance(block, Cut):
                self._warn(f"from byte {block.at} on: {block.reason}")
            following = await self._in_thread(_file_behind, self._folder, self._file)
            if following is None:
                return None
            await self._open(following)

    async def _open(self, file: TapeFile) -> None:
        self.close()
        self._file = file
        try:
            self._reader = await self._in_thread(TapeReader, file.path)
        except OSError as exc:
            # It may have been deleted to make room: its ticks are a hole then, and the next file has states.
            self._warn(str(exc))

    def close(self) -> None:
        """Be done with the file."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _warn(self, error: str) -> None:
        if self._file is not None and self._file != self._warned:
            self._warned = self._file
            log.warning(
                "a recording has a file that can't be read",
                recording=self._name,
                file=self._file.path.name,
                error=error,
            )


def _first_file(folder: Path, plan: Plan) -> TapeFile | None:
    """Return the file in which a plan begins: it has the states that are needed there."""
    files = list_files(folder)
    if plan.after is not None:
        epoch, offset = plan.after
        begun = [file for file in files if file.epoch == epoch and file.before <= offset]
        while len(begun) > 1 and not _has_states(begun[-1], offset):
            # What is missing before it could not be told of those whose state comes later.
            begun.pop()
    elif plan.since is not None:
        begun = [file for file in files if file.began <= plan.since]
    else:
        begun = []
    return begun[-1] if begun else next(iter(files), None)


def _has_states(file: TapeFile, upto: int) -> bool:
    """Tell whether a file says, up to a place in it, where its symbols stood when it began."""
    try:
        with closing(TapeReader(file.path)) as reader:
            while isinstance(block := reader.read(), Block) and block.first <= upto + 1:
                if block.kind == "states" and block.last <= upto:
                    return True
    except OSError:
        return False
    return False


def _file_behind(folder: Path, file: TapeFile | None) -> TapeFile | None:
    return next((each for each in list_files(folder) if file is None or each > file), None)
