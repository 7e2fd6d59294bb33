"""The one way through the house: every dialect of the API ends here."""

from __future__ import annotations

import asyncio
import functools

import msgspec

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import Task
from lemonade_serve.domain.clients import ClientParams
from lemonade_serve.domain.generation import CompletionRequest, Generation
from lemonade_serve.domain.placement import Locator, Placement
from lemonade_serve.domain.ports import Clock, Observer, Worker
from lemonade_serve.domain.residency.pool import Lease, Pool
from lemonade_serve.domain.sampling import Options, RequestOptions, resolve
from lemonade_serve.domain.service import Service
from lemonade_serve.domain.turns import Turns
from lemonade_serve.protocol.messages import (
    Adapter,
    ChatPrompt,
    Finished,
    FinishReason,
    Guidance,
    Logprob,
    Message,
    ResolvedParams,
    TextPrompt,
    Token,
    TokensPrompt,
    Tool,
    ToolCall,
    ToolChoice,
    Work,
)

__all__ = [
    "Adapter",
    "ChatPrompt",
    "CompletionRequest",
    "CompletionService",
    "FinishReason",
    "Finished",
    "Generation",
    "Guidance",
    "Logprob",
    "Message",
    "Placement",
    "RequestOptions",
    "TextPrompt",
    "Token",
    "TokensPrompt",
    "Tool",
    "ToolCall",
    "ToolChoice",
]


class CompletionService(Service[CompletionRequest, Generation]):
    """Finds the checkpoint, leases it, generates, and gives the lease back."""

    def __init__(
        self,
        locator: Locator,
        pool: Pool,
        params: ClientParams,
        observer: Observer,
        *,
        turns: Turns,
        clock: Clock,
    ) -> None:
        super().__init__(observer, clock)
        self._locator = locator
        self._pool = pool
        self._params = params
        self.turns = turns

    async def _begin(self, request: CompletionRequest) -> Generation:
        placement = request.placement
        found = await self._locator.locate(placement, Task.GENERATION)
        params = resolve(*await self._params.layers(request.client, found.model), request.options)
        if request.guided:
            params = _to_its_end(params, request.options)
        works = self._works(request, params, found.adapter)
        lease = self._pool.acquire(
            found.info,
            found.devices,
            client=works[0].client,
            streaming=request.streaming,
            keep_alive_s=placement.keep_alive,
        )
        generation = Generation(
            found.info,
            lease,
            request,
            clock=self._clock,
            report=self._observer.observe,
            adapter=found.adapter.name if found.adapter else None,
        )
        generation.task = asyncio.create_task(
            self._run(generation, works, lease), name="generation"
        )
        self._running.add(generation)
        generation.task.add_done_callback(lambda _: self._ended(generation, lease))
        return generation

    def _works(
        self, request: CompletionRequest, params: ResolvedParams, adapter: Adapter | None
    ) -> list[Work]:
        """A request as its worker gets it, by prompt."""
        holder, weight = self.turns.of(request.client)
        return [
            Work(
                prompt,
                params,
                n=request.n,
                client=holder,
                weight=weight,
                guidance=request.guidance,
                echo=request.echo,
                adapter=adapter,
            )
            for prompt in request.prompts
        ]

    async def _run(self, generation: Generation, works: list[Work], lease: Lease) -> None:
        late = asyncio.get_running_loop().call_later(
            max(0.0, generation.arrived + self.turns.timeout_s - self._clock()),
            self._give_up,
            generation,
            lease,
        )
        try:
            worker = await lease.worker()
            generation.engine = worker.ready.engine
            await _generate_all(worker, works, generation)
        except Exception as error:  # the reader raises it, where the API logs what nobody foresaw
            generation.put(error)
        finally:
            late.cancel()

    def _give_up(self, generation: Generation, lease: Lease) -> None:
        """The request has waited for its turn for as long as it may."""
        if not lease.running:
            bound = f"within {self.turns.timeout_s:g} s"
            late = f"{generation.model} did not begin with this request {bound}"
            generation.fail(errors.NoCapacity(late))

    def _ended(self, generation: Generation, lease: Lease) -> None:
        """Whatever became of its task, even if it was cancelled before it ever ran."""
        lease.release()
        self._running.discard(generation)
        generation.end()


def _to_its_end(params: ResolvedParams, options: Options) -> ResolvedParams:
    """An answer of a certain form ends where that does, whatever the client keeps. Raises
    InvalidRequest if the request itself wants something else."""
    for field in ("stop", "ignore_eos"):
        if getattr(options, field):
            raise errors.InvalidRequest(
                f"{field} is for answers of any form: one that keeps to a form, or is calls of "
                "tools, ends where that does",
                param=field,
            )
    return msgspec.structs.replace(params, stop=(), ignore_eos=False)


async def _generate_all(worker: Worker, works: list[Work], generation: Generation) -> None:
    """All prompts of a request at once. The first that fails ends the others."""
    if len(works) == 1:  # the usual case costs no tasks
        await worker.generate(works[0], generation.take)
        return
    try:
        async with asyncio.TaskGroup() as group:
            for nth, work in enumerate(works):
                deliver = functools.partial(generation.take, nth=nth)
                group.create_task(worker.generate(work, deliver), name="prompt")
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
