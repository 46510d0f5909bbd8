"""oneDNN's products, by PyTorch, for bench/onednn.ts: a line `kind rows inputs outputs threads` in, milliseconds of the quickest run out.

Weights lie as oneDNN wants them before the first run. int8 takes unsigned activations: for signed ones it has no quick kernel on AVX-512."""
import sys
import time
import torch


def make(kind, rows, inputs, outputs):
    x, weight = torch.rand(rows, inputs) - 0.5, torch.rand(outputs, inputs) - 0.5
    if kind == "bf16":
        activations = x.bfloat16()
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), rows)
        return lambda: torch.ops.mkldnn._linear_pointwise(activations, packed, None, "none", [], "")
    codes = (x * 254 + 127).round().to(torch.uint8)
    packed = torch.ops.onednn.qlinear_prepack((weight * 254).round().to(torch.int8), list(codes.shape))
    scales, zeros = torch.full([outputs], 1 / 254), torch.zeros(outputs, dtype=torch.int64)
    return lambda: torch.ops.onednn.qlinear_pointwise(
        codes, 1 / 254, 127, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")


torch.manual_seed(1)
products = {}
for line in sys.stdin:
    kind, *numbers = line.split()
    rows, inputs, outputs, threads = map(int, numbers)
    torch.set_num_threads(threads)
    key = (kind, rows, inputs, outputs)
    if key not in products:
        products[key] = make(*key)
        products[key]()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        products[key]()
        best = min(best, time.perf_counter() - start)
    print(best * 1000, flush=True)
