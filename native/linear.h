// Products of packed weights and activations, with what surrounds them in a layer: the norm before, and
// bias, gate or residual behind. So a decoder layer is six ops.
//
// Every output is summed in one order by one accumulator, whatever the number of rows or threads, so its bits
// depend on its own row and weights only. What a weight's format means is in linear_coded.h and linear_float.h.
//
// Legend: N rows, K inputs, M outputs, P panels of 16 outputs, T rows in registers.
#pragma once

#include "adapter.h"
#include "call.h"
#include "packed.h"
#include "simd.h"
#include "tensor.h"

namespace {

/// y = x / rms(x) * weight for one row (Zhang and Sennrich 2019).
inline void normRow(const float* x, const float* weight, float epsilon, int inputs, float* y) {
  Vector squares = zero();
  for (int k = 0; k < inputs; k += lanes) {
    Vector v = load(x + k, inputs - k);
    squares = fma(v, v, squares);
  }
  float factor = 1.0f / __builtin_sqrtf(sumLanes(squares) / float(inputs) + epsilon);
  for (int k = 0; k < inputs; k += lanes)
    store(y + k, load(x + k, inputs - k) * factor * load(weight + k, inputs - k), inputs - k);
}

/// A pair of panels by `count` <= Self::rows rows, by a tile compiled for exactly so many: of both panels at once where
/// they are `paired`, for which there are registers, or of one after the other.
template <class Self>
struct ByRegisters {
  static constexpr bool asksAhead = false, tiled = false;

  /// Kernels may read, but not use, rows up to a whole number of tiles.
  static size_t placed(size_t count) { return (count + Self::rows - 1) / Self::rows * Self::rows; }

  void pair(const char* panel, size_t stride, int panels, size_t row, int count, bool cold, float* sums) const {
    if (Self::paired && panels == 1) self().alone(panel, stride, row, count, cold, sums);
    else exactly<Self::rows>(panel, stride, panels, row, count, cold, sums);
  }

 protected:
  const Self& self() const { return static_cast<const Self&>(*this); }

  /// A last panel that has no partner, and gets what lies `stride` behind it for one. Rare, so that what keeps the library
  /// small is good enough.
  void withAnyPartner(const char* panel, size_t stride, size_t row, int count, bool cold, float* sums) const {
    alignas(64) float both[Self::rows * 2 * panelOutputs];
    exactly<Self::rows>(panel, stride, 2, row, count, cold, both);
    for (int t = 0; t < count; t++)
      for (int o = 0; o < panelOutputs; o++) sums[t * panelOutputs + o] = both[t * 2 * panelOutputs + o];
  }

 private:
  template <int T>
  void exactly(const char* panel, size_t stride, int panels, size_t row, int count, bool cold, float* sums) const {
    if constexpr (T > 1)
      if (count < T) return exactly<T - 1>(panel, stride, panels, row, count, cold, sums);
    if constexpr (Self::paired) return self().template tile<2, T>(panel, stride, row, cold, sums);
    float one[T * panelOutputs];
    for (int p = 0; p < panels; p++) {
      self().template tile<1, T>(panel + p * stride, stride, row, cold, one);
      for (int t = 0; t < T; t++)
        for (int o = 0; o < panelOutputs; o++) sums[(t * panels + p) * panelOutputs + o] = one[t * panelOutputs + o];
    }
  }
};

/// What follows a sum before it is stored.
struct Epilogue {
  ggml_tensor* dst;
  const float* bias;
  const ggml_tensor* residual;
  bool gated;
  AdaptedRows adapted;

  /// Asks for the lines of `count` rows that `finish` writes and adds to, while the sums are still made.
  __attribute__((noinline)) void comingUp(size_t row, int count, int64_t panel, int panels) const {
    int64_t first = (gated ? panel / 2 : panel) * panelOutputs;
    for (size_t end = row + size_t(count); row < end; row++) {
      const char* to = reinterpret_cast<const char*>(static_cast<float*>(dst->data) + row * dst->ne[0] + first);
      for (int line = 0; line < (gated ? 1 : panels); line++) askToWrite(to + line * 64);
      if (!residual) continue;
      for (int line = 0; line < panels; line++)
        askForLine(static_cast<const char*>(residual->data) + row * residual->nb[1] + first * 4 + line * 64);
    }
  }

