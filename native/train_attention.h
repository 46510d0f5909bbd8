// Causal attention over whole sequences for training, forward and backward, without a matrix of all scores: one kv
// head of one sequence at a time, a few rows of scores at a time. The backward pass computes them again.
//
// Legend: B sequences of T tokens, N = B T, H heads, G kv heads, D head width, R rows of a tile.
#pragma once

#include "call.h"
#include "simd.h"
#include "tensor.h"

namespace {

constexpr int trainRows = lanes == 16 ? 8 : 4;
constexpr int trainVectors = 2;

inline size_t padTo(size_t count, size_t step) { return (count + step - 1) / step * step; }

/// c[r][0..columns) = sum over i in [from, to) of a[r * aRow + i * aInner] b[i][0..columns), R rows, in the order of i.
/// Columns of b and c are whole pairs of vectors.
template <bool added>
inline void fewRows(const float* a, size_t aRow, size_t aInner, const float* b, size_t bStride, size_t from, size_t to,
                    float* c, size_t cStride, size_t first, size_t columns) {
  for (size_t column = first; column < columns; column += trainVectors * lanes) {
    Vector sum[trainRows][trainVectors];
#pragma GCC unroll 8
    for (int r = 0; r < trainRows; r++)
      for (int v = 0; v < trainVectors; v++) sum[r][v] = added ? load(c + r * cStride + column + v * lanes) : zero();
    for (size_t i = from; i < to; i++) {
      Vector w[trainVectors];
      for (int v = 0; v < trainVectors; v++) w[v] = load(b + i * bStride + column + v * lanes);
#pragma GCC unroll 8
      for (int r = 0; r < trainRows; r++) {
        Vector x = splat(a[r * aRow + i * aInner]);
        for (int v = 0; v < trainVectors; v++) sum[r][v] = fma(x, w[v], sum[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < trainRows; r++)
      for (int v = 0; v < trainVectors; v++) store(c + r * cStride + column + v * lanes, sum[r][v]);
  }
}

/// c[j][0..width) += sum over the R rows of a[r][j] b[r][0..width), for j in [from, to).
inline void addOuter(const float* a, size_t aRow, const float* b, size_t bStride, size_t from, size_t to, float* c,
                     size_t cStride, size_t width) {
  for (size_t column = 0; column < width; column += trainVectors * lanes) {
    Vector x[trainRows][trainVectors];
#pragma GCC unroll 8
    for (int r = 0; r < trainRows; r++)
      for (int v = 0; v < trainVectors; v++) x[r][v] = load(b + r * bStride + column + v * lanes);
    for (size_t j = from; j < to; j++) {
      Vector sum[trainVectors];
      for (int v = 0; v < trainVectors; v++) sum[v] = load(c + j * cStride + column + v * lanes);
#pragma GCC unroll 8
      for (int r = 0; r < trainRows; r++) {
        Vector weight = splat(a[r * aRow + j]);
        for (int v = 0; v < trainVectors; v++) sum[v] = fma(weight, x[r][v], sum[v]);
      }
      for (int v = 0; v < trainVectors; v++) store(c + j * cStride + column + v * lanes, sum[v]);
    }
  }
}

struct TrainShape {
  size_t sequences, tokens, heads, kvHeads, width, tokensPadded, widthPadded;
  float scale;

  size_t perKv() const { return heads / kvHeads; }
};

/// Rows [T][D] of one head of one sequence of x [N, heads, D], wherever rows of x lie.
inline const float* rowOf(const ggml_tensor* x, size_t row, size_t head) {
  return reinterpret_cast<const float*>(static_cast<const char*>(x->data) + row * x->nb[2] + head * x->nb[1]);
}

inline void copyRow(const float* from, size_t width, size_t padded, float* to) {
  __builtin_memcpy(to, from, width * 4);
  for (size_t d = width; d < padded; d++) to[d] = 0;
}

/// What one thread keeps of a head of a sequence.
struct TrainScratch {
  float *keys, *values;              // [T][D padded]
  float *keysTurned, *valuesTurned;  // [D][T padded]
  float *keySlopes, *valueSlopes;    // [T][D padded]
  float *query, *slope;              // [R][D padded]
  float *shares, *shareSlopes;       // [R][T padded]
  float* mixed;                      // [R][D padded]

  static TrainScratch in(const TrainShape& shape, bool back, char* memory, size_t* bytes) {
    size_t at = 0;
    auto take = [&](size_t floats) {
      float* part = reinterpret_cast<float*>(memory + at);
      at += alignUp(floats * 4);
      return part;
    };
    size_t rows = shape.tokens * shape.widthPadded, turned = shape.width * shape.tokensPadded;
    TrainScratch scratch{};
    scratch.values = take(rows);
    scratch.keysTurned = take(turned);
    if (back) {
      scratch.keys = take(rows);
      scratch.valuesTurned = take(turned);
      scratch.keySlopes = take(rows);
      scratch.valueSlopes = take(rows);
      scratch.slope = take(trainRows * shape.widthPadded);
      scratch.shareSlopes = take(trainRows * shape.tokensPadded);
    }
    scratch.query = take(trainRows * shape.widthPadded);
    scratch.mixed = take(trainRows * shape.widthPadded);
    scratch.shares = take(trainRows * shape.tokensPadded);
    *bytes = at;
    return scratch;
  }
};

/// A head's rows as they are and turned; either may be left out.
inline void gatherHead(const TrainShape& shape, const ggml_tensor* x, size_t row, size_t head, float* rows, float* turned) {
  for (size_t t = 0; t < shape.tokens; t++) {
    const float* from = rowOf(x, row + t, head);
    if (rows) copyRow(from, shape.width, shape.widthPadded, rows + t * shape.widthPadded);
    if (turned)
      for (size_t d = 0; d < shape.width; d++) turned[d * shape.tokensPadded + t] = from[d];
  }
  if (!turned) return;
  for (size_t d = 0; d < shape.width; d++)
    for (size_t t = shape.tokens; t < shape.tokensPadded; t++) turned[d * shape.tokensPadded + t] = 0;
}

/// R rows of x from token t on, zeros behind the last token.
inline void gatherTile(const TrainShape& shape, const ggml_tensor* x, size_t row, size_t t, size_t head, float factor,
                       float* to) {
  for (size_t r = 0; r < trainRows; r++) {
    float* own = to + r * shape.widthPadded;
    for (size_t d = 0; d < shape.widthPadded; d++) own[d] = 0;
    if (t + r >= shape.tokens) continue;
    const float* from = rowOf(x, row + t + r, head);
    for (size_t d = 0; d < shape.width; d++) own[d] = from[d] * factor;
  }
}

/// Columns that some row of a tile sees: whole pairs of vectors.
struct Columns {
  size_t from, end;      // [from, end) of the tile
  size_t first, padded;  // the same in whole steps
};

inline Columns columnsOf(const TrainShape& shape, const int32_t* firsts, size_t row, size_t t) {
  Columns columns{};
  columns.end = t + trainRows < shape.tokens ? t + trainRows : shape.tokens;
  // Firsts never fall from one token to the next.
  columns.from = size_t(firsts[row + t]) - row;
  columns.first = columns.from / (trainVectors * lanes) * (trainVectors * lanes);
  columns.padded = padTo(columns.end, trainVectors * lanes);
  return columns;
}

/// Scores of a tile become shares: softmax over what each row sees, zero elsewhere.
inline void sharesOf(const TrainShape& shape, const int32_t* firsts, size_t row, size_t t, const Columns& columns,
                     float* shares) {
  for (size_t r = 0; r < trainRows; r++) {
    float* own = shares + r * shape.tokensPadded;
    bool real = t + r < shape.tokens;
    int first = real ? int(firsts[row + t + r] - int32_t(row)) : 0, end = real ? int(t + r + 1) : 0;
    Vector best = splat(-1e30f);
    for (size_t j = columns.first; j < columns.padded; j += lanes) {
      Vector seen = keepRange(load(own + j), int(j), first, end, -__builtin_inff());
      store(own + j, seen);
      best = maximum(seen, best);
    }
    float highest = maximumLane(best);
    Vector sum = zero();
    for (size_t j = columns.first; j < columns.padded; j += lanes) {
      Vector weight = exp2(load(own + j) - highest);
      store(own + j, weight);
      sum = sum + weight;
    }
    float inverse = real ? 1.0f / sumLanes(sum) : 0.0f;
    for (size_t j = columns.first; j < columns.padded; j += lanes) store(own + j, load(own + j) * inverse);
  }
}

/// The shares of a tile of queries.
inline void tileShares(const TrainShape& shape, const ggml_tensor* q, const int32_t* firsts, size_t row, size_t t,
                       size_t head, const Columns& columns, const TrainScratch& scratch) {
  gatherTile(shape, q, row, t, head, shape.scale * log2e, scratch.query);
  fewRows<false>(scratch.query, shape.widthPadded, 1, scratch.keysTurned, shape.tokensPadded, 0, shape.width,
                 scratch.shares, shape.tokensPadded, columns.first, columns.padded);
  sharesOf(shape, firsts, row, t, columns, scratch.shares);
}

inline TrainShape trainShape(const Call* call, const ggml_tensor* q, const ggml_tensor* k) {
  TrainShape shape;
  shape.sequences = size_t(call->params[0]);
  shape.scale = floatParam(call, 1);
  shape.width = q->ne[0];
  shape.heads = q->ne[1];
  shape.kvHeads = k->ne[1];
  shape.tokens = q->ne[2] / shape.sequences;
  shape.tokensPadded = padTo(shape.tokens, trainVectors * lanes);
  shape.widthPadded = padTo(shape.width, trainVectors * lanes);
  return shape;
}

/// dst F32 [N, H D]. Sources: q F32 [N, H, D], k and v [N, G, D] (rows may be strided), I32 [N] first row that each
/// sees, never falling within a sequence. Params: B, scale as float bits.
inline void causalAttention(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2];
  const int32_t* firsts = static_cast<const int32_t*>(dst->src[3]->data);
  TrainShape shape = trainShape(call, q, k);
  size_t bytes;
  TrainScratch::in(shape, false, nullptr, &bytes);
  TrainScratch scratch = TrainScratch::in(shape, false, rw_thread_scratch(bytes), &bytes);
  for (size_t piece; (piece = size_t(takePiece(call))) < shape.sequences * shape.kvHeads;) {
    size_t row = piece / shape.kvHeads * shape.tokens, group = piece % shape.kvHeads;
    gatherHead(shape, k, row, group, nullptr, scratch.keysTurned);
    gatherHead(shape, v, row, group, scratch.values, nullptr);
    for (size_t head = group * shape.perKv(); head < (group + 1) * shape.perKv(); head++)
      for (size_t t = 0; t < shape.tokens; t += trainRows) {
        Columns columns = columnsOf(shape, firsts, row, t);
        tileShares(shape, q, firsts, row, t, head, columns, scratch);
        fewRows<false>(scratch.shares, shape.tokensPadded, 1, scratch.values, shape.widthPadded, columns.from, columns.end,
                       scratch.mixed, shape.widthPadded, 0, shape.widthPadded);
        for (size_t r = 0; r < trainRows && t + r < shape.tokens; r++) {
          float* to = static_cast<float*>(dst->data) + ((row + t + r) * shape.heads + head) * shape.width;
          __builtin_memcpy(to, scratch.mixed + r * shape.widthPadded, shape.width * 4);
        }
      }
  }
  leave(call, nth);
}

/// dS = shares * (dShares - their mean), in place of the slopes of the shares.
inline void softmaxSlopes(const TrainShape& shape, const Columns& columns, const TrainScratch& scratch) {
  for (size_t r = 0; r < trainRows; r++) {
    float* slopes = scratch.shareSlopes + r * shape.tokensPadded;
    const float* shares = scratch.shares + r * shape.tokensPadded;
    Vector sum = zero();
    for (size_t j = columns.first; j < columns.padded; j += lanes) sum = fma(load(shares + j), load(slopes + j), sum);
    float mean = sumLanes(sum);
    for (size_t j = columns.first; j < columns.padded; j += lanes)
      store(slopes + j, load(shares + j) * (load(slopes + j) - mean) * shape.scale);
  }
}

/// dst F32 [N, (H + 2 G) D]: gradients of q, k and v side by side. Sources: those of causal_attention, then the
/// gradient of its result [N, H D]. Params: the same.
inline void causalAttentionBack(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2];
  const int32_t* firsts = static_cast<const int32_t*>(dst->src[3]->data);
  TrainShape shape = trainShape(call, q, k);
  // The result's gradient, as heads.
  ggml_tensor slope = *dst->src[4];
  slope.nb[2] = slope.nb[1];
  slope.nb[1] = shape.width * 4;
  size_t stride = (shape.heads + 2 * shape.kvHeads) * shape.width, bytes;
  TrainScratch::in(shape, true, nullptr, &bytes);
  TrainScratch scratch = TrainScratch::in(shape, true, rw_thread_scratch(bytes), &bytes);
  size_t padded = shape.widthPadded, wide = shape.tokensPadded;
  for (size_t piece; (piece = size_t(takePiece(call))) < shape.sequences * shape.kvHeads;) {
    size_t row = piece / shape.kvHeads * shape.tokens, group = piece % shape.kvHeads;
    gatherHead(shape, k, row, group, scratch.keys, scratch.keysTurned);
    gatherHead(shape, v, row, group, nullptr, scratch.valuesTurned);
    for (size_t i = 0; i < shape.tokens * padded; i++) scratch.keySlopes[i] = scratch.valueSlopes[i] = 0;
    float* out = static_cast<float*>(dst->data) + row * stride;
    for (size_t head = group * shape.perKv(); head < (group + 1) * shape.perKv(); head++)
      for (size_t t = 0; t < shape.tokens; t += trainRows) {
        Columns columns = columnsOf(shape, firsts, row, t);
        tileShares(shape, q, firsts, row, t, head, columns, scratch);
        gatherTile(shape, &slope, row, t, head, 1.0f, scratch.slope);
        addOuter(scratch.shares, wide, scratch.slope, padded, columns.from, columns.end, scratch.valueSlopes, padded, padded);
        fewRows<false>(scratch.slope, padded, 1, scratch.valuesTurned, wide, 0, shape.width, scratch.shareSlopes, wide,
                       columns.first, columns.padded);
        softmaxSlopes(shape, columns, scratch);
        fewRows<false>(scratch.shareSlopes, wide, 1, scratch.keys, padded, columns.from, columns.end, scratch.mixed, padded, 0,
                       padded);
        gatherTile(shape, q, row, t, head, 1.0f, scratch.query);
        addOuter(scratch.shareSlopes, wide, scratch.query, padded, columns.from, columns.end, scratch.keySlopes, padded, padded);
        for (size_t r = 0; r < trainRows && t + r < shape.tokens; r++)
          __builtin_memcpy(out + (t + r) * stride + head * shape.width, scratch.mixed + r * padded, shape.width * 4);
      }
    for (size_t t = 0; t < shape.tokens; t++) {
      float* keys = out + t * stride + (shape.heads + group) * shape.width;
      __builtin_memcpy(keys, scratch.keySlopes + t * padded, shape.width * 4);
      __builtin_memcpy(keys + shape.kvHeads * shape.width, scratch.valueSlopes + t * padded, shape.width * 4);
    }
  }
  leave(call, nth);
}

}  // namespace
