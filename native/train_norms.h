// Norms of training with their gradients, and sums over rows.
//
// Legend: N rows of W numbers.
#pragma once

#include "call.h"
#include "numbers.h"

namespace {

/// Runs `work(first, end)` over the rows of x, 16 at a time.
template <class Work>
inline void byRows(const ggml_tensor* x, Call* call, int nth, Work work) {
  constexpr size_t rowsPerPiece = 16;
  size_t rows = size_t(x->ne[1]) * x->ne[2] * x->ne[3];
  for (size_t first; (first = size_t(takePiece(call)) * rowsPerPiece) < rows;)
    work(first, first + rowsPerPiece < rows ? first + rowsPerPiece : rows);
  leave(call, nth);
}

/// R neighbouring rows.
template <int R>
struct Rows {
  static constexpr int count = R;
  size_t first;
};

/// Runs `work(Rows)` over the rows from `first` to `end` of x. Four at once where they lie in a cache, so that the sums of
/// one do not wait for those of another; from memory one after the other, which is how it is read ahead.
template <class Work>
inline void byNeighbours(const ggml_tensor* x, size_t first, size_t end, Work work) {
  constexpr size_t nearBytes = size_t(2) << 20, together = 4;
  size_t bytes = size_t(x->ne[0]) * x->ne[1] * x->ne[2] * x->ne[3] * 4;
  if (bytes <= nearBytes)
    for (; first + together <= end; first += together) work(Rows<together>{first});
  for (; first < end; first++) work(Rows<1>{first});
}

/// Runs `work(i, count)` over the vectors of a row; `count` is less for the last where they are not whole.
template <class Work>
__attribute__((always_inline)) inline void byVectors(int width, Work work) {
  int i = 0;
  for (; i + lanes <= width; i += lanes) work(i, lanes);
  if (i < width) work(i, width - i);
}

/// A norm's view of R rows of x: what is taken off, what is multiplied by.
template <int R>
struct RowNorms {
  const float* x;
  int width;
  float mean[R], inverse[R];

  RowNorms(const float* x, int width, bool centred, float epsilon) : x(x), width(width) {
    Vector sum[R] = {}, squares[R] = {};
    if (centred)
      byVectors(width, [&](int i, int count) {
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) sum[r] = sum[r] + load(x + r * width + i, count);
      });
    for (int r = 0; r < R; r++) mean[r] = centred ? sumLanes(sum[r]) / float(width) : 0.0f;
    byVectors(width, [&](int i, int count) {
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        Vector rest = load(x + r * width + i, count) - mean[r];
        // What stands behind the row's end must not count as far from the mean.
        if (count < lanes) rest = keepRange(rest, 0, 0, count, 0.0f);
        squares[r] = fma(rest, rest, squares[r]);
      }
    });
    for (int r = 0; r < R; r++) inverse[r] = 1.0f / __builtin_sqrtf(sumLanes(squares[r]) / float(width) + epsilon);
  }

  Vector at(int r, int i, int count) const { return (load(x + r * width + i, count) - mean[r]) * inverse[r]; }
};

/// dst = x / rms(x), or (x - mean) / deviation when centred, times a weight [W] where one is. Sources: x, [weight];
/// contiguous; dst also BF16. Params: centred, epsilon as float bits, weighted.
inline void normRows(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  int width = int(dst->ne[0]);
  const float* weight = call->params[2] ? floatsOf(dst->src[1]) : nullptr;
  Numbers to(dst);
  auto norm = [&](auto rows) {
    size_t at = rows.first * width;
    RowNorms<rows.count> norm(floatsOf(dst->src[0]) + at, width, call->params[0] != 0, floatParam(call, 1));
    byVectors(width, [&](int i, int count) {
      Vector factor = weight ? load(weight + i, count) : splat(1.0f);
#pragma GCC unroll 4
      for (int r = 0; r < rows.count; r++) to.store(at + r * width + i, norm.at(r, i, count) * factor, count);
    });
  };
  byRows(dst, call, nth, [&](size_t first, size_t end) { byNeighbours(dst, first, end, norm); });
}

