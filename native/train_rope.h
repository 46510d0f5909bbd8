// Rotary positions (Su 2021) of whole sequences. Turning by the opposite angles is the gradient.
//
// Legend: N tokens, H heads of D dimensions, R of which turn.
#pragma once

#include "cache.h"
#include "train_elements.h"

extern "C" double pow(double, double);

namespace {

/// What ggml computes in rope_yarn, for the angle per position of pair i (Peng 2023 where `mixed` is not zero).
struct Angles {
  double base, scale, mixed, low, high;
  int rotary;

  double operator()(int i, float divisor) const {
    double plain = pow(base, -2.0 * i / rotary) / divisor;
    double ramp = (i - low) / (high - low > 0.001 ? high - low : 0.001);
    double mix = mixed * (1 - (ramp < 0 ? 0 : ramp > 1 ? 1 : ramp));
    return plain * (scale * (1 - mix) + mix);
  }
};

/// dst [N, R] = cosines of all pairs, then sines, per token. Sources: positions I32 [N], [divisors of the angles [R/2]].
/// Params: divided (0/1), sign of the angles (1 or -1), base, scale, share of YaRN's mixture, the pairs between which it
/// goes over, factor on both; the last six as float bits.
inline void ropeAngles(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const int32_t* positions = static_cast<const int32_t*>(dst->src[0]->data);
  const float* divisors = call->params[0] ? floatsOf(dst->src[1]) : nullptr;
  int pairs = int(dst->ne[0] / 2);
  Angles angles{floatParam(call, 2), floatParam(call, 3), floatParam(call, 4),
                floatParam(call, 5), floatParam(call, 6), 2 * pairs};
  float factor = floatParam(call, 7), sign = float(call->params[1]);
  float* each = reinterpret_cast<float*>(rw_thread_scratch(alignUp(size_t(pairs) * 4)));
  for (int i = 0; i < pairs; i++) each[i] = float(angles(i, divisors ? divisors[i] : 1.0f));
  byRows(dst, call, nth, [&](size_t first, size_t end) {
    for (size_t row = first; row < end; row++)
      writeAngles(static_cast<float*>(dst->data) + row * 2 * pairs, each, pairs, positions[row], factor, sign);
  });
}

/// dst [N, H, D], also BF16, = x with its first R dimensions turned. Sources: x [N, H, D], rows and heads may be strided;
/// table [N, R]. Params: RotaryPairs.
inline void ropeRows(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor *x = dst->src[0], *table = dst->src[1];
  size_t width = x->ne[0], heads = x->ne[1];
  Numbers results(dst);
  float* turned = reinterpret_cast<float*>(rw_thread_scratch(alignUp(width * 4)));
  byLongRows(dst, call, nth, [&](size_t row) {
    float* to = results.narrow ? turned : floatsOf(dst) + row * width;
    __builtin_memcpy(to, rowAt(x, dst, row), width * 4);
    rotateHead(to, floatsOf(table) + row / heads * table->ne[0], int(table->ne[0]), call->params[0]);
    if (results.narrow) results.storeRow(row * width, to, width);
  });
}

}  // namespace
