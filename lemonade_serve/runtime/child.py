"""A child process at the other end of a socket pair: how it is started, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress
from signal import Signals

from lemonade_serve.protocol import framing
from lemonade_serve.protocol.messages import PROTOCOL_VERSION, Command, Hello, Report


class ChildError(Exception):
    """The child did not come up, or did not speak as it should."""


class Child:
    """`python -m module FD`, speaking frames. End of file tells either side that the other died."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, module: str, *, handshake_timeout_s: float) -> Child:
        """Start it and wait for its Hello. Raises ChildError; leaves no process then."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),  # standard output is for what the user asked for
            )
        child = cls(process, *await asyncio.open_connection(sock=ours))
        try:
            async with asyncio.timeout(handshake_timeout_s):
                await child._shake_hands()
        except TimeoutError:
            await child.kill()
            raise ChildError(f"no handshake within {handshake_timeout_s:g} s") from None
        except BaseException:
            await child.kill()
            raise
        return child

    async def _shake_hands(self) -> None:
        hello = await self.receive()
        if hello is None:
            raise ChildError(f"the process ended at start: {await self.reap()}")
        if not isinstance(hello, Hello) or hello.version != PROTOCOL_VERSION:
            raise ChildError(
                "the installed package is not the one this daemon runs: restart the daemon"
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Hand a frame to the event loop; to a child that is gone it goes nowhere."""
        if not self._writer.is_closing():
            self._writer.write(framing.encode(command))

    async def receive(self) -> Report | None:
        """The next frame, or None when the child is gone. Raises FrameError for nonsense."""
        return await framing.read_report(self._reader)

    async def reap(self) -> str:
        """Wait for the process to end; says how it did."""
        code = await self._process.wait()
        self._writer.close()
        return f"killed by {Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def kill(self) -> str:
        """SIGKILL, and reap, whatever happens to the caller meanwhile."""
        with suppress(ProcessLookupError):
            self._process.kill()
        return await asyncio.shield(self.reap())

    async def stop(self, timeout_s: float) -> str:
        """Close the socket, which ends an obedient child; kill it after `timeout_s`."""
        self._writer.close()
        try:
            async with asyncio.timeout(timeout_s):
                return await self.reap()
        except TimeoutError:
            return await self.kill()
