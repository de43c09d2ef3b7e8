#!/usr/bin/env python3
"""Records what llama.cpp's converter makes of configs and weights, for crates/checkpoint/tests/gguf_config.rs.

    python3 scripts/gguf_oracle.py LLAMA_CPP > crates/checkpoint/tests/data/gguf_oracle.json

LLAMA_CPP is a checkout of llama.cpp (the folder `conversion` of its converter and `gguf-py` are
used); transformers and torch must be installed. Two kinds of records:

    tiny        models of a few layers with random weights, saved by transformers and converted whole:
                config.json, the metadata, the tensors' names, types and shapes, and how rows and
                numbers of the weights changed on the way
    published   configs in the words of their publishers, for which only the metadata and the
                tensors that the converter adds (`rope_freqs` and the like) are recorded

Vocabularies are left out: they are another part's matter.
"""

import json
import logging
import pathlib
import sys
import tempfile

LLAMA_CPP = pathlib.Path(sys.argv[1])
sys.path[:0] = [str(LLAMA_CPP), str(LLAMA_CPP / "gguf-py")]

import gguf  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from conversion import get_model_class  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

logging.disable(logging.CRITICAL)

TINY = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=96, max_position_embeddings=256)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)
GEMMA = dict(TINY, head_dim=16, query_pre_attn_scalar=16)
LONG = dict(rope_type="longrope", short_factor=[1.0, 1.05, 1.1, 1.2], long_factor=[1.1, 2.5, 16.0, 64.25])

TINIES = {
    "llama": ("Llama", dict(TINY, rope_parameters=dict(LLAMA3, rope_theta=500000.0))),
    "llama-biased": ("Llama", dict(TINY, attention_bias=True, mlp_bias=True, head_dim=16)),
    "mistral": ("Mistral", dict(TINY, sliding_window=None)),
    "qwen2": ("Qwen2", TINY),
    "qwen3": ("Qwen3", dict(TINY, head_dim=16, tie_word_embeddings=True)),
    "gemma2": ("Gemma2", dict(GEMMA, sliding_window=64)),
    "gemma3": ("Gemma3", dict(GEMMA, num_hidden_layers=7, sliding_window=64)),
    "phi3": ("Phi3", dict(TINY, original_max_position_embeddings=64, sliding_window=128,
                          pad_token_id=0, bos_token_id=1, eos_token_id=2, rope_parameters=LONG)),
}

MISTRAL = dict(architectures=["MistralForCausalLM"], model_type="mistral", bos_token_id=1, eos_token_id=2,
               hidden_act="silu", hidden_size=4096, intermediate_size=14336, max_position_embeddings=32768,
               num_attention_heads=32, num_hidden_layers=32, num_key_value_heads=8, rms_norm_eps=1e-05,
               rope_theta=10000.0, sliding_window=4096, tie_word_embeddings=False, torch_dtype="bfloat16",
               use_cache=True, vocab_size=32000)
LLAMA31 = dict(architectures=["LlamaForCausalLM"], attention_bias=False, attention_dropout=0.0,
               bos_token_id=128000, eos_token_id=128001, hidden_act="silu", hidden_size=4096,
               intermediate_size=14336, max_position_embeddings=131072, mlp_bias=False, model_type="llama",
               num_attention_heads=32, num_hidden_layers=32, num_key_value_heads=8, pretraining_tp=1,
               rms_norm_eps=1e-05, rope_scaling=LLAMA3, rope_theta=500000.0, tie_word_embeddings=False,
               torch_dtype="bfloat16", vocab_size=128256)
QWEN25 = dict(architectures=["Qwen2ForCausalLM"], attention_dropout=0.0, bos_token_id=151643,
              eos_token_id=151643, hidden_act="silu", hidden_size=3584, intermediate_size=18944,
              max_position_embeddings=131072, max_window_layers=28, model_type="qwen2",
              num_attention_heads=28, num_hidden_layers=28, num_key_value_heads=4, rms_norm_eps=1e-06,
              rope_theta=1000000.0, sliding_window=131072, tie_word_embeddings=False,
              use_mrope=False, use_sliding_window=False, vocab_size=152064)
GEMMA2 = dict(architectures=["Gemma2ForCausalLM"], attention_bias=False, attn_logit_softcapping=50.0,
              bos_token_id=2, eos_token_id=1, pad_token_id=0, final_logit_softcapping=30.0, head_dim=256,
              hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh", hidden_size=3584,
              intermediate_size=14336, max_position_embeddings=8192, model_type="gemma2",
              num_attention_heads=16, num_hidden_layers=42, num_key_value_heads=8,
              query_pre_attn_scalar=256, rms_norm_eps=1e-06, rope_theta=10000.0, sliding_window=4096,
              sliding_window_size=4096, vocab_size=256000)
