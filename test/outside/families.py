"""By hand: random models of families that transformers knows, and what it answers; families.ts compares.
Usage: python test/outside/families.py FOLDER TOKENIZER.json [NAME...], then npx tsx test/outside/families.ts FOLDER"""
import json, os, sys
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM

folder, tokenizer, *only = sys.argv[1:]
text = open(tokenizer).read()
model = json.loads(text)
rows = 1 + max([*model["model"]["vocab"].values(), *(token["id"] for token in model["added_tokens"])])
common = dict(
    vocab_size=rows, hidden_size=64, intermediate_size=160, num_hidden_layers=7, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.1, bos_token_id=None, eos_token_id=0,
    pad_token_id=None,
)
long_rope = {
    "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "original_max_position_embeddings": 8,
    "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.5, 2.0, 2.5, 3.0],
}
families = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    # llama.cpp takes a model that is called phi3 for Microsoft's, with pieces that this tokenizer lacks.
    "phi": {},
    # Longer than its first training, so that both choose the long divisors: transformers by the text, others by the context.
    "phi-long": {"partial_rotary_factor": 0.5, "original_max_position_embeddings": 8, "rope_parameters": long_rope},
    "granite": {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2, "logits_scaling": 1.5},
    "smollm3": {"no_rope_layer_interval": 4},
    "olmo2": {},
    "olmo3": {"sliding_window": 8},
    "gemma3_text": {"head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 32},
    "qwen3_moe": {"head_dim": 32, "num_experts": 20, "num_experts_per_tok": 4, "moe_intermediate_size": 48, "norm_topk_prob": True},
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2},
    # llama.cpp has norms of keys as wide as those of queries only.
    "olmoe": {"num_key_value_heads": 4, "num_experts": 9, "num_experts_per_tok": 3},
    "gpt_oss": {"head_dim": 32, "num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": 8},
    "granitemoe": {"num_local_experts": 8, "num_experts_per_tok": 3, "embedding_multiplier": 2.0, "residual_multiplier": 0.5,
        "attention_multiplier": 0.2, "logits_scaling": 1.5},
}
prompt = [433, 447, 259, 405, 406, 282, 259, 403, 3275, 591, 907, 317, 263, 1642, 1045, 1944, 265, 1909]
answers = {}
for name, own in families.items():
    if only and name not in only:
        continue
    torch.manual_seed(1)
    kind = "phi3" if name.startswith("phi") else name
    config = AutoConfig.for_model(kind, **(common | own))
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    made.save_pretrained(os.path.join(folder, name))
    open(os.path.join(folder, name, "tokenizer.json"), "w").write(text)
    ids = torch.tensor([prompt])
    with torch.no_grad():
        logits = made(ids).logits[0].tolist()
        out = made.generate(ids, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
    answers[name] = {"logits": logits, "tokens": out[0, len(prompt):].tolist()}
with open(os.path.join(folder, "answers.json"), "w") as file:
    json.dump({"torch": torch.__version__, "transformers": transformers.__version__, "prompt": prompt, "answers": answers}, file)
