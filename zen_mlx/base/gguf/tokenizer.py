"""The tokenizer that a GGUF file holds, as the files that transformers reads."""

from __future__ import annotations

from ...errors import ModelFormatError
from ...fsio import Json
from .weights import Fields

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_PRE_TOKENIZERS: dict[str, Json] = {
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL]},
    "gpt-2": _BYTE_LEVEL,
}


def tokenizer_files(fields: Fields, config: Json) -> tuple[Json, Json]:
    """tokenizer.json and tokenizer_config.json. Written out by hand: the bytes do not depend on a library's version."""
    kind = fields.need("tokenizer.ggml.model", str)
    pre = fields.get("tokenizer.ggml.pre", str) or "gpt-2"
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise ModelFormatError(
            "unknown GGUF tokenizer",
            path=fields.source,
            field="tokenizer.ggml.model",
            expected=f"gpt2 with {' or '.join(_PRE_TOKENIZERS)}",
            found=f"{kind} with {pre}",
        )
    tokens: list[str] = fields.need("tokenizer.ggml.tokens", list)
    types: list[int] = fields.need("tokenizer.ggml.token_type", list)
    merges = [merge.split(" ") for merge in fields.need("tokenizer.ggml.merges", list)]
    known = set(tokens)
    sound = all(len(merge) == 2 and known.issuperset((*merge, "".join(merge))) for merge in merges)
    if not sound or len(types) != len(tokens) or len(known) != len(tokens):
        raise ModelFormatError("the vocabulary contradicts itself", path=fields.source, field="tokenizer.ggml.tokens")
    control, user_defined = 3, 4
    added = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == control,
        }
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (control, user_defined)
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _PRE_TOKENIZERS[pre],
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges,
        },
    }
    tokenizer_config: Json = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
    }
    for key, name in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        number = fields.get(f"tokenizer.ggml.{key}_token_id", int)
        if number is not None:
            if not 0 <= number < len(tokens):
                raise ModelFormatError(
                    "token number outside the vocabulary",
                    path=fields.source,
                    field=f"tokenizer.ggml.{key}_token_id",
                    expected=f"0 to {len(tokens) - 1}",
                    found=number,
                )
            tokenizer_config[f"{name}_token"] = tokens[number]
    template = fields.get("tokenizer.chat_template", str)
    if template is not None:
        tokenizer_config["chat_template"] = template
    return tokenizer, tokenizer_config
