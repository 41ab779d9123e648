"""Counts tokens where they cross the border between vLLM's front end and its core, and looks at how likely they were.

The front end's own outputs come too late: of a whole answer nothing is seen before its end. Each step of the core sends
a message, with or without tokens, so that one that works through a long prompt gives signs too.

Where an ingress asks how sure the model was, the core is asked for the log-probabilities of the two likeliest tokens.
They are reduced here, and go on to the front end only where the client has asked for any: so the front end prints
nothing for them, and the answer is the same, byte for byte, as one that nobody asked about.
"""

from __future__ import annotations

from copy import copy
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from apportion.deployments.engine.meter import Meter, Usage, current_usage

_LIKELIEST = 2


def count_at(core: Any, meter: Meter, *, tells_logprobs: bool = True) -> None:
    """Counts what goes into the core, and what comes out of it, from now on.

    Args:
        core: vLLM's `AsyncMPClient`, before its first request.
        tells_logprobs: false where the engine is set to tell logits in their place, of which nothing is made.
    """
    add, get = core.add_request_async, core.get_output_async
    usages: WeakValueDictionary[str, Usage] = WeakValueDictionary()
    hidden: WeakKeyDictionary[Usage, bool] = WeakKeyDictionary()  # of what is looked at: from its client

    async def add_request_async(request: Any) -> None:
        usage = usages[request.request_id] = current_usage()
        # The sequences of one prompt differ in `request_id` and share `external_req_id`.
        usage.read(request.request_id, request.external_req_id, len(request.prompt_token_ids or ()))
        asked = request.sampling_params if tells_logprobs and usage.signals_asked else None
        if asked is not None and not asked.logprob_token_ids:  # which would come in place of the likeliest
            hidden[usage] = asked.logprobs is None
            # A copy: the front end goes on reading what the client has asked for.
            request.sampling_params = copy(asked)
            request.sampling_params.logprobs = _at_least_two(asked.logprobs)
        await add(request)

    async def get_output_async() -> Any:
        outputs = await get()
        meter.sign()
        for output in outputs.outputs:
            usage = usages.get(output.request_id)
            if usage is not None:
                usage.generated(len(output.new_token_ids))
                if usage in hidden and output.new_logprobs is not None:
                    _look(output, usage)
                    output.new_logprobs = None if hidden[usage] else output.new_logprobs
                if output.prefill_stats is not None:  # with a sequence's first token
                    usage.from_cache(output.request_id, output.prefill_stats.num_cached_tokens)
        return outputs

    core.add_request_async, core.get_output_async = add_request_async, get_output_async


def _at_least_two(logprobs: int | None) -> int:
    """As many as asked for, -1 being all; the front end cuts off what it did not ask for."""
    return _LIKELIEST if logprobs is None or 0 <= logprobs < _LIKELIEST else logprobs


def _look(output: Any, usage: Usage) -> None:
    """Takes the log-probabilities of a step's tokens: in a row the token that was written, then the likeliest ones."""
    rows = output.new_logprobs.logprobs[: len(output.new_token_ids), : 1 + _LIKELIEST]
    usage.sure(rows[:, 0].tolist(), (rows[:, 1] - rows[:, 2]).tolist())
