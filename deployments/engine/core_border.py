"""Counts tokens where they cross the border between vLLM's front end and its core.

The front end's own outputs come too late: of a whole answer nothing is seen before its end. Each step of the core sends
a message, with or without tokens, so that one that works through a long prompt gives signs too.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

from apportion.deployments.engine.meter import Meter, Usage, current_usage


def count_at(core: Any, meter: Meter) -> None:
    """Counts what goes into the core, and what comes out of it, from now on.

    Args:
        core: vLLM's `AsyncMPClient`, before its first request.
    """
    add, get = core.add_request_async, core.get_output_async
    usages: WeakValueDictionary[str, Usage] = WeakValueDictionary()

    async def add_request_async(request: Any) -> None:
        usage = usages[request.request_id] = current_usage()
        # The sequences of one prompt differ in `request_id` and share `external_req_id`.
        usage.read(request.request_id, request.external_req_id, len(request.prompt_token_ids or ()))
        await add(request)

    async def get_output_async() -> Any:
        outputs = await get()
        meter.sign()
        for output in outputs.outputs:
            usage = usages.get(output.request_id)
            if usage is not None:
                usage.generated(len(output.new_token_ids))
                if output.prefill_stats is not None:  # with a sequence's first token
                    usage.from_cache(output.request_id, output.prefill_stats.num_cached_tokens)
        return outputs

    core.add_request_async, core.get_output_async = add_request_async, get_output_async
