"""The other side of train-vs-pytorch.ts: the same shapes in plain PyTorch, as nanoGPT writes them.

For every line that it reads it trains the timed steps and prints one JSON line: tokens per second of wall and of
processor time.
"""
import json
import math
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

spec = json.loads(sys.argv[1])
torch.set_num_threads(spec["threads"])
torch.manual_seed(1337)
B, T, V, W, H, L, FF = (spec[k] for k in ("batch", "context", "vocabulary", "width", "heads", "layers", "feedForward"))
llama = spec["architecture"] == "llama"
G = spec.get("keyValueHeads", H)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(W))

    def forward(self, x):
        if llama:
            return F.rms_norm(x, (W,), self.weight, 1e-5)
        return F.layer_norm(x, (W,), self.weight, None, 1e-5)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = Norm(), Norm()
        self.qkv = nn.Linear(W, (H + 2 * G) * (W // H), bias=False)
        self.proj = nn.Linear(W, W, bias=False)
        self.up = nn.Linear(W, FF, bias=False)
        self.down = nn.Linear(FF, W, bias=False)
        if llama:
            self.gate = nn.Linear(W, FF, bias=False)

    def forward(self, x, cos, sin):
        q, k, v = self.qkv(self.norm1(x)).split([n * (W // H) for n in (H, G, G)], dim=2)
        q, k, v = (t.view(B, T, -1, W // H).transpose(1, 2) for t in (q, k, v))
        if llama:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=G != H)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, W))
        h = self.norm2(x)
        inner = F.silu(self.gate(h)) * self.up(h) if llama else F.gelu(self.up(h), approximate="tanh")
        return x + self.down(inner)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(V, W)
        self.wpe = None if llama else nn.Embedding(T, W)
        self.blocks = nn.ModuleList(Block() for _ in range(L))
        self.norm = Norm()
        angles = torch.arange(T)[:, None] / 10000 ** (torch.arange(0, W // H, 2) / (W // H))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids, targets):
        x = self.wte(ids)
        if self.wpe is not None:
            x = x + self.wpe(torch.arange(T))
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.norm(x) @ self.wte.weight.T
        return F.cross_entropy(logits.view(-1, V), targets.view(-1))


model = Model()
decayed = [p for p in model.parameters() if p.dim() >= 2]
others = [p for p in model.parameters() if p.dim() < 2]
optimizer = torch.optim.AdamW(
    [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=1e-3, betas=(0.9, 0.99)
)
data = torch.randint(V, (100_000,))


def step():
    starts = torch.randint(len(data) - T, (B,))
    ids = torch.stack([data[i : i + T] for i in starts])
    targets = torch.stack([data[i + 1 : i + T + 1] for i in starts])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=spec.get("precision") == "bf16"):
        loss = model(ids, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


for _ in range(spec["warmup"]):
    step()
for _ in sys.stdin:
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(spec["steps"]):
        loss = step()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    assert math.isfinite(loss)
    tokens = B * T * spec["steps"]
    figures = {"tokensPerSecond": tokens / wall, "tokensPerProcessorSecond": tokens / processor}
    print(json.dumps({"torch": torch.__version__, **figures}), flush=True)
