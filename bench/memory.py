"""The other side of memory.ts: the same shapes, adapters and quantised bases in plain PyTorch.

PEFT keeps A and B beside a frozen product as here; a quantised base is kept in blocks of 32 numbers with one scale each
(Q8_0 and Q4_0's form) and decoded for each use, forward and backward, as bitsandbytes does on GPUs. One JSON line.
"""
import json
import math
import re
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

spec = json.loads(sys.argv[1])
torch.set_num_threads(spec["threads"])
torch.manual_seed(1337)
B, T, V, W, H, L, FF = (spec[k] for k in ("batch", "context", "vocabulary", "width", "heads", "layers", "feedForward"))
method = spec["method"]
bf16 = spec["precision"] == "bf16"
RANK, ALPHA = 16, 32


def status(name):
    return int(re.search(rf"^{name}:\s+(\d+) kB$", open("/proc/self/status").read(), re.M)[1]) / 1024


def quantised(weight, bits):
    blocks = weight.reshape(weight.shape[0], -1, 32)
    top = 127 if bits == 8 else 7
    scale = blocks.abs().amax(-1, keepdim=True) / top
    codes = (blocks / scale.clamp_min(1e-12)).round().to(torch.int8)
    if bits == 4:
        codes = (codes + 8).to(torch.uint8)
        codes = codes[..., :16] | (codes[..., 16:] << 4)
    return codes, scale.to(torch.float16)


def decoded(codes, scale, bits, dtype):
    if bits == 4:
        codes = torch.cat((codes & 15, codes >> 4), -1).to(torch.int8) - 8
    return (codes.to(dtype) * scale.to(dtype)).flatten(1)


class FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(context, x, codes, scale, bits):
        context.save_for_backward(codes, scale)
        context.bits, context.dtype = bits, x.dtype
        return x @ decoded(codes, scale, bits, x.dtype).T

    @staticmethod
    def backward(context, dy):
        codes, scale = context.saved_tensors
        return dy @ decoded(codes, scale, context.bits, dy.dtype), None, None, None


class Linear(nn.Module):
    """A product that is trained, or a frozen one with an adapter beside it."""

    def __init__(self, inputs, outputs):
        super().__init__()
        weight = torch.empty(outputs, inputs).normal_(std=0.02)
        self.bits = {"lora-q8_0": 8, "lora-q4_0": 4}.get(method)
        if method == "full":
            self.weight = nn.Parameter(weight)
            return
        if self.bits is None:
            self.register_buffer("weight", weight.bfloat16() if method == "lora-bf16" else weight)
        else:
            codes, scale = quantised(weight, self.bits)
            self.register_buffer("codes", codes)
            self.register_buffer("scale", scale)
        self.a = nn.Parameter(torch.empty(RANK, inputs).uniform_(-1, 1) / math.sqrt(inputs))
        self.b = nn.Parameter(torch.zeros(outputs, RANK))

    def forward(self, x):
        if method == "full":
            return F.linear(x, self.weight)
        x = x.bfloat16() if bf16 else x
        y = F.linear(x, self.weight) if self.bits is None else FrozenProduct.apply(x, self.codes, self.scale, self.bits)
        return y + F.linear(F.linear(x, self.a), self.b) * (ALPHA / RANK)


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(W), requires_grad=method == "full")

    def forward(self, x):
        return F.rms_norm(x, (W,), self.weight, 1e-5)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = Norm(), Norm()
        self.q, self.k, self.v, self.proj = (Linear(W, W) for _ in range(4))
        self.gate, self.up, self.down = Linear(W, FF), Linear(W, FF), Linear(FF, W)

    def forward(self, x, cos, sin):
        h = self.norm1(x)
        q, k, v = (p(h).view(B, T, H, W // H).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, W))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(V, W)
        nn.init.normal_(self.wte.weight, std=0.02)
        self.wte.weight.requires_grad = method == "full"
        self.blocks = nn.ModuleList(Block() for _ in range(L))
        self.norm = Norm()
        angles = torch.arange(T)[:, None] / 10000 ** (torch.arange(0, W // H, 2) / (W // H))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, ids, targets):
        x = self.wte(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.norm(x) @ self.wte.weight.T
        return F.cross_entropy(logits.view(-1, V), targets.view(-1))


before = status("VmRSS")
model = Model()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(
    [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ],
    lr=1e-3,
    betas=(0.9, 0.99),
)
data = torch.randint(V, (100_000,))


def step():
    starts = torch.randint(len(data) - T, (B,))
    ids = torch.stack([data[i : i + T] for i in starts])
    targets = torch.stack([data[i + 1 : i + T + 1] for i in starts])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = model(ids, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


for _ in range(spec["warmup"]):
    step()
wall, processor = time.perf_counter(), time.process_time()
for _ in range(spec["steps"]):
    loss = step()
wall, processor = time.perf_counter() - wall, time.process_time() - processor
tokens = B * T * spec["steps"]
peak = status("VmHWM")
figures = {
    "tokensPerSecond": tokens / wall,
    "tokensPerProcessorSecond": tokens / processor,
    "peakMiB": peak,
    "besideRuntimeMiB": peak - before,
}
print(json.dumps({"torch": torch.__version__, "loss": loss, "figures": figures}))
