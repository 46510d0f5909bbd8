// What a training step does beside products, attention and norms: element by element, and rows that are looked up.
//
// Legend: N rows of W numbers.
#pragma once

#include "train_norms.h"
#include "train_rows.h"

namespace {

enum Elementwise { elementsAdd = 0, elementsSubtract = 1, elementsMultiply = 2, elementsDivide = 3 };

inline Vector combine(int kind, Vector a, Vector b) {
  if (kind == elementsAdd) return a + b;
  if (kind == elementsSubtract) return a - b;
  return kind == elementsMultiply ? a * b : a / b;
}

inline size_t sizeOf(const ggml_tensor* x) { return size_t(x->ne[0]) * x->ne[1] * x->ne[2] * x->ne[3]; }

inline bool isContiguous(const ggml_tensor* x) {
  size_t stride = 4;
  for (int i = 0; i < 4; stride *= x->ne[i], i++)
    if (x->ne[i] > 1 && x->nb[i] != stride) return false;
  return true;
}

/// A row by its number among all, of a tensor that repeats where the counted one is longer.
inline const char* rowAt(const ggml_tensor* x, const ggml_tensor* counted, size_t row) {
  size_t second = row % counted->ne[1], third = row / counted->ne[1] % counted->ne[2];
  size_t fourth = row / counted->ne[1] / counted->ne[2];
  return static_cast<const char*>(x->data) + second % x->ne[1] * x->nb[1] + third % x->ne[2] * x->nb[2] +
         fourth % x->ne[3] * x->nb[3];
}

/// Runs `work(row)` over all rows of x, about as many numbers at a time as byPieces takes.
template <class Work>
inline void byLongRows(const ggml_tensor* x, Call* call, int nth, Work work) {
  size_t rows = size_t(x->ne[1]) * x->ne[2] * x->ne[3], width = x->ne[0];
  size_t together = width < pieceFloats ? pieceFloats / width : 1;
  for (size_t first; (first = size_t(takePiece(call)) * together) < rows;)
    for (size_t row = first; row < first + together && row < rows; row++) work(row);
  leave(call, nth);
}

/// dst = a op b; b repeats where a is longer, by whole rows or one number of each row. Sources: a, contiguous; b.
/// Params: Elementwise, into: 1 where the result is a itself and dst [4] nothing.
inline void elementwise(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor *a = dst->src[0], *b = dst->src[1];
  int kind = call->params[0];
  ggml_tensor result = *a;
  if (!call->params[1]) result.data = dst->data;
  if (isContiguous(b) && sizeOf(a) == sizeOf(b))
    return byPieces(&result, call, nth, [&](size_t at, int count) {
      store(floatsOf(&result) + at, combine(kind, load(floatsOf(a) + at, count), load(floatsOf(b) + at, count)), count);
    });
  size_t width = a->ne[0];
  byLongRows(a, call, nth, [&](size_t row) {
    const float *own = floatsOf(a) + row * width, *other = reinterpret_cast<const float*>(rowAt(b, a, row));
    float* to = floatsOf(&result) + row * width;
    for (size_t i = 0; i < width; i += lanes) {
      int count = width - i < size_t(lanes) ? int(width - i) : lanes;
      store(to + i, combine(kind, load(own + i, count), b->ne[0] == 1 ? splat(*other) : load(other + i, count)), count);
    }
  });
}

/// dst = x factor + offset, elementwise; x contiguous. Params: factor and offset as float bits.
inline void affineRows(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  float factor = floatParam(call, 0), offset = floatParam(call, 1);
  byPieces(dst, call, nth, [&](size_t at, int count) {
    store(floatsOf(dst) + at, load(floatsOf(dst->src[0]) + at, count) * factor + offset, count);
  });
}

/// dst, also BF16, = silu(gate) * up. Sources: gate, up; contiguous.
inline void siluMulRows(ggml_tensor* dst, int, int nth, void* userdata) {
  const float *gate = floatsOf(dst->src[0]), *up = floatsOf(dst->src[1]);
  Numbers to(dst);
  byPieces(dst, static_cast<Call*>(userdata), nth, [&](size_t at, int count) {
    to.store(at, siluMul(load(gate + at, count), load(up + at, count)), count);
  });
}

/// dst, also BF16, = x, packed; x may lie in memory in any way.
inline void packedRows(ggml_tensor* dst, int, int nth, void* userdata) {
  const ggml_tensor* x = dst->src[0];
  size_t width = x->ne[0];
  Numbers results(dst);
  float* apart = results.narrow ? reinterpret_cast<float*>(rw_thread_scratch(alignUp(width * 4))) : nullptr;
  byLongRows(dst, static_cast<Call*>(userdata), nth, [&](size_t row) {
    const char* from = rowAt(x, dst, row);
    float* to = results.narrow ? apart : floatsOf(dst) + row * width;
    if (x->nb[0] == 4) __builtin_memcpy(to, from, width * 4);
    else
      for (size_t i = 0; i < width; i++) __builtin_memcpy(to + i, from + i * x->nb[0], 4);
    if (results.narrow) results.storeRow(row * width, to, width);
  });
}

/// The row of `table` that an id names. An id that names none has no result, and ggml would end the process, too.
inline float* namedRow(const ggml_tensor* table, int32_t id) {
  if (id < 0 || id >= table->ne[1]) __builtin_trap();
  return reinterpret_cast<float*>(static_cast<char*>(table->data) + size_t(id) * table->nb[1]);
}

/// dst [N, W] = rows of a table by their ids. Sources: table [R, W], ids I32 [N].
inline void gatherRows(ggml_tensor* dst, int, int nth, void* userdata) {
  const int32_t* ids = static_cast<const int32_t*>(dst->src[1]->data);
  size_t width = dst->ne[0];
  byLongRows(dst, static_cast<Call*>(userdata), nth, [&](size_t row) {
    __builtin_memcpy(floatsOf(dst) + row * width, namedRow(dst->src[0], ids[row]), width * 4);
  });
}

/// Adds row n of dy [N, W] to row ids[n] of a table, in the order of n. Sources: dy, contiguous; ids I32 [N]; the table
/// [R, W] if it is there already. Params: into: 1 for that table, dst [4] then being nothing; 0 for dst, zero before.
inline void scatterRows(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor* dy = dst->src[0];
  const int32_t* ids = static_cast<const int32_t*>(dst->src[1]->data);
  const ggml_tensor* table = call->params[0] ? dst->src[2] : dst;
  constexpr size_t columns = 64;
  size_t width = dy->ne[0], rows = dy->ne[1];
  for (size_t first; (first = size_t(takePiece(call)) * columns) < width;) {
    size_t end = first + columns < width ? first + columns : width;
    if (!call->params[0])
      for (int32_t row = 0; row < table->ne[1]; row++) __builtin_memset(namedRow(table, row) + first, 0, (end - first) * 4);
    for (size_t row = 0; row < rows; row++) {
      float* to = namedRow(table, ids[row]);
      const float* from = floatsOf(dy) + row * width;
      for (size_t i = first; i < end; i += lanes) {
        int count = end - i < size_t(lanes) ? int(end - i) : lanes;
        store(to + i, load(to + i, count) + load(from + i, count), count);
      }
    }
  }
  leave(call, nth);
}

}  // namespace
