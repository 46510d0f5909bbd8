// Choosing among logits without carrying them to the host.
#pragma once

#include "call.h"
#include "simd.h"
#include "tensor.h"

namespace {

/// dst I32 [N] = index of the largest of each row, the lowest on ties; NaN never wins, and -1 stands where nothing is a
/// number above -infinity. Sources: F32 [N, V], contiguous.
inline void argmaxRows(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor* x = dst->src[0];
  int count = int(x->ne[0]);
  for (int64_t row; (row = takePiece(call)) < x->ne[1];) {
    const float* from = reinterpret_cast<const float*>(static_cast<const char*>(x->data) + row * x->nb[1]);
    Vector most = splat(-__builtin_inff());
    int k = 0;
    for (; k + lanes <= count; k += lanes) most = maximum(load(from + k), most);
    float best = maximumLane(most);
    for (; k < count; k++) best = from[k] > best ? from[k] : best;
    int index = best > -__builtin_inff() ? 0 : -1;
    while (index >= 0 && from[index] != best) index++;
    static_cast<int32_t*>(dst->data)[row] = index;
  }
  leave(call, nth);
}

}  // namespace
