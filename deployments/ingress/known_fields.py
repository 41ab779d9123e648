"""Request fields that are known; any other is left out and named in a header, or refused as OpenAI does.

OpenAI's own, and those that vLLM adds for sampling. Left out on purpose are vLLM's fields for its own plumbing
(`request_id`, `kv_transfer_params`, `ec_transfer_params`, `mm_payload`, `prompt_embeds`, ...), which are none of a
client's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from apportion.deployments.wire import api_fields
from apportion.deployments.wire.api_fields import names

Kind = Literal["chat", "completion", "response", "message", "message_count", "embedding", "tokenize", "detokenize"]
# The engines', whatever prefix this application is served under.
ENGINE_PATHS: dict[Kind, str] = {
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "response": "/v1/responses",
    "message": "/v1/messages",
    "message_count": "/v1/messages/count_tokens",
    "embedding": "/v1/embeddings",
    "tokenize": "/tokenize",
    "detokenize": "/detokenize",
}


# Besides what the APIs define.
_ROUTING = frozenset({"routing"})
_BOTH = names(
    """add_special_tokens allowed_token_ids bad_words cache_salt echo ignore_eos include_stop_str_in_output
    length_penalty logprob_token_ids min_p min_tokens prompt_logprobs repetition_detection repetition_penalty
    response_format return_token_ids return_token_offsets return_tokens_as_token_ids skip_special_tokens
    spaces_between_special_tokens stop_token_ids stream_interval structured_outputs thinking_token_budget top_k
    truncate_prompt_tokens truncation_side use_beam_search watermarking"""
)
CHAT_FIELDS = (
    _ROUTING
    | api_fields.CHAT
    | _BOTH
    | names(
        """add_generation_prompt chat_template chat_template_kwargs continue_final_message documents include_reasoning
        media_io_kwargs mm_processor_kwargs return_prompt_text"""
    )
)
COMPLETION_FIELDS = _ROUTING | api_fields.COMPLETION | _BOTH
RESPONSE_FIELDS = (
    _ROUTING
    | api_fields.RESPONSE
    | names(
        """cache_salt chat_template_kwargs frequency_penalty ignore_eos include_reasoning include_stop_str_in_output
        logit_bias min_p presence_penalty repetition_penalty seed skip_special_tokens stop stop_token_ids
        structured_outputs top_k"""
    )
)
MESSAGE_FIELDS = _ROUTING | api_fields.MESSAGE | names("cache_salt chat_template_kwargs")
MESSAGE_COUNT_FIELDS = _ROUTING | api_fields.MESSAGE_COUNT | names("chat_template_kwargs")
EMBEDDING_FIELDS = (
    _ROUTING
    | api_fields.EMBEDDING
    | names(
        """add_special_tokens cache_salt embed_dtype endianness padding truncate_prompt_tokens truncation_side
        use_activation"""
    )
)
TOKENIZE_FIELDS = names(
    """add_generation_prompt add_special_tokens chat_template_kwargs continue_final_message messages model prompt
    return_token_strs routing tools"""
)
DETOKENIZE_FIELDS = names("model routing tokens")
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
    "chat": names(
        """audio function_call functions metadata modalities prediction prompt_cache_key prompt_cache_retention
        safety_identifier service_tier store verbosity web_search_options"""
    ),
    "completion": names("best_of"),
    "response": names("conversation prompt_cache_retention safety_identifier stream_options"),
    "message": names("service_tier"),
}
