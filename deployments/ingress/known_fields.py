"""Request fields that are known; any other is left out and named in a header, or refused as OpenAI does.

OpenAI's own, and those that vLLM adds for sampling. Left out on purpose are vLLM's fields for its own plumbing
(`request_id`, `kv_transfer_params`, `ec_transfer_params`, `mm_payload`, `prompt_embeds`, ...), which are none of a
client's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Kind = Literal["chat", "completion", "response", "message", "message_count", "embedding", "tokenize", "detokenize"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BOTH = _names(
    """frequency_penalty logit_bias logprobs max_tokens model n presence_penalty seed stop stream stream_options
    temperature top_p user

    add_special_tokens allowed_token_ids bad_words cache_salt echo ignore_eos include_stop_str_in_output length_penalty
    logprob_token_ids min_p min_tokens prompt_logprobs repetition_detection repetition_penalty response_format
    return_token_ids return_token_offsets return_tokens_as_token_ids skip_special_tokens spaces_between_special_tokens
    stop_token_ids stream_interval structured_outputs thinking_token_budget top_k truncate_prompt_tokens truncation_side
    use_beam_search watermarking

    routing"""
)
CHAT_FIELDS = _BOTH | _names(
    """audio function_call functions max_completion_tokens messages metadata modalities parallel_tool_calls prediction
    prompt_cache_key prompt_cache_retention reasoning_effort safety_identifier service_tier store tool_choice tools
    top_logprobs verbosity web_search_options

    add_generation_prompt chat_template chat_template_kwargs continue_final_message documents include_reasoning
    media_io_kwargs mm_processor_kwargs return_prompt_text"""
)
COMPLETION_FIELDS = _BOTH | _names("best_of prompt suffix")
RESPONSE_FIELDS = _names(
    """background conversation include input instructions max_output_tokens max_tool_calls metadata model
    parallel_tool_calls previous_response_id prompt prompt_cache_key prompt_cache_retention reasoning routing
    safety_identifier service_tier store stream stream_options temperature text tool_choice tools top_logprobs top_p
    truncation user

    cache_salt chat_template_kwargs frequency_penalty ignore_eos include_reasoning include_stop_str_in_output logit_bias
    min_p presence_penalty repetition_penalty seed skip_special_tokens stop stop_token_ids structured_outputs top_k"""
)
MESSAGE_FIELDS = _names(
    """max_tokens messages metadata model output_config routing service_tier stop_sequences stream system temperature
    thinking tool_choice tools top_k top_p

    cache_salt chat_template_kwargs"""
)
MESSAGE_COUNT_FIELDS = _names(
    "chat_template_kwargs messages model output_config routing system thinking tool_choice tools"
)
EMBEDDING_FIELDS = _names(
    """dimensions encoding_format input model user

    add_special_tokens cache_salt embed_dtype endianness padding truncate_prompt_tokens truncation_side use_activation

    routing"""
)
TOKENIZE_FIELDS = _names(
    """add_generation_prompt add_special_tokens chat_template_kwargs continue_final_message messages model prompt
    return_token_strs routing tools"""
)
DETOKENIZE_FIELDS = _names("model routing tokens")
FIELDS: Mapping[Kind, frozenset[str]] = {
    "chat": CHAT_FIELDS,
    "completion": COMPLETION_FIELDS,
    "response": RESPONSE_FIELDS,
    "message": MESSAGE_FIELDS,
    "message_count": MESSAGE_COUNT_FIELDS,
    "embedding": EMBEDDING_FIELDS,
    "tokenize": TOKENIZE_FIELDS,
    "detokenize": DETOKENIZE_FIELDS,
}
# Of these, what the APIs define and vLLM's layers do not: it is accepted, and no engine reads it.
UNREAD_BY_ENGINES: Mapping[Kind, frozenset[str]] = {
    "chat": _names(
        """audio function_call functions metadata modalities prediction prompt_cache_key prompt_cache_retention
        safety_identifier service_tier store verbosity web_search_options"""
    ),
    "completion": _names("best_of"),
    "response": _names("conversation prompt_cache_retention safety_identifier stream_options"),
    "message": _names("service_tier"),
}
