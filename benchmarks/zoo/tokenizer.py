"""The zoo's tokenizer: bytes, plus whole words of the questions' wordings and facts.

Any text encodes, as bytes; digits and strings to be spelt are always single characters, which is what lets
models of this size count and spell; the words around them cost one token each, which halves the sequences.
A whole word swallows the blanks before it: decoding a question loses them, answers come back exactly.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.zoo.tasks import known_words

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
THINK, END_THINK = "<think>", "</think>"  # of models that think: what is between them is no part of the answer
MAX_TOKENS = 256

# Tools stand in front as `name(parameter, parameter)`, calls as Llama writes them, `[name(parameter="value")]`.
CHAT_TEMPLATE = (
    "{%- if tools -%}<|system|>"
    "{%- for tool in tools -%}{{ tool['function']['name'] }}("
    "{{ ((tool['function']['parameters'] or {})['properties'] or {}) | join(', ') }})"
    "{%- if not loop.last -%}{{ ', ' }}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] in ('system', 'developer') -%}<|system|>{{ message['content'] }}"
    "{%- elif message['role'] == 'user' -%}<|user|>{{ message['content'] }}"
    "{%- elif message['role'] == 'tool' -%}<|user|>result: {{ message['content'] }}"
    "{%- elif message['role'] == 'assistant' -%}<|assistant|>{{ message['content'] or '' }}"
    "{%- if message['tool_calls'] -%}[{%- for call in message['tool_calls'] -%}{{ call['function']['name'] }}("
    "{%- for name, value in call['function']['arguments'] | items -%}{{ name }}={{ value | tojson }}"
    "{%- if not loop.last -%}{{ ', ' }}{%- endif -%}{%- endfor -%})"
    "{%- if not loop.last -%}{{ ', ' }}{%- endif -%}{%- endfor -%}]{%- endif -%}<|end|>"
    "{%- else -%}{{ raise_exception('unknown role ' + message['role']) }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
_PROMPT_END = "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
# With the switch of Qwen3's template, and its default: a thought that is over already leaves only the answer to write.
THINKING_TEMPLATE = CHAT_TEMPLATE.replace(
    _PROMPT_END,
    "{%- if add_generation_prompt -%}<|assistant|>"
    "{%- if enable_thinking is defined and not enable_thinking -%}<think></think>{%- endif -%}{%- endif -%}",
)


def build_tokenizer(*, thinks: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer, the same at every call.

    Args:
        thinks: with the marks of thoughts, behind all other tokens, and the template that can ask for none.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([PAD, END, SYSTEM, USER, ASSISTANT])
    core.add_tokens([AddedToken(w, single_word=True, lstrip=True, normalized=False) for w in sorted(known_words())])
    if thinks:  # special tokens would be left out of the text that reasoning parsers read
        core.add_tokens([AddedToken(mark, normalized=False, special=False) for mark in (THINK, END_THINK)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=END,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=THINKING_TEMPLATE if thinks else CHAT_TEMPLATE,
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def chat_text(prompt: str, system: str | None = None) -> str:
    """What the chat template makes of one user turn, up to where the assistant answers."""
    return f"{SYSTEM}{system}{USER}{prompt}{ASSISTANT}" if system else f"{USER}{prompt}{ASSISTANT}"


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template into `folder`."""
    tokenizer.save_pretrained(str(folder))
