"""What a picture adds to a prompt, measured on a started engine: as it renders chats, and as the router counts them.

Imported in engine replicas only, since it imports vLLM, whose objects come without types.
"""

from __future__ import annotations

import base64
import io
import logging
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMClientError

from apportion.deployments.config.models import ModelConfig
from apportion.router.errors import ApportionError
from apportion.router.prediction.conversation import PICTURE
from apportion.router.prediction.tokens import TokenCounter

logger = logging.getLogger(__name__)

_TEXT = {"type": "text", "text": "1"}


async def picture_tokens(llm: Any, state: Any, model: ModelConfig) -> int | None:
    """Tokens of the largest picture with all that stands around it, beside what the router counts for its placeholder.

    Args:
        llm: vLLM's AsyncLLM of a model that takes pictures.
        state: of vLLM's application.

    Returns:
        None where the engine renders no chat with such a picture: it has no template, or too short a context.
    """
    part = {"type": "image_url", "image_url": {"url": _largest(llm)}}
    chat = ChatCompletionRequest(model=model.name, messages=[{"role": "user", "content": [part, _TEXT]}])
    counter = TokenCounter.load({model.name: model.tokenizer_source}, download=False)
    try:
        rendered = await state.online_renderer.render_chat(chat, skip_mm_cache=True)
        (counted,) = counter.count([{"role": "user", "content": [dict(PICTURE), _TEXT]}])
    except (ApportionError, ValueError, VLLMClientError) as error:
        logger.warning("no chat with a picture can be rendered, so none is measured: %s", error)
        return None
    if isinstance(rendered, ErrorResponse):
        logger.warning("no chat with a picture can be rendered, so none is measured: %s", rendered.error.message)
        return None
    _, (prompt,) = rendered
    return len(prompt["prompt_token_ids"]) - int(counted)


def _largest(llm: Any) -> str:
    """The data URL of a picture with the most tokens.

    Whatever size `limit_mm_per_prompt` names: vLLM reckons its memory with that, and takes larger ones from clients.
    """
    inputs = llm.renderer.mm_processor.dummy_inputs
    dummy = inputs.get_dummy_mm_data(llm.model_config.max_model_len, {"image": 1}, {})
    file = io.BytesIO()
    dummy["image"][0].save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
