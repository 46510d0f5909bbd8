"""By hand: training traces by transformers and torch.optim.AdamW of architectures that ../shared/data has none of.
Weights and tokens come from a counter, so that a trace needs no weights beside it; test/train/golden.ts makes the same.
Usage: python test/outside/goldens.py FOLDER [NAME...]   (the committed ones: test/train/goldens)"""
import copy, json, os, sys
import torch, transformers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GptOssConfig, GptOssForCausalLM, GraniteConfig, GraniteForCausalLM
from transformers import Olmo2Config, Olmo2ForCausalLM, Olmo3Config, Olmo3ForCausalLM
from transformers import MistralConfig, MistralForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers import GraniteMoeConfig, GraniteMoeForCausalLM, MixtralConfig, MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM, SmolLM3Config, SmolLM3ForCausalLM

torch.set_num_threads(1)
VOCABULARY, TOKENS, SEQUENCES, STEPS, RATE = 64, 24, 4, 12, 1e-2


def counter(seed):
    x = seed & 0xFFFFFFFF
    while True:
        x = (1664525 * x + 1013904223) & 0xFFFFFFFF
        yield x / 4294967296.0


def seed_of(name):
    h = 0x811C9DC5
    for byte in name.encode():
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return h


def named(model, of=lambda parameter: parameter):
    """Parameters, or `of` them, by our names: experts lie below one another, gate and up of each apart."""
    for name, parameter in model.named_parameters():
        name, value = name.replace("block_sparse_moe.router", "mlp.gate").replace("block_sparse_moe", "mlp"), of(parameter)
        if model.config.model_type == "gpt_oss" and ".mlp." in name:
            yield from named_of_gpt_oss(name.replace("mlp.router", "mlp.gate"), value)
            continue
        if name.endswith("experts.gate_up_proj"):
            for part, half in zip(("gate_proj", "up_proj"), value.chunk(2, dim=1)):
                yield name.replace("gate_up_proj", part) + ".weight", half
        else:
            yield name + (".weight" if name.endswith("experts.down_proj") else ""), value


def named_of_gpt_oss(name, value):
    """Its matrices are turned round, gate and up column by column in turns."""
    kind = ".bias" if name.endswith("_bias") else ".weight"
    stem = name.removesuffix("_bias")
    if not stem.endswith(("gate_up_proj", "down_proj")):
        yield name, value
    else:
        value = value if kind == ".bias" else value.transpose(1, 2)
        if stem.endswith("down_proj"):
            yield stem + kind, value
        else:
            for first, part in enumerate(("gate_proj", "up_proj")):
                yield stem.replace("gate_up_proj", part) + kind, value[:, first::2]


def fill(model):
    norm = 0 if "gemma" in model.config.model_type else 1  # Gemma's norms add one themselves
    with torch.no_grad():
        for name, parameter in named(model):
            numbers = counter(seed_of(name))
            values = torch.tensor([next(numbers) for _ in range(parameter.numel())], dtype=torch.float64)
            values = norm + (values - 0.5) * 0.2 if "norm" in name else (values - 0.5) * 0.16
            parameter.copy_(values.view(parameter.shape).to(parameter.dtype))


def batch(masked):
    numbers = counter(1000)
    ids = torch.tensor([[int(next(numbers) * VOCABULARY) for _ in range(TOKENS)] for _ in range(SEQUENCES)])
    labels = ids.clone()
    if masked:
        for row in range(SEQUENCES):
            labels[row, : 5 + 2 * row] = -100
        labels[1, -6:] = -100
    return ids, labels


def trace(make, config, masked, dtype, autocast=False, balance=0.0):
    model = make(config).to(dtype)
    for module in model.modules():
        if hasattr(module, "limit"):  # transformers reads it from no configuration
            module.limit = config.swiglu_limit
    fill(model)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            dict(params=[p for p in parameters if p.dim() >= 2], weight_decay=0.1),
            dict(params=[p for p in parameters if p.dim() < 2], weight_decay=0.0),
        ],
        lr=RATE, betas=(0.9, 0.95), eps=1e-8, foreach=False,
    )
    ids, labels = batch(masked)
    targets = labels[:, 1:].reshape(-1)
    count = int((targets != -100).sum())
    result = dict(losses=[], grad_norms=[], lrs=[RATE] * STEPS)
    for step in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            output = model(input_ids=ids, use_cache=False, **(dict(output_router_logits=True) if balance else {}))
        logits = output.logits
        scores = logits.float() if autocast else logits
        scores = scores[:, :-1].reshape(-1, VOCABULARY)
        loss = torch.nn.functional.cross_entropy(scores, targets, ignore_index=-100, reduction="sum") / count
        (loss + balance * output.aux_loss if balance else loss).backward()
        if step == 0:
            result["logits_sum_step0"] = logits.double().sum().item()
            result["logits_l2_step0"] = logits.double().norm().item()
            result["grad_l2_step0"] = {name: g.double().norm().item() for name, g in named(model, lambda p: p.grad)}
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=False).item()
        result["losses"].append(loss.item())
        result["grad_norms"].append(norm)
        optimizer.step()
    result["param_sum_final"] = {name: p.double().sum().item() for name, p in named(model)}
    return result


