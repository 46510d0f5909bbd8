// Norms of training with their gradients, and sums over rows.
//
// Legend: N rows of W numbers.
#pragma once

#include "call.h"
#include "numbers.h"

namespace {

inline Vector sumOver(const float* a, const float* b, int width) {
  Vector sum = zero();
  for (int i = 0; i < width; i += lanes) sum = fma(load(a + i, width - i), load(b + i, width - i), sum);
  return sum;
}

/// Runs `work(first, end)` over the rows of x, 16 at a time.
template <class Work>
inline void byRows(const ggml_tensor* x, Call* call, int nth, Work work) {
  constexpr size_t rowsPerPiece = 16;
  size_t rows = size_t(x->ne[1]) * x->ne[2] * x->ne[3];
  for (size_t first; (first = size_t(takePiece(call)) * rowsPerPiece) < rows;)
    work(first, first + rowsPerPiece < rows ? first + rowsPerPiece : rows);
  leave(call, nth);
}

/// A norm's view of one row: what is taken off, what is multiplied by.
struct RowNorm {
  float mean, inverse;

  static RowNorm of(const float* x, int width, bool centred, float epsilon) {
    Vector sum = zero();
    if (centred)
      for (int i = 0; i < width; i += lanes) sum = sum + load(x + i, width - i);
    float mean = centred ? sumLanes(sum) / float(width) : 0.0f;
    Vector squares = zero();
    int i = 0;
    for (; i + lanes <= width; i += lanes) {
      Vector rest = load(x + i) - mean;
      squares = fma(rest, rest, squares);
    }
    if (i < width) {
      // What stands behind the row's end must not count as far from the mean.
      Vector rest = keepRange(load(x + i, width - i) - mean, i, 0, width, 0.0f);
      squares = fma(rest, rest, squares);
    }
    return {mean, 1.0f / __builtin_sqrtf(sumLanes(squares) / float(width) + epsilon)};
  }