/// dst = gradient of x through a norm, by rows, plus another [N, W] where one is. Sources: dy, x, [weight [W]], [added];
/// contiguous. Params: centred, epsilon as float bits, weighted, added.
inline void normBack(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  bool centred = call->params[0] != 0;
  int width = int(dst->ne[0]);
  const float* weight = call->params[2] ? floatsOf(dst->src[2]) : nullptr;
  const float* added = call->params[3] ? floatsOf(dst->src[weight ? 3 : 2]) : nullptr;
  auto back = [&](auto rows) {
    constexpr int R = rows.count;
    size_t at = rows.first * width;
    const float* dy = floatsOf(dst->src[0]) + at;
    RowNorms<R> norm(floatsOf(dst->src[1]) + at, width, centred, floatParam(call, 1));
    Vector sum[R] = {}, along[R] = {};
    byVectors(width, [&](int i, int count) {
      Vector factor = weight ? load(weight + i, count) : splat(1.0f);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        Vector slope = load(dy + r * width + i, count) * factor;
        sum[r] = sum[r] + slope;
        along[r] = fma(slope, norm.at(r, i, count), along[r]);
      }
    });
    float mean[R], common[R];
    for (int r = 0; r < R; r++) {
      mean[r] = centred ? sumLanes(sum[r]) / float(width) : 0.0f;
      common[r] = sumLanes(along[r]) / float(width);
    }
    byVectors(width, [&](int i, int count) {
      Vector factor = weight ? load(weight + i, count) : splat(1.0f);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        int own = r * width + i;
        Vector rest = load(dy + own, count) * factor - mean[r] - norm.at(r, i, count) * common[r];
        Vector value = rest * norm.inverse[r];
        store(floatsOf(dst) + at + own, added ? load(added + at + own, count) + value : value, count);
      }
    });
  };
  byRows(dst, call, nth, [&](size_t first, size_t end) { byNeighbours(dst, first, end, back); });
}

/// dst [W] = sums over the rows of x, in vectors: `of(Rows)` gives what gives the vector `(r, i, count)` of the r-th of these
/// rows. Of blocks of rows first, then of the blocks, so that every sum has one order.
template <class Of>
inline void sumRowBlocks(ggml_tensor* dst, const ggml_tensor* x, Call* call, int nth, Of of) {
  constexpr size_t blockRows = 128, columns = 64;
  size_t rows = size_t(x->ne[1]) * x->ne[2] * x->ne[3];
  size_t width = dst->ne[0], stride = (width + columns - 1) / columns * columns, blocks = (rows + blockRows - 1) / blockRows;
  if (arriveFirst(call)) {
    rw_workspace_reserve(call->workspace, blocks * stride * 4);
    publish(call);
  }
  float* sums = reinterpret_cast<float*>(call->workspace->memory);
  preparePhase(call, int32_t(blocks), [&](int32_t block) {
    float* own = sums + block * stride;
    for (size_t i = 0; i < stride; i += lanes) store(own + i, zero());
    size_t first = block * blockRows, end = first + blockRows < rows ? first + blockRows : rows;
    byNeighbours(x, first, end, [&](auto some) {
      auto value = of(some);
      byVectors(int(width), [&](int i, int count) {
        Vector sum = load(own + i);
#pragma GCC unroll 4
        for (int r = 0; r < some.count; r++) sum = sum + value(r, i, count);
        store(own + i, sum);
      });
    });
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
  int width = int(dst->ne[0]);
  const float *a = floatsOf(dst->src[0]), *b = call->params[0] ? floatsOf(dst->src[1]) : nullptr;
  sumRowBlocks(dst, dst->src[0], call, nth, [=](auto rows) {
    return [=](int r, int i, int count) {
      size_t at = (rows.first + r) * width + i;
      return b ? load(a + at, count) * load(b + at, count) : load(a + at, count);
    };
  });
}

/// dst [W] = gradient of a norm's weight: sum over rows of dy * norm(x). Sources: dy, x, contiguous [N, W]. Params:
/// centred, epsilon as float bits.
inline void normWeightBack(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  int width = int(dst->ne[0]);
  const float *dy = floatsOf(dst->src[0]), *x = floatsOf(dst->src[1]);
  sumRowBlocks(dst, dst->src[1], call, nth, [=](auto rows) {
    size_t at = rows.first * width;
    RowNorms<rows.count> norm(x + at, width, call->params[0] != 0, floatParam(call, 1));
    return [=](int r, int i, int count) { return load(dy + at + r * width + i, count) * norm.at(r, i, count); };
  });
}

}  // namespace
