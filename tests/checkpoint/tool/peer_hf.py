"""compare DIR LOGITS TOKEN...: the model in DIR gives the logits that the file LOGITS holds.
make DIR gpt2|llama|mistral|mixtral|qwen2|qwen3|qwen3_moe: a model with random weights, saved by transformers in several files."""
import sys

import torch
import transformers


def make(directory, family):
    torch.manual_seed(1)
    if family == "gpt2":
        config = transformers.GPT2Config(vocab_size=259, n_positions=48, n_embd=36, n_layer=3, n_head=3,
                                         bos_token_id=256, eos_token_id=256)
    elif family == "mixtral":
        config = transformers.MixtralConfig(
            vocab_size=261, hidden_size=40, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, num_local_experts=5, num_experts_per_tok=2,
            bos_token_id=256, eos_token_id=256)
    elif family.startswith("qwen"):
        common = dict(vocab_size=261, hidden_size=40, intermediate_size=72, num_hidden_layers=3,
                      num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
                      bos_token_id=256, eos_token_id=256)
        if family == "qwen2":
            config = transformers.Qwen2Config(**common, tie_word_embeddings=True)
        elif family == "qwen3":
            config = transformers.Qwen3Config(**common, head_dim=16, use_sliding_window=True, sliding_window=6,
                                              layer_types=["sliding_attention", "full_attention", "sliding_attention"])
        else:
            config = transformers.Qwen3MoeConfig(**common, head_dim=16, moe_intermediate_size=24, num_experts=5,
                                                 num_experts_per_tok=2, norm_topk_prob=True)
    elif family == "mistral":
        config = transformers.MistralConfig(
            vocab_size=261, hidden_size=40, intermediate_size=72, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, head_dim=12, max_position_embeddings=128, sliding_window=7,
            bos_token_id=256, eos_token_id=256)
    else:
        config = transformers.LlamaConfig(
            vocab_size=261, hidden_size=40, intermediate_size=72, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, head_dim=12, max_position_embeddings=128,
            rope_theta=500.0, rms_norm_eps=3e-6, bos_token_id=256, eos_token_id=256,
            rope_scaling={"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
                          "high_freq_factor": 4.0, "original_max_position_embeddings": 32})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(directory, max_shard_size="60KB")


def compare(directory, logits_file, tokens):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, torch_dtype=torch.float32, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (kind, info[kind])
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the others know no float64
    ids = torch.tensor([[int(t) for t in tokens]])
    with torch.no_grad():
        theirs = model.double()(ids).logits[0]
    with open(logits_file) as lines:
        ours = torch.tensor([[float(x) for x in line.split()] for line in lines], dtype=torch.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    difference = (ours - theirs).abs().max().item()
    scale = theirs.abs().max().item()
    same = (ours.argmax(1) == theirs.argmax(1)).all().item()
    print(f"{model.config.model_type}: {ours.shape[0]} x {ours.shape[1]} logits up to {scale:.3f}: "
          f"largest difference {difference:.3g}; same likeliest tokens: {same}")
    # Float32 against float64: sums of some hundred terms.
    assert difference <= 2e-5 * max(1.0, scale) and same


if sys.argv[1] == "make":
    make(sys.argv[2], sys.argv[3])
else:
    compare(sys.argv[2], sys.argv[3], sys.argv[4:])
