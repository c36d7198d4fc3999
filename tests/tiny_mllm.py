"""Qwen2.5-VL and LLaVA-1.5 with a few thousand random weights, processors and all, built here from configurations."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

SENTENCES = """Does this frame show that people are Answer Yes or No yes no NO . ? ! : , { } clean and jerk weights lift
baking cookies These frames of one video in order time USER ASSISTANT jump"""
IMAGE_MARKS = ["<image>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", *IMAGE_MARKS]
QWEN_TEMPLATE = (
    "{% for m in messages %}<s> {% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %} {{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
    " ASSISTANT :"
)


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *dict.fromkeys(SENTENCES.split())])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=IMAGE_MARKS,
    )  # fmt: skip


def tiny_qwen(large_images: bool = False) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    words = tokenizer()
    index = words.convert_tokens_to_ids
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
            "bos_token_id": index("<s>"), "eos_token_id": index("</s>"), "pad_token_id": index("<pad>"),
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1], "initializer_range": 0.5,
        },
        image_token_id=index("<|image_pad|>"), video_token_id=index("<|video_pad|>"),
        vision_start_token_id=index("<|vision_start|>"), vision_end_token_id=index("<|vision_end|>"),
    )  # fmt: skip
    size = {"shortest_edge": 28 * 28, "longest_edge": 448 * 448 if large_images else 56 * 56}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size), tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(size=size), chat_template=QWEN_TEMPLATE,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config), processor


def tiny_llava(large_images: bool = False) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    words = tokenizer()
    torch.manual_seed(0)
    edge = 336 if large_images else 28
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=edge,
            patch_size=14, projection_dim=16, initializer_range=0.5,
        ),
        text_config=LlamaConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, initializer_range=0.5, bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
        ),
        image_token_id=words.convert_tokens_to_ids("<image>"), vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge}),
        tokenizer=words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), processor


TINY = {"qwen": tiny_qwen, "llava": tiny_llava}


def save(kind: str, folder: Path) -> Path:
    """The model as a folder that `from_pretrained` reads."""
    model, processor = TINY[kind]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
