"""What prompt lookup would bring: drafts from the prompt and the text, verified in one run.

    python -m benchmarks.speculation CHECKPOINT_DIRECTORY [--exact FP32_CHECKPOINT_DIRECTORY]

Makes a variant of the graph that has logits at every position, and measures with it

- costs: a run of `[1, k+1]` against `[1, 1]` and against `[4, 1]`, and whether ONNX Runtime takes
  several rows of several tokens at all;
- gain: greedy texts with drafts against texts without, in turn, by kind of prompt: tokens a run and
  time, and the share of drafts that holds;
- exactness: the share of texts that differ from one-token decoding, greedy and with a seed, and by
  how much logits do where the tokens before are the same. `--exact` says so of another checkpoint.

Drafts follow the latest earlier place of the last three tokens, else of the last two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from benchmarks.machine import provenance
from benchmarks.result import cores, quartiles
from benchmarks.speculation_prompts import PROMPTS
from lemonade_serve.protocol.messages import ChatPrompt, Message
from lemonade_serve.worker.vocabulary import Vocabulary

Floats = npt.NDArray[np.float32]
Choose = Callable[[Floats, int], int]
Watch = Callable[[Floats, list[int]], object]

_DRAFTS: Final = (1, 2, 3, 5)
_CONTEXT: Final = 200
"""Tokens before the runs whose cost is measured."""
_DRAFTED: Final = 3
"""In the texts that are really written."""
_ROWS: Final = 4
_CAPACITY: Final = 1024
_TEMPERATURE: Final = 0.8


def every_position(path: Path) -> bytes:
    """The graph without the Gather and Unsqueeze that leave the last position only."""
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    gathers = {n.output[0]: n for n in graph.node if n.op_type == "Gather" and n.input[1] == "last"}
    made = {n.output[0]: n for n in graph.node if n.input and n.input[0] in gathers}
    whole = {name: gathers[node.input[0]].input[0] for name, node in made.items()}
    gone = [*gathers.values(), *made.values()]
    kept = [node for node in graph.node if node not in gone]
    for node in kept:
        node.input[:] = [whole.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)
    names = [initialiser.name for initialiser in graph.initializer]
    del graph.initializer[names.index("last")]
    logits = next(output for output in graph.output if output.name == "logits")
    logits.type.tensor_type.shape.dim[1].dim_param = "sequence"
    content: bytes = model.SerializeToString()
    return content


class Decoder:
    """Rows of a cache that past and present share, and logits at every position."""

    def __init__(self, directory: Path, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        folder = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(folder, str(directory))
        options.log_severity_level = 4
        graph = every_position(directory / "model.onnx")
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        past = [i for i in self._session.get_inputs() if i.name.startswith("past_key_values")]
        _, heads, _, size = past[0].shape
        shape = (_ROWS, heads, _CAPACITY, size)
        self._cache = {i.name.split(".", 1)[1]: np.zeros(shape, np.float32) for i in past}
        logits = next(o for o in self._session.get_outputs() if o.name == "logits")
        self.vocabulary = int(logits.shape[-1])
        self._bound: dict[tuple[int, int], tuple[Any, Floats]] = {}

    def run(self, tokens: npt.NDArray[np.int64], past: int) -> Floats:
        """Logits `[rows, tokens, vocabulary]` of tokens `[rows, tokens]`; valid until the next."""
        rows, count = tokens.shape
        binding, logits = self._binding(rows, count)
        mask = np.ones((rows, past + count), np.int64)
        for name, array in (("input_ids", tokens), ("attention_mask", mask)):
            binding.bind_input(name, "cpu", 0, np.int64, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(binding)
        return logits

    def _binding(self, rows: int, count: int) -> tuple[Any, Floats]:
        if (rows, count) not in self._bound:
            binding = self._session.io_binding()
            for name, array in self._cache.items():
                where = ("cpu", 0, np.float32, array[:rows].shape, array.ctypes.data)
                binding.bind_input(f"past_key_values.{name}", *where)
                binding.bind_output(f"present.{name}", *where)
            logits = np.zeros((rows, count, self.vocabulary), np.float32)
            binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
            self._bound[rows, count] = binding, logits
        return self._bound[rows, count]


def look_up(text: list[int], count: int) -> list[int]:
    """At most `count` tokens that followed the last three, or two, of the text before."""
    for length in (3, 2):
        tail = text[-length:]
        for start in range(len(text) - length - 1, -1, -1):
            if text[start : start + length] == tail:
                return text[start + length : start + length + count]
    return []


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Of a run, and in runs of one token in one row."""

    ms: float
    ratio: float
    ratio_quartiles: list[float]


