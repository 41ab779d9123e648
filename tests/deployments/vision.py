"""A tiny vision model of a public architecture, Idefics3's, with random weights: it sees, and has nothing to say.

Of those that vLLM serves it is one of the few that need no torchvision. A picture is cut into tiles of the size that
the vision tower takes, so that wide and tall ones have fewer tokens than square ones.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

TILE_PIXELS = 56
SIDE_PIXELS = 2 * TILE_PIXELS  # what the longer side of any picture is brought to
TILE_TOKENS = 4
# Of a tile, its own with two before; of all, a line's end for each row and one more, the whole once more, and an end.
SQUARE_TOKENS = 4 * (TILE_TOKENS + 2) + 3 + (TILE_TOKENS + 2) + 1
WIDE_TOKENS = 2 * (TILE_TOKENS + 2) + 2 + (TILE_TOKENS + 2) + 1
IMAGE_TOKEN = "<image>"
MARKS = (
    IMAGE_TOKEN,
    "<fake_token_around_image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
)
TEMPLATE = (
    "{%- for m in messages -%}<|{{ m.role }}|>"
    "{%- if m.content is string -%}{{ m.content }}{%- else -%}{%- for part in m.content -%}"
    "{%- if part.type == 'image' -%}" + IMAGE_TOKEN + "{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endfor -%}<|assistant|>"
)


def save_vision_model(folder: Path, tokenizer_folder: Path, max_model_len: int) -> Path:
    """Args: tokenizer_folder: whose vocabulary it speaks."""
    import torch
    from transformers import (
        AutoTokenizer,
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
        LlamaConfig,
    )

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)}, replace_extra_special_tokens=False)
    tokenizer.chat_template = TEMPLATE
    tokenizer.model_max_length = max_model_len
    pictures = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE_PIXELS}, max_image_size={"longest_edge": TILE_PIXELS}
    )
    Idefics3Processor(pictures, tokenizer, TILE_TOKENS, chat_template=TEMPLATE).save_pretrained(folder)
    size = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128, "num_hidden_layers": 2}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = Idefics3Config(
        vision_config={"image_size": TILE_PIXELS, "patch_size": 14, **size},
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=max_model_len,
            initializer_range=0.2,  # with less, whatever it sees is the same to it
            **ids,
            **size,
        ).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        **ids,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def png_base64(shown: str | bytes, width_pixels: int = 64, height_pixels: int = 64) -> str:
    """A picture of one colour, or what is said to be one, in base64."""
    from PIL import Image

    if isinstance(shown, str):
        file = io.BytesIO()
        Image.new("RGB", (width_pixels, height_pixels), shown).save(file, "PNG")
        shown = file.getvalue()
    return base64.b64encode(shown).decode()
