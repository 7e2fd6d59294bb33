"""The worker process: `python -m lemonade_serve.worker FD TURNSTILE LANE`.

FD is a socket to the daemon; TURNSTILE a file that all workers of the daemon have, and LANE which
of them this one takes turns with.

It ignores SIGINT and SIGTERM, which a terminal or a service manager sends to all processes at
once: the daemon decides when its workers stop, and its end of file ends them. A daemon that dies
takes them along by the kernel's hand too: native code may keep the reader thread from running.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol

from lemonade_serve import errors
from lemonade_serve.protocol.framing import Channel
from lemonade_serve.protocol.messages import (
    PROTOCOL_VERSION,
    Encoder,
    Hello,
    Load,
    LoadFailed,
    Ready,
)
from lemonade_serve.worker.loop import Inbox, Loop, read_into
from lemonade_serve.worker.turnstile import Turnstile

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Serving(Protocol):
    """A loop, whatever it serves."""

    def run(self) -> NoReturn: ...


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with_parent()
    _wake_politely()
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    channel.send(Hello(PROTOCOL_VERSION))
    inbox = Inbox()
    read_into(inbox, channel)
    load = inbox.get()
    if not isinstance(load, Load):
        raise TypeError(f"a worker's first command is Load, not {type(load).__name__}")
    turnstile = Turnstile(int(sys.argv[2]), lane=int(sys.argv[3]), timeout_s=load.turn_timeout_s)
    try:
        loop, ready = _load(load, inbox, channel, turnstile)
    except errors.LemonadeError as error:
        channel.send(LoadFailed(error.code, error.message))
        return
    channel.send(ready)
    loop.run()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _wake_politely() -> None:
    """A thread that wakes up to compute waits for its core, rather than interrupt one that is
    handing tokens to a client."""
    with suppress(OSError):  # a system may forbid it; it is slower then, not wrong
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _load(
    load: Load, inbox: Inbox, channel: Channel, turnstile: Turnstile
) -> tuple[Serving, Ready]:
    # After the reader thread has begun: these imports take a while, and the daemon may die.
    if load.encoder is not None:
        return _load_encoder(load, load.encoder, inbox, channel, turnstile)
    from lemonade_serve.worker.engines.opening import open_engine
    from lemonade_serve.worker.vocabulary import Vocabulary

    began = time.monotonic()
    vocabulary = Vocabulary(Path(load.path))
    engine, why = open_engine(load, context_length=vocabulary.context_length)
    ready = Ready(engine.name, why, time.monotonic() - began, engine.kv_cache_bytes)
    loop = Loop(
        engine,
        vocabulary,
        inbox,
        channel.send,
        turn=turnstile.turn,
        guidance_timeout_s=load.guidance_timeout_s,
    )
    return loop, ready


def _load_encoder(
    load: Load, encoder: Encoder, inbox: Inbox, channel: Channel, turnstile: Turnstile
) -> tuple[Serving, Ready]:
    from lemonade_serve.worker.encoders.loop import EncoderLoop
    from lemonade_serve.worker.encoders.opening import NAME, open_encoder

    began = time.monotonic()
    graph, reader, why = open_encoder(load, encoder)
    room = encoder.batch_bytes(load.encode_batch_tokens, load.encode_input_tokens)
    ready = Ready(NAME, why, time.monotonic() - began, room)
    loop = EncoderLoop(
        graph,
        reader,
        inbox,
        channel.send,
        turn=turnstile.turn,
        batch_tokens=load.encode_batch_tokens,
        alone=encoder.alone,
    )
    return loop, ready


if __name__ == "__main__":
    main()
