// Softmax of logits with what a loss needs of it: the target's share, and the gradient of the weighted loss.
//
// Legend: M rows of V logits.
#pragma once

#include "train_norms.h"

namespace {

/// A row's softmax: the share of a logit x is power(x - highest) / sum.
struct RowShares {
  float highest, sum;

  /// e^x for x <= 0. exponential() ends at -87; probabilities end at 2^-149.
  static Vector power(Vector x) { return exponential(x < splat(-87.0f) ? splat(-87.0f) : x); }

  static float smallPower(float x) {
    if (!(x < -87.0f)) return power(splat(x))[0];
    float root = power(splat(x / 2))[0];
    return root * root;
  }

  static RowShares of(const float* x, int width) {
    const int whole = width / lanes * lanes;  // a mask for every vector took as long as its exponential
    auto last = [&](Vector value, float other) { return keepRange(value, whole, 0, width, other); };
    Vector best = splat(-__builtin_inff());
    for (int i = 0; i < whole; i += lanes) best = maximum(load(x + i), best);
    if (whole < width) best = maximum(last(load(x + whole, width - whole), -__builtin_inff()), best);
    float highest = maximumLane(best);
    Vector sum = zero();
    for (int i = 0; i < whole; i += lanes) sum = sum + power(load(x + i) - highest);
    if (whole < width) sum = sum + last(power(load(x + whole, width - whole) - highest), 0.0f);
    return {highest, sumLanes(sum)};
  }
};

inline int targetOf(const ggml_tensor* cells, size_t row, int width) {
  int target = int(static_cast<const int32_t*>(cells->data)[row] - int64_t(row) * width);
  if (target < 0 || target >= width) __builtin_trap();
  return target;
}

/// dst [M, 1] = share of each row's target. Sources: logits [M, V], contiguous; I32 [M]: row V + target.
inline void chosenShares(ggml_tensor* dst, int, int nth, void* userdata) {
  const ggml_tensor* logits = dst->src[0];
  int width = int(logits->ne[0]);
  byRows(logits, static_cast<Call*>(userdata), nth, [&](size_t first, size_t end) {
    for (size_t row = first; row < end; row++) {
      const float* x = floatsOf(logits) + row * width;
      RowShares shares = RowShares::of(x, width);
      float own = x[targetOf(dst->src[1], row, width)];
      static_cast<float*>(dst->data)[row] = RowShares::smallPower(own - shares.highest) / shares.sum;
    }
  });
}

/// dst [M, V] = gradient of the sum of weight * loss: weight (share - 1 at the target). Sources: logits and cells as
/// before, weights [M, 1]. Rows that weigh nothing are not looked at.
inline void sharesBack(ggml_tensor* dst, int, int nth, void* userdata) {
  const ggml_tensor* logits = dst->src[0];
  const float* weights = floatsOf(dst->src[2]);
  int width = int(logits->ne[0]);
  byRows(logits, static_cast<Call*>(userdata), nth, [&](size_t first, size_t end) {
    for (size_t row = first; row < end; row++) {
      const float* x = floatsOf(logits) + row * width;
      float *to = static_cast<float*>(dst->data) + row * width, weight = weights[row];
      if (weight == 0.0f) {
        __builtin_memset(to, 0, size_t(width) * 4);
        continue;
      }
      RowShares shares = RowShares::of(x, width);
      int target = targetOf(dst->src[1], row, width);
      float share = RowShares::smallPower(x[target] - shares.highest) / shares.sum;
      for (int i = 0; i < width; i += lanes)
        store(to + i, RowShares::power(load(x + i, width - i) - shares.highest) / shares.sum * weight, width - i);
      to[target] = weight * (share - 1.0f);
    }
  });
}

}  // namespace