GEMMA3 = dict(architectures=["Gemma3ForCausalLM"], attention_bias=False, attn_logit_softcapping=None,
              final_logit_softcapping=None, bos_token_id=2, eos_token_id=1, pad_token_id=0, head_dim=256,
              hidden_activation="gelu_pytorch_tanh", hidden_size=2560, intermediate_size=10240,
              max_position_embeddings=131072, model_type="gemma3_text", num_attention_heads=8,
              num_hidden_layers=34, num_key_value_heads=4, query_pre_attn_scalar=256, rms_norm_eps=1e-06,
              rope_local_base_freq=10000.0, rope_scaling=dict(factor=8.0, rope_type="linear"),
              rope_theta=1000000.0, sliding_window=1024, sliding_window_pattern=6, vocab_size=262208)
PHI3 = dict(architectures=["Phi3ForCausalLM"], attention_bias=False, bos_token_id=1, embd_pdrop=0.0,
            eos_token_id=32000, pad_token_id=32000, hidden_act="silu", hidden_size=3072,
            intermediate_size=8192, max_position_embeddings=4096, model_type="phi3",
            num_attention_heads=32, num_hidden_layers=32, num_key_value_heads=32,
            original_max_position_embeddings=4096, resid_pdrop=0.0, rms_norm_eps=1e-05, rope_scaling=None,
            rope_theta=10000.0, sliding_window=2047, tie_word_embeddings=False, vocab_size=32064)
# The shape of Phi-3.5's factors; every value its own, so that an exchange would show.
PHI35_LONG = dict(type="longrope", short_factor=[round(1.0 + 0.0625 * i, 4) for i in range(48)],
                  long_factor=[round(1.08 + i * i * 0.028, 4) for i in range(48)])

PUBLISHED = {
    "Mistral-7B-v0.1": MISTRAL,
    "Mistral-7B-v0.3": dict(MISTRAL, rope_theta=1000000.0, sliding_window=None, vocab_size=32768),
    "Mistral-Nemo": dict(MISTRAL, head_dim=128, hidden_size=5120, num_hidden_layers=40,
                         max_position_embeddings=131072, rope_theta=1000000.0, sliding_window=None,
                         vocab_size=131072),
    "SOLAR-10.7B-v1.0": dict(architectures=["LlamaForCausalLM"], attention_bias=False, bos_token_id=1,
                             eos_token_id=2, hidden_act="silu", hidden_size=4096, intermediate_size=14336,
                             max_position_embeddings=4096, model_type="llama", num_attention_heads=32,
                             num_hidden_layers=48, num_key_value_heads=8, pretraining_tp=1,
                             rms_norm_eps=1e-05, rope_scaling=None, rope_theta=10000.0,
                             tie_word_embeddings=False, torch_dtype="float16", use_cache=False,
                             vocab_size=32000),
    "Llama-3.1-8B": LLAMA31,
    "Llama-3.2-1B": dict(LLAMA31, head_dim=64, hidden_size=2048, intermediate_size=8192,
                         num_hidden_layers=16, rope_scaling=dict(LLAMA3, factor=32.0),
                         tie_word_embeddings=True),
    "Llama-2-7B-linear": dict(LLAMA31, rope_scaling=dict(type="linear", factor=4.0), rope_theta=10000.0,
                              num_key_value_heads=32, intermediate_size=11008, vocab_size=32000),
    "Qwen2.5-7B": QWEN25,
    "Qwen2.5-7B-yarn": dict(QWEN25, max_position_embeddings=32768, rope_scaling=dict(
        type="yarn", factor=4.0, original_max_position_embeddings=32768)),
    "Qwen3-8B": dict(architectures=["Qwen3ForCausalLM"], attention_bias=False, bos_token_id=151643,
                     eos_token_id=151645, head_dim=128, hidden_act="silu", hidden_size=4096,
                     intermediate_size=12288, max_position_embeddings=40960, max_window_layers=36,
                     model_type="qwen3", num_attention_heads=32, num_hidden_layers=36,
                     num_key_value_heads=8, rms_norm_eps=1e-06, rope_scaling=None, rope_theta=1000000,
                     sliding_window=None, tie_word_embeddings=False, use_sliding_window=False,
                     vocab_size=151936),
    "gemma-2-9b": GEMMA2,
    "gemma-2-27b": dict(GEMMA2, head_dim=128, hidden_size=4608, intermediate_size=36864,
                        num_attention_heads=32, num_hidden_layers=46, num_key_value_heads=16,
                        query_pre_attn_scalar=144),
    "gemma-3-1b": dict(GEMMA3, hidden_size=1152, intermediate_size=6912, max_position_embeddings=32768,
                       num_attention_heads=4, num_hidden_layers=26, num_key_value_heads=1,
                       rope_scaling=None, sliding_window=512, vocab_size=262144),
    "gemma-3-4b": GEMMA3,
    "gemma-3-27b": dict(GEMMA3, head_dim=128, hidden_size=5376, intermediate_size=21504,
                        num_attention_heads=32, num_hidden_layers=62, num_key_value_heads=16,
                        query_pre_attn_scalar=168),
    "Phi-3-mini-4k": PHI3,
    "Phi-3.5-mini": dict(PHI3, max_position_embeddings=131072, rope_scaling=PHI35_LONG,
                         sliding_window=262144),
    "Phi-4-mini": dict(PHI3, max_position_embeddings=131072, num_attention_heads=24, num_key_value_heads=8,
                       partial_rotary_factor=0.75, rope_scaling=PHI35_LONG, sliding_window=262144,
                       tie_word_embeddings=True, vocab_size=200064),
}

