"""The loop of onnxruntime-genai's examples: `python -m benchmarks.raw_genai CHECKPOINT THREADS`.

Reads `[prompt, new_tokens]` lines, answers `[began, [time of each token]]` lines, in seconds.
"""

from __future__ import annotations

import json
import sys
import time

import onnxruntime_genai as og


def main() -> None:
    config = og.Config(sys.argv[1])
    options = {"intra_op_num_threads": int(sys.argv[2])}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    model = og.Model(config)
    tokenizer = og.Tokenizer(model)
    for line in sys.stdin:
        prompt, new_tokens = json.loads(line)
        began = time.perf_counter()
        tokens = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        params = og.GeneratorParams(model)
        length = len(tokens) + new_tokens
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = og.Generator(model, params)
        stream = tokenizer.create_stream()
        generator.append_tokens(tokens)
        times = []
        for _ in range(new_tokens):
            generator.generate_next_token()
            stream.decode(generator.get_next_tokens()[0])
            times.append(time.perf_counter())
        del generator
        print(json.dumps([began, times]), flush=True)


if __name__ == "__main__":
    main()