Costs = dict[tuple[int, int], Cost]


class Text(msgspec.Struct, kw_only=True):
    """Tokens that were written, the tokens of each run, and the seconds that all runs took."""

    tokens: list[int] = []
    runs: list[int] = []
    seconds: float = 0.0


class Writer:
    """Texts of one checkpoint, up to `length` tokens each."""

    def __init__(self, directory: Path, length: int, threads: int) -> None:
        self.decoder = Decoder(directory, threads)
        self._vocabulary = Vocabulary(directory)
        self._length = length

    def prompts(self) -> dict[str, list[list[int]]]:
        """Tokens, by kind."""
        encode = self._vocabulary.encode
        return {
            kind: [encode(ChatPrompt((Message(role="user", content=text),))) for text in texts]
            for kind, texts in PROMPTS.items()
        }

    def write(self, prompt: list[int], drafts: int, choose: Choose, watch: Watch) -> Text:
        """With up to `drafts` tokens verified in each run. `watch` sees each token's logits."""
        text, past = Text(), len(prompt) - 1
        self.decoder.run(np.array([prompt[:-1]]), 0)
        while True:
            began = time.perf_counter()
            draft = look_up([*prompt, *text.tokens], drafts) if drafts else []
            last = text.tokens[-1] if text.tokens else prompt[-1]
            logits = self.decoder.run(np.array([[last, *draft]]), past)[0]
            chosen: list[int] = []
            for row, guess in zip(logits, [*draft, None], strict=True):
                chosen.append(choose(row, len(text.tokens) + len(chosen)))
                if chosen[-1] != guess or chosen[-1] in self._vocabulary.eos_ids:
                    break
            text.seconds += time.perf_counter() - began
            text.runs.append(1 + len(draft))
            for row, token in zip(logits, chosen, strict=False):
                watch(row, text.tokens)
                text.tokens.append(token)
            past += len(chosen)
            if len(text.tokens) >= self._length or chosen[-1] in self._vocabulary.eos_ids:
                del text.tokens[self._length :]
                return text


def greedy(row: Floats, position: int) -> int:
    """The likeliest token."""
    return int(row.argmax())


def seeded(row: Floats, position: int) -> int:
    """A token by temperature; the same position draws the same numbers."""
    noise = np.random.default_rng(position).gumbel(size=len(row))
    return int((row / _TEMPERATURE + noise).argmax())


class Comparison:
    """Texts with drafts beside texts without, made in turn."""

    def __init__(self, writer: Writer, choose: Choose) -> None:
        self._writer = writer
        self._choose = choose
        self.different = 0
        self.differences: list[float] = []

    def add(self, prompt: list[int]) -> tuple[Text, Text]:
        """The text without, and with."""
        seen: list[Floats] = []
        plain = self._writer.write(
            prompt, 0, self._choose, lambda row, before: seen.append(row.copy())
        )

        def compare(row: Floats, before: list[int]) -> None:
            if len(before) < len(seen) and before == plain.tokens[: len(before)]:
                self.differences.append(float(np.abs(row - seen[len(before)]).max()))

        drafted = self._writer.write(prompt, _DRAFTED, self._choose, compare)
        self.different += drafted.tokens != plain.tokens
        return plain, drafted

    def exactness(self) -> dict[str, float]:
        """Of all texts so far; logits are compared where the tokens before are the same."""
        return {
            "texts_that_differ": self.different,
            "positions": len(self.differences),
            "positions_that_differ": sum(difference > 0 for difference in self.differences),
            "largest_difference": max(self.differences),
            "median_difference": statistics.median(self.differences),
        }