#: Written from the vocabulary, from the model's card or for the file; not from the config.
SKIPPED = ("tokenizer.", "general.size_label", "general.name", "general.basename", "general.version",
           "general.base_model", "general.finetune", "general.quantized_by", "general.type")


def metadata(writer):
    """The keys of a writer with the names of their types."""
    keys = {}
    for key, value in writer.kv_data[0].items():
        if not key.startswith(SKIPPED):
            kind = value.type.name.lower()
            kind += f" {value.sub_type.name.lower()}" if value.sub_type else ""
            keys[key] = [kind, value.value]
    return keys


def converter(folder, config, ftype):
    cls = get_model_class(config["architectures"][0])
    cls.set_vocab = lambda self: None
    return cls(folder, ftype, folder / "out.gguf", eager=True, model_name="oracle")


def changes(folder, out):
    """For the tensors that are more than renamed: the source's row for each row, and what was added."""
    written = {tensor.name: torch.tensor(tensor.data) for tensor in gguf.GGUFReader(out).tensors}
    with safe_open(folder / "model.safetensors", "pt") as file:
        source = {name: file.get_tensor(name).float() for name in file.keys()}
    found = {}
    for name, new in written.items():
        alike = [(hf, old) for hf, old in source.items() if tuple(old.shape) == tuple(new.shape)]
        for hf, old in alike:
            if torch.equal(old, new):
                found[name] = [hf, "same"]
            elif torch.equal(old + 1, new):
                found[name] = [hf, "plus one"]
            else:
                rows = [next((i for i, row in enumerate(old) if torch.equal(row, it)), None) for it in new]
                if None not in rows and len(set(rows)) == len(rows):
                    found[name] = [hf, rows]
    return found


def tiny(name, family, settings):
    torch.manual_seed(len(name))
    config = getattr(transformers, "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config")(**settings)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model.save_pretrained(folder)
        # The converter of gemma3 counts the tokens.
        tokens = {f"t{i}": i for i in range(settings["vocab_size"])}
        (folder / "tokenizer.json").write_text(json.dumps(dict(model=dict(vocab=tokens), added_tokens=[])))
        config = json.loads((folder / "config.json").read_text())
        conversion = converter(folder, config, gguf.LlamaFileType.ALL_F32)
        conversion.write()
        keys = metadata(conversion.gguf_writer)
        changed = changes(folder, folder / "out.gguf")
        tensors = {}
        for tensor in gguf.GGUFReader(folder / "out.gguf").tensors:
            shape = [int(size) for size in reversed(tensor.shape)]
            tensors[tensor.name] = [tensor.tensor_type.name, shape, *changed.get(tensor.name, [])]
            if tensor.name.startswith("rope_"):
                tensors[tensor.name].append([float(value) for value in tensor.data])
        f16 = converter(folder, config, gguf.LlamaFileType.MOSTLY_F16)
        f16.write()
        types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(folder / "out.gguf").tensors}
        for name, kind in types.items():
            tensors[name][0] = kind
        with safe_open(folder / "model.safetensors", "pt") as file:
            stored = set(file.keys())
            order = [name for name in model.state_dict() if name in stored]
        return dict(config=config, metadata=keys, tensors=tensors, state_dict=order)


def published(config):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "config.json").write_text(json.dumps(config))
        save_file({"model.norm.weight": torch.ones(4)}, folder / "model.safetensors")
        conversion = converter(folder, config, gguf.LlamaFileType.MOSTLY_F16)
        conversion.set_gguf_parameters()
        extra = {name: values.tolist() for name, values in conversion.generate_extra_tensors()}
        return dict(config=config, metadata=metadata(conversion.gguf_writer), extra=extra)


def main():
    record = dict(
        transformers=transformers.__version__,
        tiny={name: tiny(name, *args) for name, args in TINIES.items()},
        published={name: published(config) for name, config in PUBLISHED.items()},
    )
    lines = []
    for part in ("tiny", "published"):
        rows = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in record[part].items()]
        lines.append(f"{json.dumps(part)}: {{\n" + ",\n".join(rows) + "\n}")
    print(f'{{\n"transformers": {json.dumps(record["transformers"])},\n' + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main()