  /// `sums` holds `panels` panels side by side of each of `count` rows.
  __attribute__((noinline)) void finish(size_t row, int count, int64_t panel, int panels, const float* sums) const {
    int64_t first = (gated ? panel / 2 : panel) * panelOutputs;
    bool whole = panels == 2 && first + (gated ? 1 : 2) * panelOutputs <= dst->ne[0];
    if (whole && gated) finishPairs<true>(row, count, first, sums);
    else if (whole) finishPairs<false>(row, count, first, sums);
    else
      for (int t = 0; t < count; t++) finishRow(row + t, first, panels, sums + t * panels * panelOutputs);
  }

 private:
  float* to(size_t row, int64_t first) const { return static_cast<float*>(dst->data) + row * dst->ne[0] + first; }

  const float* added(size_t row, int64_t first) const {
    if (!residual) return nullptr;
    return reinterpret_cast<const float*>(static_cast<const char*>(residual->data) + row * residual->nb[1]) + first;
  }

  /// A whole pair of panels needs no masks: those took as long as the rest of it.
  template <bool gates>
  void finishPairs(size_t row, int count, int64_t first, const float* sums) const {
    for (int t = 0; t < count; t++, sums += 2 * panelOutputs) {
      float* result = to(row + t, first);
      const float* add = added(row + t, first);
#pragma GCC unroll 2
      for (int i = 0; i < (gates ? 1 : 2) * panelOutputs; i += lanes) {
        Vector value = load(sums + i);
        if (gates) value = silu(value) * load(sums + panelOutputs + i);
        if (bias) value = value + load(bias + first + i);
        if (add) value = value + load(add + i);
        store(result + i, value);
      }
    }
  }

  void finishRow(size_t row, int64_t first, int panels, const float* sums) const {
    int64_t width = dst->ne[0], count = gated ? panelOutputs : panels * panelOutputs;
    if (count > width - first) count = width - first;
    float* result = to(row, first);
    const float* add = added(row, first);
    for (int64_t i = 0; i < count; i += lanes) {
      int left = int(count - i);
      Vector value = load(sums + i);
      if (gated) value = silu(value) * load(sums + panelOutputs + i);
      if (bias) value = value + load(bias + first + i, left);
      if (add) value = value + load(add + i, left);
      store(result + i, value, left);
    }
  }
};

/// `asked` when the weights are on their way; `next` is the panel whose turn comes then with the same rows, or negative.
template <class Product>
inline void pairByRows(const Product& product, const char* packed, size_t stride, int64_t panel, int panels,
                       size_t first, size_t end, bool asked, int64_t next, const Epilogue& epilogue) {
  const char* from = packed + panel * stride;
  alignas(64) float sums[Product::rows * 2 * panelOutputs];
  for (size_t row = first; row < end;) {
    // Two halves rather than a full tile and a thin one, which would wait for its few sums.
    size_t left = end - row, most = Product::rows;
    int count = int(left >= 2 * most || left == most ? most : left > most ? (left + 1) / 2 : left);
    bool cold = row == first && !asked;  // the weights of this pair come from memory, later from a cache
    epilogue.comingUp(row, count, panel, panels);
    bool ahead = Product::asksAhead && next >= 0;
    if constexpr (Product::asksAhead)
      if (epilogue.adapted.slots && ahead) product.comingUp(epilogue.adapted.comingUp(row, count, next, 2));
    product.pair(from, stride, panels, row, count, cold, sums);
    if (epilogue.adapted.slots) epilogue.adapted.raise(row, count, panel, panels, ahead, sums);
    epilogue.finish(row, count, panel, panels, sums);
    row += count;
  }
}

/// The product itself, in pieces of a pair of panels by some rows.
template <class Product>
inline void multiplyPieces(Call* call, const Product& product, const char* packed, size_t stride, size_t rows,
                           const Epilogue& epilogue) {
  constexpr size_t rowsPerPiece = 192;
  int64_t panels = (epilogue.dst->ne[0] + panelOutputs - 1) / panelOutputs * (epilogue.gated ? 2 : 1);
  int64_t pairs = (panels + 1) / 2, blocks = (rows + rowsPerPiece - 1) / rowsPerPiece;
  bool asked = false;
  for (int64_t piece = takePiece(call); piece < pairs * blocks;) {
    int64_t panel = piece / blocks * 2, next = 0;
    size_t first = piece % blocks * rowsPerPiece, end = first + rowsPerPiece < rows ? first + rowsPerPiece : rows;
    bool asks = false;
    if constexpr (Product::asksAhead) {
      next = takePiece(call);
      int64_t from = next / blocks * 2;
      // Other rows of the same panels find them in a cache.
      asks = from != panel && next < pairs * blocks && from + 2 <= panels;
      if (asks) product.comingUp(packed + from * stride, 2 * stride, end - first);
    }
    int64_t follows = asks && blocks == 1 ? next * 2 : -1;
    pairByRows(product, packed, stride, panel, panels - panel < 2 ? 1 : 2, first, end, asked, follows, epilogue);
    asked = asks || next / blocks * 2 == panel;
    piece = Product::asksAhead ? next : takePiece(call);
  }
}

/// What an op is asked for.
struct LinearSources {
  const ggml_tensor* x;
  const char* packed;
  const float* norm = nullptr;
  float epsilon;
  size_t width, inputs, rows;  // K, K in whole groups, N
  Epilogue epilogue;