def gains(
    prompts: Sequence[list[int]], pairs: Sequence[tuple[Text, Text]], costs: Costs
) -> dict[str, object]:
    """Of one kind of prompt: what was measured, and what follows from texts and costs."""
    ratios = [
        (plain.seconds / len(plain.tokens)) / (drafted.seconds / len(drafted.tokens))
        for plain, drafted in pairs
    ]
    expected = {
        f"{count} drafted": _expected(prompts, [plain for plain, _ in pairs], count, costs)
        for count in _DRAFTS
    }
    return {
        f"measured_speed_{_DRAFTED}_drafted": statistics.median(ratios),
        "measured_speed_quartiles": quartiles(ratios),
        "expected": expected,
    }


def _expected(
    prompts: Sequence[list[int]], texts: Sequence[Text], count: int, costs: Costs
) -> dict[str, float]:
    """If drafts changed nothing in the texts."""
    runs, tokens, accepted = [], 0, 0
    for prompt, text in zip(prompts, texts, strict=True):
        at = 0
        while at < len(text.tokens):
            draft = look_up([*prompt, *text.tokens[:at]], count)
            holds = 0
            while draft[holds : holds + 1] == text.tokens[at + holds : at + holds + 1] != []:
                holds += 1
            runs.append(1 + len(draft))
            accepted += holds
            at += holds + 1
        tokens += len(text.tokens)
    drafted = sum(runs) - len(runs)
    return {
        "tokens_a_run": tokens / len(runs),
        "drafted_a_run": drafted / len(runs),
        "accepted_share": accepted / max(drafted, 1),
        "speed": tokens / sum(costs[1, width].ratio for width in runs),
    }


def measure_costs(decoder: Decoder, rounds: int) -> Costs:
    """By rows and tokens; the shapes take turns."""
    random = np.random.default_rng(0)
    shapes = [*((1, count) for count in range(1, max(_DRAFTS) + 2)), (_ROWS, 1)]
    tokens = {shape: random.integers(100, 30_000, shape) for shape in shapes}
    for shape in shapes:
        decoder.run(tokens[shape], _CONTEXT)
    times: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
    for number in range(rounds):
        for shape in shapes if number % 2 else reversed(shapes):
            began = time.perf_counter()
            decoder.run(tokens[shape], _CONTEXT)
            times[shape].append(time.perf_counter() - began)
    costs = {}
    for shape in shapes:
        ratios = [mine / one for mine, one in zip(times[shape], times[1, 1], strict=True)]
        costs[shape] = Cost(
            ms=statistics.median(times[shape]) * 1e3,
            ratio=statistics.median(ratios),
            ratio_quartiles=quartiles(ratios),
        )
    return costs


def refusal(decoder: Decoder) -> str | None:
    """What ONNX Runtime says to several tokens in several rows."""
    try:
        decoder.run(np.full((_ROWS, 2), 100), _CONTEXT)
    except RuntimeError as error:
        return str(error).partition("Status Message: ")[2]
    return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--exact", type=Path, help="a checkpoint in fp32")
    parser.add_argument("--tokens", type=int, default=80, help="of a text, default 80")
    parser.add_argument("--rounds", type=int, default=60, help="of the costs, default 60")
    parser.add_argument("--threads", type=int, default=cores(), help="default: every core")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/speculation.json"))
    given = parser.parse_args()
    writer = Writer(given.checkpoint, given.tokens, given.threads)
    prompts = writer.prompts()
    costs = measure_costs(writer.decoder, given.rounds)
    comparisons = {"greedy": Comparison(writer, greedy), "seeded": Comparison(writer, seeded)}
    if given.exact:
        exact = Writer(given.exact, given.tokens, given.threads)
        comparisons["exact_greedy"] = Comparison(exact, greedy)
    kinds = {}
    for kind, group in prompts.items():
        pairs = {
            name: [comparison.add(prompt) for prompt in group]
            for name, comparison in comparisons.items()
        }
        kinds[kind] = gains(group, pairs["greedy"], costs)
    figures = {
        "tokens": given.tokens,
        "texts": sum(map(len, prompts.values())),
        "threads": given.threads,
        "costs": {f"{list(shape)}": msgspec.to_builtins(cost) for shape, cost in costs.items()},
        "several_rows_of_several_tokens": refusal(writer.decoder),
        "gains": kinds,
        "exactness": {name: each.exactness() for name, each in comparisons.items()},
    }
    print(json.dumps(figures, indent=1))
    about = (__doc__ or "").splitlines()[0]
    result = {"about": about, "machine": provenance(), **figures}
    given.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
