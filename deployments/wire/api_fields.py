"""Fields of requests as the APIs themselves define them, which whoever speaks one of them takes."""

from __future__ import annotations

from collections.abc import Mapping


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_BOTH = names(
    """frequency_penalty logit_bias logprobs max_tokens model n presence_penalty seed stop stream stream_options
    temperature top_p user"""
)
CHAT = _BOTH | names(
    """audio function_call functions max_completion_tokens messages metadata modalities parallel_tool_calls prediction
    prompt_cache_key prompt_cache_retention reasoning_effort response_format safety_identifier service_tier store
    tool_choice tools top_logprobs verbosity web_search_options"""
)
COMPLETION = _BOTH | names("best_of echo prompt suffix")
RESPONSE = names(
    """background conversation include input instructions max_output_tokens max_tool_calls metadata model
    parallel_tool_calls previous_response_id prompt prompt_cache_key prompt_cache_retention reasoning
    safety_identifier service_tier store stream stream_options temperature text tool_choice tools top_logprobs top_p
    truncation user"""
)
MESSAGE = names(
    """max_tokens messages metadata model output_config service_tier stop_sequences stream system temperature thinking
    tool_choice tools top_k top_p"""
)
MESSAGE_COUNT = names("messages model output_config system thinking tool_choice tools")
EMBEDDING = names("dimensions encoding_format input model user")
# By what an ingress calls the kinds of requests.
API_FIELDS: Mapping[str, frozenset[str]] = {
    "chat": CHAT,
    "completion": COMPLETION,
    "response": RESPONSE,
    "message": MESSAGE,
    "message_count": MESSAGE_COUNT,
    "embedding": EMBEDDING,
}