  Vector at(const float* x, int count) const { return (load(x, count) - mean) * inverse; }
};

/// dst = x / rms(x), or (x - mean) / deviation when centred, times a weight [W] where one is. Sources: x, [weight];
/// contiguous; dst also BF16. Params: centred, epsilon as float bits, weighted.
inline void normRows(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  int width = int(dst->ne[0]);
  const float* weight = call->params[2] ? floatsOf(dst->src[1]) : nullptr;
  Numbers to(dst);
  byRows(dst, call, nth, [&](size_t first, size_t end) {
    for (size_t row = first; row < end; row++) {
      const float* x = floatsOf(dst->src[0]) + row * width;
      RowNorm norm = RowNorm::of(x, width, call->params[0] != 0, floatParam(call, 1));
      for (int i = 0; i < width; i += lanes) {
        Vector value = norm.at(x + i, width - i);
        to.store(row * width + i, weight ? value * load(weight + i, width - i) : value, width - i);
      }
    }
  });
}

/// dst = gradient of x through a norm, by rows, plus another [N, W] where one is. Sources: dy, x, [weight [W]], [added];
/// contiguous. Params: centred, epsilon as float bits, weighted, added.
inline void normBack(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  bool centred = call->params[0] != 0;
  int width = int(dst->ne[0]);
  const float* weight = call->params[2] ? floatsOf(dst->src[2]) : nullptr;
  const float* added = call->params[3] ? floatsOf(dst->src[weight ? 3 : 2]) : nullptr;
  float* slopes = reinterpret_cast<float*>(rw_thread_scratch(alignUp(size_t(width) * 4)));
  byRows(dst, call, nth, [&](size_t first, size_t end) {
    for (size_t row = first; row < end; row++) {
      const float *dy = floatsOf(dst->src[0]) + row * width, *x = floatsOf(dst->src[1]) + row * width;
      float* to = static_cast<float*>(dst->data) + row * width;
      RowNorm norm = RowNorm::of(x, width, centred, floatParam(call, 1));
      Vector sum = zero(), along = zero();
      for (int i = 0; i < width; i += lanes) {
        Vector slope = load(dy + i, width - i);
        if (weight) slope = slope * load(weight + i, width - i);
        store(slopes + i, slope, width - i);
        sum = sum + slope;
        along = fma(slope, norm.at(x + i, width - i), along);
      }
      float mean = centred ? sumLanes(sum) / float(width) : 0.0f, common = sumLanes(along) / float(width);
      for (int i = 0; i < width; i += lanes) {
        Vector rest = load(slopes + i, width - i) - mean - norm.at(x + i, width - i) * common;
        Vector value = rest * norm.inverse;
        store(to + i, added ? load(added + row * width + i, width - i) + value : value, width - i);
      }
    }
  });
}

/// dst [W] = sums over rows of `value(row, i, count)`, a vector: of blocks of rows first, then of the blocks, so that
/// every sum has one order.
template <class Prepare, class Value>
inline void sumRowBlocks(ggml_tensor* dst, size_t rows, Call* call, int nth, Prepare prepare, Value value) {
  constexpr size_t blockRows = 128, columns = 64;
  size_t width = dst->ne[0], stride = (width + columns - 1) / columns * columns, blocks = (rows + blockRows - 1) / blockRows;
  if (arriveFirst(call)) {
    rw_workspace_reserve(call->workspace, blocks * stride * 4);
    publish(call);
  }
  float* sums = reinterpret_cast<float*>(call->workspace->memory);
  preparePhase(call, int32_t(blocks), [&](int32_t block) {
    float* own = sums + block * stride;
    for (size_t i = 0; i < stride; i += lanes) store(own + i, zero());
    for (size_t row = block * blockRows; row < rows && row < (block + 1) * blockRows; row++) {
      auto known = prepare(row);
      for (size_t i = 0; i < width; i += lanes) store(own + i, load(own + i) + value(known, row, i, int(width - i)));
    }
  });
  for (size_t first; (first = size_t(takePiece(call)) * columns) < width;)
    for (size_t i = first; i < first + columns && i < width; i += lanes) {
      Vector sum = zero();
      for (size_t block = 0; block < blocks; block++) sum = sum + load(sums + block * stride + i);
      store(static_cast<float*>(dst->data) + i, sum, int(width - i));
    }
  leave(call, nth);
}

/// dst [W] = sum over rows of a * b, or of a alone. Sources: a, [b], contiguous [N, W]. Params: product (0/1).
inline void sumOverRows(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor* x = dst->src[0];
  size_t width = x->ne[0], rows = size_t(x->ne[1]) * x->ne[2] * x->ne[3];
  const float *a = floatsOf(x), *b = call->params[0] ? floatsOf(dst->src[1]) : nullptr;
  sumRowBlocks(dst, rows, call, nth, [](size_t) { return 0; }, [&](int, size_t row, size_t i, int count) {
    Vector value = load(a + row * width + i, count);
    return b ? value * load(b + row * width + i, count) : value;
  });
}

/// dst [W] = gradient of a norm's weight: sum over rows of dy * norm(x). Sources: dy, x, contiguous [N, W]. Params:
/// centred, epsilon as float bits.
inline void normWeightBack(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor* tensor = dst->src[1];
  size_t width = tensor->ne[0], rows = size_t(tensor->ne[1]) * tensor->ne[2] * tensor->ne[3];
  const float *dy = floatsOf(dst->src[0]), *x = floatsOf(tensor);
  auto prepare = [&](size_t row) { return RowNorm::of(x + row * width, int(width), call->params[0] != 0, floatParam(call, 1)); };
  sumRowBlocks(dst, rows, call, nth, prepare, [&](const RowNorm& norm, size_t row, size_t i, int count) {
    return load(dy + row * width + i, count) * norm.at(x + row * width + i, count);
  });
}

}  // namespace