  __attribute__((noinline)) LinearSources(ggml_tensor* dst, const Call* call)
      : x(dst->src[0]), packed(static_cast<const char*>(dst->src[1]->data)), epsilon(floatParam(call, 5)), width(x->ne[0]),
        inputs(wholeGroups(width)), rows(x->ne[1]), epilogue{dst, nullptr, nullptr, call->params[3] != 0, {}} {
    ggml_tensor* const* extra = dst->src + 2;
    if (call->params[0]) norm = static_cast<const float*>((*extra++)->data);
    if (call->params[1]) epilogue.bias = static_cast<const float*>((*extra++)->data);
    if (call->params[2]) epilogue.residual = *extra++;
    if (!call->params[4]) return;
    AdaptedRows& adapted = epilogue.adapted;
    adapted.slots = static_cast<const int32_t*>((*extra++)->data);
    adapted.adapters = static_cast<const Adapter* const*>((*extra++)->data);
    adapted.stride = adapted.ranksMost(rows), adapted.inputs = inputs;
  }

  /// A row as it is multiplied, normed and with zeros up to whole groups.
  __attribute__((noinline)) const float* row(int32_t index) const {
    const float* from = reinterpret_cast<const float*>(static_cast<const char*>(x->data) + index * x->nb[1]);
    if (!norm && inputs == width) return from;
    float* own = reinterpret_cast<float*>(rw_thread_scratch(alignUp(inputs * 4)));
    if (norm) normRow(from, norm, epsilon, int(width), own);
    else __builtin_memcpy(own, from, width * 4);
    for (size_t k = width; k < inputs; k++) own[k] = 0.0f;
    return own;
  }
};

/// dst F32 [N, M]. Sources: x F32 [N, K] (rows may be strided), packed weights, then those present of: norm
/// weight [K], bias [M], residual [N, M], adapters: I32 [N] slot of each row, then their addresses by slot.
/// Params: normed, biased, residual, gated, adapted (0/1 each), epsilon as float bits. Gated weights interleave gate
/// and up by panel; dst is silu(gate) * up.
template <class Product>
inline void linear(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  LinearSources from(dst, call);
  AdaptedRows& adapted = from.epilogue.adapted;
  size_t placed = Product::placed(from.rows), placedBytes = alignUp(placed * Product::rowBytes(from.inputs));
  if (arriveFirst(call)) {
    rw_workspace_reserve(call->workspace, placedBytes + adapted.placedBytes(from.rows) + 64);
    publish(call);
  }
  Product product;
  product.place(call->workspace->memory, placed, from.inputs);
  adapted.place(call->workspace->memory + placedBytes, from.rows);
  // Neighbouring rows share lines of scales, and what is asked for behind a row is the next one.
  const int32_t run = from.rows >= 128 ? 16 : from.rows >= 32 ? 4 : 1;
  preparePhase(call, int32_t(from.rows), run, [&](int32_t index) {
    const float* row = from.row(index);
    product.prepare(row, index);
    if (adapted.slots) adapted.lower(row, index);
  });
  const size_t stride = panelBytes(Product::packedFormat, from.inputs);
  if constexpr (Product::tiled) product.multiply(call, nth, from.packed, stride, from.rows, from.epilogue);
  else multiplyPieces(call, product, from.packed, stride, from.rows, from.epilogue);
  leave(call, nth);
}

}  // namespace