shared = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, attn_implementation="eager",
)
cases = {
    # Heads of 12 dimensions, four of which are wider than the model: neither is the other's quotient.
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**shared, head_dim=12, tie_word_embeddings=False), True),
    "granite": (GraniteForCausalLM, GraniteConfig(**shared, embedding_multiplier=6.0, residual_multiplier=0.3,
        attention_multiplier=0.25, logits_scaling=1.7, tie_word_embeddings=True), True),
    # Norms behind products make what is small at first large, and its rounding: with 1e-5, float32 misses float64 by 3e-5.
    "olmo2": (Olmo2ForCausalLM, Olmo2Config(**shared, pad_token_id=None, rms_norm_eps=1e-2, tie_word_embeddings=False), False),
    "olmo3": (Olmo3ForCausalLM, Olmo3Config(**shared, pad_token_id=None, rms_norm_eps=1e-2, tie_word_embeddings=False, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"], rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16,
        attention_factor=1.1386, beta_fast=32.0, beta_slow=1.0)), False),
    # Six of eight dimensions turn, by the divisors for sequences that are longer than those of the first training.
    "phi3": (Phi3ForCausalLM, Phi3Config(**shared, original_max_position_embeddings=16, partial_rotary_factor=0.75, pad_token_id=None,
        rope_scaling=dict(type="longrope", short_factor=[1.0, 1.1, 1.3], long_factor=[1.05, 2.0, 4.5])), False),
    # A layer with a window before one without, each with rotary positions of its own; the scale is no head's width. A
    # padding token would have no gradient from where it is read.
    "gemma3_text": (Gemma3ForCausalLM, Gemma3TextConfig(
        **shared, head_dim=12, tie_word_embeddings=True, query_pre_attn_scalar=20, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"], pad_token_id=None,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
        },
    ), True),
    "smollm3": (SmolLM3ForCausalLM, SmolLM3Config(
        **shared, no_rope_layers=[0, 1], tie_word_embeddings=True, pad_token_id=None, bos_token_id=2, eos_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
    ), False),
    "mistral": (MistralForCausalLM, MistralConfig(**shared, sliding_window=8, tie_word_embeddings=False), False),
}

# Experts one after the other, each token in float64 where all is: the batched form rounds as it likes.
experts = dict(experts_implementation="eager")
cases.update({
    # Its first layer has one feed-forward for all tokens, its second five experts that are not as wide.
    "qwen3_moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**shared, **experts, head_dim=12, num_experts=5, num_experts_per_tok=2,
        moe_intermediate_size=16, decoder_sparse_step=2, norm_topk_prob=True, tie_word_embeddings=False), True),
    "mixtral": (MixtralForCausalLM, MixtralConfig(**shared, **experts, num_local_experts=4, num_experts_per_tok=2, sliding_window=8,
        tie_word_embeddings=False), False),
    "olmoe": (OlmoeForCausalLM, OlmoeConfig(**shared, **experts, num_experts=8, num_experts_per_tok=3, norm_topk_prob=False,
        pad_token_id=None, rms_norm_eps=1e-2, tie_word_embeddings=False), False),
    "granitemoe": (GraniteMoeForCausalLM, GraniteMoeConfig(**shared, **experts, num_local_experts=6, num_experts_per_tok=3,
        embedding_multiplier=6.0, residual_multiplier=0.3, attention_multiplier=0.25, logits_scaling=1.7, tie_word_embeddings=True), True),
})
# gpt-oss: sinks, windows in every second layer, YaRN between parts of pairs, biases, and gates some of which reach their limit.
cases["gpt_oss"] = (GptOssForCausalLM, GptOssConfig(**shared, **experts, head_dim=12, num_local_experts=5, num_experts_per_tok=2,
    swiglu_limit=0.2, sliding_window=8, pad_token_id=None, bos_token_id=2, eos_token_id=1, tie_word_embeddings=False, rope_parameters=dict(rope_type="yarn",
    rope_theta=150000.0, factor=4.0, beta_fast=32.0, beta_slow=1.0, truncate=False, original_max_position_embeddings=16)), True)
# How evenly experts are used weighs beside the loss, which is told without it; much, so that it shows.
cases["olmoe_balanced"] = (*cases["olmoe"], 0.3)
for name, (make, config, masked, *balance) in cases.items():
    weighs = dict(balance=balance[0]) if balance else {}
    if sys.argv[2:] and name not in sys.argv[2:]:
        continue
    runs = {str(t)[6:]: trace(make, copy.deepcopy(config), masked, t, **weighs) for t in (torch.float32, torch.float64)}
    # How far products in bfloat16 lead away from float32: the measure for ours.
    runs["autocast"] = dict(losses=trace(make, copy.deepcopy(config), masked, torch.float32, True, **weighs)["losses"])
    out = dict(torch=torch.__version__, transformers=transformers.__version__, opt={**(dict(mask=True) if masked else {}), **weighs},
               config={**config.to_diff_dict(), "model_type": config.model_type}, **runs)
    with open(os.path.join(sys.argv[1], name + ".json"), "w") as file:
        json.dump(out, file, indent=1)
    print(name, runs["float32"]["losses"][0], runs["float32"]["losses"][-1])
