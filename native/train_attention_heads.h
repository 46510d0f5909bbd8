// What attention over whole sequences for training reads, and the two ways of computing it share.
//
// Legend: B sequences of J tokens, N = B J, H heads, G kv heads, D head width.
#pragma once

#include "call.h"
#include "matmul.h"

namespace {

inline size_t padTo(size_t count, size_t step) { return (count + step - 1) / step * step; }

struct TrainShape {
  size_t sequences, tokens, heads, kvHeads, width;
  float scale;
  const float* sinks;  // [H] scores of their own beside those of every row, without a value; or null

  /// Of a head, in the terms of scores that are not scaled yet; null for none.
  const float* sink(size_t head, float* to) const {
    if (!sinks) return nullptr;
    *to = sinks[head] / scale;
    return to;
  }
  size_t perKv() const { return heads / kvHeads; }

  /// Numbers of a row of gradients: of q, k and v; where there are sinks, behind them what the row adds to each of theirs.
  size_t slopeStride() const { return sinkSlopes() + (sinks ? heads : 0); }
  size_t sinkSlopes() const { return (heads + 2 * kvHeads) * width; }
};

inline TrainShape trainShape(const Call* call, const ggml_tensor* q, const ggml_tensor* k, const ggml_tensor* sinks) {
  size_t sequences = size_t(call->params[0]);
  return {sequences, size_t(q->ne[2]) / sequences, size_t(q->ne[1]), size_t(k->ne[1]), size_t(q->ne[0]), floatParam(call, 1),
          sinks ? floatsOf(sinks) : nullptr};
}

/// Tokens [first, first + count) of one head of x [N, heads, D] as a matrix [count, D], wherever rows of x lie; or turned.
struct Head {
  const char* data;
  size_t rows, inputs, stride;
  bool narrow, turned;

  static Head of(const ggml_tensor* x, size_t head, size_t first, size_t count) {
    const char* at = static_cast<const char*>(x->data) + first * x->nb[2] + head * x->nb[1];
    return {at, count, size_t(x->ne[0]), x->nb[2], x->type == sourceBF16, false};
  }

  Head other() const { return {data, inputs, rows, stride, narrow, !turned}; }

  /// Calls `use` with the matrix that it is.
  template <class Use>
  void as(Use use) const {
    size_t step = stride / 4;
    if (narrow) use(FrozenMatrix<FrozenBF16>{data, rows, inputs, stride, turned});
    else use(Matrix{reinterpret_cast<const float*>(data), rows, inputs, turned ? 1 : step, turned ? step : 1});
  }

  template <class Lanes, size_t width>
  void pack(size_t steps, float* to) const {
    as([&](const auto& matrix) { packStrips<Lanes, width>(matrix, {0, quotientUp(rows, width), 0, steps, to, steps * width}); });
  }
};

/// Sinks among the sources of a gradient, behind which that of the result stands.
inline const ggml_tensor* sinksOfBack(const ggml_tensor* dst) { return dst->src[5] ? dst->src[4] : nullptr; }
inline const ggml_tensor* slopeOfBack(const ggml_tensor* dst) { return dst->src[5] ? dst->src[5] : dst->src[4]; }

/// What `count` rows from `row` add to the gradient of a head's sink goes into their rows of gradients. With p the share
/// that the sink takes of a row, which moves every other share by -p of itself: -p (mean gradient of the row's shares).
inline void storeSinkSlopes(const Numbers& to, const TrainShape& shape, size_t row, size_t head, const float* slopes, size_t count) {
  for (size_t r = 0; r < count; r++) to.storeRow((row + r) * shape.slopeStride() + shape.sinkSlopes() + head, slopes + r, 1);
}

/// The result's gradient [N, H D] as [N, H, D].
inline ggml_tensor asHeads(ggml_tensor slope, size_t width) {
  slope.nb[2] = slope.nb[1];
  slope.nb[1] = width * slope.nb[0];
  slope.ne[0] = width;
  return slope;
}

}  // namespace
