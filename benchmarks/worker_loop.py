"""A worker's loop without process, socket and daemon: `python -m benchmarks.worker_loop …`.

Takes and answers what `raw_genai` does. What it costs over that is our sampler, text and frames.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from lemonade_serve.protocol.framing import encode
from lemonade_serve.protocol.messages import (
    Events,
    Finished,
    Generate,
    Load,
    Report,
    ResolvedParams,
    TextPrompt,
    Token,
    Work,
)
from lemonade_serve.settings import Worker
from lemonade_serve.worker.engines.opening import open_engine
from lemonade_serve.worker.loop import Inbox, Loop
from lemonade_serve.worker.vocabulary import Vocabulary


class _Ended(Exception):
    """The request is finished."""


def main() -> None:
    directory, bounds = Path(sys.argv[1]), Worker()
    vocabulary = Vocabulary(directory)
    load = Load(
        path=str(directory),
        execution_provider="cpu",
        threads=int(sys.argv[2]),
        sequence_slots=bounds.sequence_slots,
        kv_cache_tokens=bounds.kv_cache_tokens,
        prefill_chunk_tokens=bounds.prefill_chunk_tokens,
        turn_timeout_s=bounds.turn_timeout_s,
        engine=bounds.engine,
    )
    engine, _ = open_engine(load, context_length=vocabulary.context_length)
    inbox = Inbox()
    times: list[float] = []

    def send(report: Report) -> None:
        encode(report)
        if isinstance(report, Events):
            now = time.perf_counter()
            times.extend(now for event in report.events if isinstance(event, Token))
            if any(isinstance(event, Finished) for event in report.events):
                raise _Ended

    loop = Loop(engine, vocabulary, inbox, send, turn=nullcontext)
    for line in sys.stdin:
        prompt, new_tokens = json.loads(line)
        params = ResolvedParams(do_sample=False, max_length=new_tokens, ignore_eos=True)
        times.clear()
        began = time.perf_counter()
        inbox.put(Generate(1, Work(TextPrompt(prompt), params)))
        try:
            loop.run()
        except _Ended:
            print(json.dumps([began, times]), flush=True)


if __name__ == "__main__":
    main()
