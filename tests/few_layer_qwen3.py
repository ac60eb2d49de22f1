"""A Qwen3 of two layers with random weights, whose chat template knows tools in the Hermes form: JSON in <tool_call>."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BYTES = 256
TURN, TURN_END, TEXT_END, CALL, CALL_END, RESPONSE, RESPONSE_END = range(BYTES, BYTES + 7)
VOCABULARY = 288  # the head is padded, as Qwen's is
CONTEXT = 4096

# Turns between <|im_start|> and <|im_end|>; tools as lines of JSON in the system turn; calls as a line of JSON each.
TEMPLATE = r"""
{%- macro call_text(tool_call) -%}
<tool_call>
{"name": {{ tool_call.name | tojson }}, "arguments": {{
    tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson
}}}
</tool_call>
{%- endmacro -%}
{%- macro turn(role, text) -%}
{{ '<|im_start|>' + role + '\n' + text + '<|im_end|>\n' }}
{%- endmacro -%}
{%- set first = messages[0].content if messages[0].role == 'system' else '' -%}
{%- if tools -%}
    {%- set told = namespace(text='You may call these functions. Each line is one, as JSON.\n<tools>\n') -%}
    {%- for tool in tools -%}
        {%- set told.text = told.text + (tool | tojson) + '\n' -%}
    {%- endfor -%}
    {%- set told.text = told.text + '</tools>\nWrite a call as JSON with "name" and "arguments" in <tool_call>.' -%}
    {{- turn('system', first + ('\n\n' if first else '') + told.text) -}}
{%- elif first -%}
    {{- turn('system', first) -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {%- set said = namespace(text=message.content or '') -%}
        {%- for each in message.tool_calls or [] -%}
            {%- set tool_call = each.function or each -%}
            {%- set said.text = said.text + ('\n' if said.text else '') + call_text(tool_call) -%}
        {%- endfor -%}
        {{- turn('assistant', said.text) -}}
    {%- elif message.role == 'tool' -%}
        {{- turn('user', '<tool_response>\n' + message.content + '\n</tool_response>') -}}
    {%- elif message.role == 'user' -%}
        {{- turn('user', message.content) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\n' }}
{%- endif -%}
"""


def save_tiny_qwen3(folder: Path, template: str = TEMPLATE) -> Path:
    """Write the model (f32, hidden 64, a byte a token, two tokens that end a turn) to `folder`; returns it."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import qwen3

    folder.mkdir(parents=True)
    _tokenizer().save(str(folder / "tokenizer.json"))
    config = _config()
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [TURN_END, TEXT_END]}))
    mx.random.seed(11)
    model = qwen3.Model(qwen3.ModelArgs.from_dict(config))
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def _tokenizer() -> Any:
    """One token a byte; the markers of turns are special, those of tools are added words, as Qwen3 has them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    words = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    return tokenizer


def _config() -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "bos_token_id": TEXT_END,
        "eos_token_id": TURN_END,
    }
