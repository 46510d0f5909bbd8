"""By hand: losses and gradients of DPO, ORPO and KTO by PyTorch's autograd in float64, with a Llama written out here.
Usage: python test/outside/preferences.py test/outside/preferences.json
The formulas are those of TRL 0.29 (sigmoid DPO; ORPO's odds ratio on mean log-probabilities; KTO with the KL estimate
of the batch clamped at zero), each pair's answers as sequences of their own."""
import json, math, sys
import torch
import torch.nn.functional as F

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
VOCAB, WIDTH, HEADS, GROUPS, INNER, LAYERS, EPS, THETA = 20, 16, 2, 1, 32, 2, 1e-5, 10000.0


def lcg(seed):
    x = seed & 0xFFFFFFFF
    while True:
        x = (1664525 * x + 1013904223) & 0xFFFFFFFF
        yield x / 4294967296


def fnv(text):
    h = 0x811C9DC5
    for c in text.encode():
        h = ((h ^ c) * 0x01000193) & 0xFFFFFFFF
    return h


def shapes():
    yield "model.embed_tokens.weight", (VOCAB, WIDTH)
    for i in range(LAYERS):
        p = f"model.layers.{i}"
        d = WIDTH // HEADS
        yield f"{p}.input_layernorm.weight", (WIDTH,)
        yield f"{p}.self_attn.q_proj.weight", (HEADS * d, WIDTH)
        yield f"{p}.self_attn.k_proj.weight", (GROUPS * d, WIDTH)
        yield f"{p}.self_attn.v_proj.weight", (GROUPS * d, WIDTH)
        yield f"{p}.self_attn.o_proj.weight", (WIDTH, HEADS * d)
        yield f"{p}.post_attention_layernorm.weight", (WIDTH,)
        yield f"{p}.mlp.gate_proj.weight", (INNER, WIDTH)
        yield f"{p}.mlp.up_proj.weight", (INNER, WIDTH)
        yield f"{p}.mlp.down_proj.weight", (WIDTH, INNER)
    yield "model.norm.weight", (WIDTH,)


def weights():
    out = {}
    for name, shape in shapes():
        draw = lcg(fnv(name))
        size = math.prod(shape)
        values = [2 * next(draw) - 1 for _ in range(size)]
        w = torch.tensor(values).view(shape)
        w = 1 + 0.1 * w if len(shape) == 1 else 0.6 * w
        # Ropeway holds float32.
        out[name] = w.float().double().requires_grad_()
    return out


def norm(x, w):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * w


def rope(x):
    t, _, d = x.shape
    angle = torch.arange(t)[:, None] * THETA ** (-torch.arange(0, d, 2) / d)[None]
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def logits(w, ids):
    x = w["model.embed_tokens.weight"][ids]
    t, d = len(ids), WIDTH // HEADS
    for i in range(LAYERS):
        p = f"model.layers.{i}"
        h = norm(x, w[f"{p}.input_layernorm.weight"])
        q, k, v = (h @ w[f"{p}.self_attn.{n}_proj.weight"].T for n in "qkv")
        q, k, v = rope(q.view(t, HEADS, d)), rope(k.view(t, GROUPS, d)), v.view(t, GROUPS, d)
        k, v = (y.repeat_interleave(HEADS // GROUPS, 1) for y in (k, v))
        scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(d)
        scores = scores.masked_fill(torch.triu(torch.ones(t, t, dtype=torch.bool), 1), -math.inf)
        mixed = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).reshape(t, -1)
        x = x + mixed @ w[f"{p}.self_attn.o_proj.weight"].T
        h = norm(x, w[f"{p}.post_attention_layernorm.weight"])
        gated = F.silu(h @ w[f"{p}.mlp.gate_proj.weight"].T) * (h @ w[f"{p}.mlp.up_proj.weight"].T)
        x = x + gated @ w[f"{p}.mlp.down_proj.weight"].T
    return norm(x, w["model.norm.weight"]) @ w["model.embed_tokens.weight"].T


def answer(w, ids, prompt):
    """Sum of the log-probabilities of the tokens behind the prompt, and how many they are."""
    ids = torch.tensor(ids)
    logp = logits(w, ids).log_softmax(-1)[:-1].gather(1, ids[1:, None])[prompt - 1 :, 0]
    return logp.sum(), len(logp)


draw = lcg(77)
token = lambda: int(next(draw) * VOCAB)
pairs = []
for i, (prompt, left, right) in enumerate([(3, 4, 5), (2, 6, 3), (4, 3, 4), (1, 5, 2)]):
    head = [token() for _ in range(prompt)]
    pairs.append(
        dict(
            prompt=prompt,
            left=head + [token() for _ in range(left)],
            right=head + [token() for _ in range(right)],
            verdict=1 if i % 3 else -1,
            referenceLeft=-3.0 * left + next(draw),
            referenceRight=-3.6 * right + next(draw),
        )
    )


def loss_of(method, w):
    sums = [(answer(w, p["left"], p["prompt"]), answer(w, p["right"], p["prompt"])) for p in pairs]
    left, right = (torch.stack([s[side][0] for s in sums]) for side in (0, 1))
    n_left, n_right = (torch.tensor([float(s[side][1]) for s in sums]) for side in (0, 1))
    ref_left, ref_right, verdict = (torch.tensor([float(p[n]) for p in pairs]) for n in ("referenceLeft", "referenceRight", "verdict"))
    if method["kind"] == "dpo":
        moved = (left - right) - (ref_left - ref_right)
        return -F.logsigmoid(method["beta"] * moved).mean()
    if method["kind"] == "orpo":
        a, b = left / n_left, right / n_right
        odds = (a - b) - (torch.log1p(-a.exp()) - torch.log1p(-b.exp()))
        return (-a - method["lambda"] * F.logsigmoid(odds)).mean()
    kl = (right - ref_right).mean().clamp(min=0).detach()
    moved = left - ref_left
    good = method["desirable"] * (1 - torch.sigmoid(method["beta"] * (moved - kl)))
    bad = method["undesirable"] * (1 - torch.sigmoid(method["beta"] * (kl - moved)))
    return torch.where(verdict > 0, good, bad).mean()


cases = []
for method in (
    dict(kind="dpo", beta=0.1),
    dict(kind="dpo", beta=0.5),
    {"kind": "orpo", "lambda": 0.1},
    {"kind": "orpo", "lambda": 1.0},
    dict(kind="kto", beta=0.1, desirable=1.0, undesirable=1.0),
    dict(kind="kto", beta=0.3, desirable=1.0, undesirable=1.33),
):
    w = weights()
    loss = loss_of(method, w)
    loss.backward()
    norms = {name: w[name].grad.norm().item() for name in w}
    cases.append(dict(method=method, loss=loss.item(), gradientNorms=norms))
    total = math.sqrt(sum(n * n for n in norms.values()))
    print(f"{json.dumps(method):64s} loss {loss.item():.9f}  gradient {total:.9f}")
config = dict(layers=LAYERS, width=WIDTH, heads=HEADS, key_value_heads=GROUPS, feed_forward=INNER)
with open(sys.argv[1], "w") as file:
    json.dump(dict(torch=torch.__version__, vocabulary=VOCAB, config=config, pairs=pairs, cases=cases), file, indent=1)
    file.write("\n")
print("torch", torch.__version__, "float64")
