// Products of two float matrices that both change from step to step, as training needs them: forward, the
// gradient of the activations and that of the weights differ only in which side is read transposed. Both sides
// are packed on the way, then multiplied like a layer's weights.
#pragma once

#include "linear_float.h"

namespace {

/// An F32 matrix of rows, whichever way it lies in memory.
struct Matrix {
  const float* data;
  size_t rows, inputs, rowStride, inputStride;

  static Matrix of(const ggml_tensor* tensor, bool transposed) {
    size_t fast = tensor->nb[0] / 4, slow = tensor->nb[1] / 4;
    const float* data = static_cast<const float*>(tensor->data);
    if (transposed) return {data, size_t(tensor->ne[0]), size_t(tensor->ne[1]), fast, slow};
    return {data, size_t(tensor->ne[1]), size_t(tensor->ne[0]), slow, fast};
  }
};

constexpr size_t gatheredRows = 16;

/// One vector of numbers that lie `stride` apart.
inline Vector loadApart(const float* from, size_t stride) {
#if defined(__AVX512F__)
  const __m512i order = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_i32gather_ps(_mm512_mullo_epi32(order, _mm512_set1_epi32(int(stride))), from, 4);
#else
  Vector result;
  for (int i = 0; i < lanes; i++) result[i] = from[i * stride];
  return result;
#endif
}

/// Rows first.. as [count][padded], `stride` apart, zeros behind each row's end. Reads along whichever side is contiguous.
inline void gatherRows(const Matrix& from, size_t first, size_t count, size_t padded, size_t stride, float* to) {
  size_t k = 0;
  if (from.inputStride == 1) {
    for (size_t r = 0; r < count; r++)
      __builtin_memcpy(to + r * stride, from.data + (first + r) * from.rowStride, from.inputs * 4);
    k = from.inputs;
  }
  // Turned in a tile that stays in the nearest cache.
  float tile[lanes * gatheredRows];
  for (; from.rowStride == 1 && count == gatheredRows && k + lanes <= from.inputs; k += lanes) {
    for (int i = 0; i < lanes; i++)
      __builtin_memcpy(tile + i * gatheredRows, from.data + (k + i) * from.inputStride + first, gatheredRows * 4);
    for (size_t r = 0; r < count; r++) store(to + r * stride + k, loadApart(tile + r, gatheredRows));
  }
  for (; k < from.inputs; k++)
    for (size_t r = 0; r < count; r++)
      to[r * stride + k] = from.data[(first + r) * from.rowStride + k * from.inputStride];
  for (size_t r = 0; r < count; r++)
    for (k = from.inputs; k < padded; k++) to[r * stride + k] = 0;
}

/// Inputs k.. of all rows of a whole panel.
inline Vector panelVector(const Matrix& from, size_t first, size_t k, int v) {
  const float* at = from.data + (first + v * lanes) * from.rowStride + k * from.inputStride;
  return from.rowStride == 1 ? load(at) : loadApart(at, from.rowStride);
}

/// The panel of rows 16 panel.. in a float format, zeros behind the matrix.
inline void packPanel(const Matrix& from, int format, size_t panel, size_t padded, char* to) {
  size_t first = panel * panelOutputs, count = from.rows - first < panelOutputs ? from.rows - first : panelOutputs;
  size_t k = 0;
  for (; count == panelOutputs && from.rowStride < size_t(1) << 26 && k + 2 <= from.inputs; k += 2)
    for (int v = 0; v < panelVectors; v++) {
      Vector even = panelVector(from, first, k, v), odd = panelVector(from, first, k + 1, v);
      float* floats = reinterpret_cast<float*>(to);
      if (format == packedF32) {
        store(floats + k * panelOutputs + v * lanes, even);
        store(floats + (k + 1) * panelOutputs + v * lanes, odd);
      } else {
        VectorInt low = (VectorInt)((VectorUnsigned)bfloatBits(even) >> 16), high = bfloatBits(odd) & int32_t(0xffff0000);
        store(floats + k / 2 * panelOutputs + v * lanes, (Vector)(low | high));
      }
    }
  for (; k < padded; k++)
    for (size_t lane = 0; lane < panelOutputs; lane++) {
      bool inside = k < from.inputs && lane < count;
      float value = inside ? from.data[(first + lane) * from.rowStride + k * from.inputStride] : 0.0f;
      size_t at = floatAt(format, k, int(lane));
      if (format == packedF32) reinterpret_cast<float*>(to)[at] = value;
      else reinterpret_cast<Half*>(to)[at] = bfloatOf(value);
    }
}

/// dst F32 [N, M] = a b^T, plus a third source [N, M] if given. Sources: a [N, K] or, transposed, [K, N];
/// b [M, K] or, transposed, [K, M]; F32, rows may be strided. Params: a transposed, b transposed, added (0/1).
template <class Product>
inline void matmul(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  Matrix a = Matrix::of(dst->src[0], call->params[0] != 0), b = Matrix::of(dst->src[1], call->params[1] != 0);
  Epilogue epilogue{dst, nullptr, call->params[2] ? dst->src[2] : nullptr, false};
  size_t padded = wholeGroups(a.inputs), placed = rowsPlaced<Product>(a.rows);
  size_t stride = panelBytes(Product::packedFormat, padded);
  size_t panels = (b.rows + panelOutputs - 1) / panelOutputs;
  size_t rowBytes = alignUp(placed * Product::rowBytes(padded));
  if (arriveFirst(call)) {
    rw_workspace_reserve(call->workspace, rowBytes + panels * stride);
    publish(call);
  }
  Product product;
  product.place(call->workspace->memory, placed, padded);
  char* packed = call->workspace->memory + rowBytes;
  size_t gathered = rowStride(padded, 4);
  size_t gathers = (a.rows + gatheredRows - 1) / gatheredRows;
  preparePhase(call, int32_t(gathers + panels), [&](int32_t piece) {
    if (size_t(piece) >= gathers)
      return packPanel(b, Product::packedFormat, piece - gathers, padded, packed + (piece - gathers) * stride);
    float* rows = reinterpret_cast<float*>(rw_thread_scratch(gatheredRows * gathered * 4));
    size_t first = piece * gatheredRows, count = a.rows - first < gatheredRows ? a.rows - first : gatheredRows;
    gatherRows(a, first, count, padded, gathered, rows);
    for (size_t r = 0; r < count; r++) product.prepare(rows + r * gathered, first + r);
  });
  multiplyPieces(call, product, packed, stride, a.rows, epilogue);
  leave(call, nth);
}

inline void matmulBF16(ggml_tensor* dst, int ith, int nth, void* userdata) {
#if defined(__AVX512F__)
  static const bool hasPairs = __builtin_cpu_supports("avx512bf16");
  if (hasPairs) return matmul<PairProduct>(dst, ith, nth, userdata);
#endif
  matmul<FloatProduct<BF16Weights>>(dst, ith, nth, userdata);
}

}  // namespace
