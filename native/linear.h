// Products of packed weights and activations, with what surrounds them in a layer: the norm before, and
// bias, gate or residual behind. So a decoder layer is six ops.
//
// Every output is summed in one order by one accumulator, whatever the number of rows or threads, so its bits
// depend on its own row and weights only. What a weight's format means is in linear_coded.h and linear_float.h.
//
// Legend: N rows, K inputs, M outputs, P panels of 16 outputs, T rows in registers.
#pragma once

#include "adapter_runs.h"
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

/// A row of x with zeros behind it, normed where there is a weight for that; in `to`.
inline const float* paddedRow(const float* x, const float* norm, float epsilon, size_t width, size_t inputs, float* to) {
  if (norm) normRow(x, norm, epsilon, int(width), to);
  else __builtin_memcpy(to, x, width * 4);
  for (size_t k = width; k < inputs; k++) to[k] = 0.0f;
  return to;
}

/// A pair of panels by `count` <= Self::rows rows, by a tile compiled for exactly so many; both panels at once for up to
/// Self::pairedRows of them, for which there are registers.
template <class Self>
struct ByRegisters {
  static constexpr bool compact = false, asksAhead = false, zipped = false, tiled = false, fours = false;

  /// Kernels may read, but not use, rows up to a whole number of tiles.
  static size_t placed(size_t count) { return (count + Self::rows - 1) / Self::rows * Self::rows; }

  /// Of prepared rows from this one on, where a product makes some.
  RowCodes codes(size_t) const { return {}; }

  void pair(const char* panel, size_t stride, int panels, size_t row, int count, bool cold, float* sums) const {
    exactly<Self::rows>(panel, stride, panels, row, count, cold, sums);
  }

 private:
  /// A last panel whose partner is empty.
  template <int T>
  void withoutPartner(const char* panel, size_t stride, size_t row, bool cold, float* sums) const {
    alignas(64) float both[T * 2 * panelOutputs];
    static_cast<const Self&>(*this).template tile<2, T>(panel, stride, row, cold, both);
    for (int t = 0; t < T; t++)
      for (int o = 0; o < panelOutputs; o++) sums[t * panelOutputs + o] = both[t * 2 * panelOutputs + o];
  }

  template <int T>
  void exactly(const char* panel, size_t stride, int panels, size_t row, int count, bool cold, float* sums) const {
    if constexpr (T > 1)
      if (count < T) return exactly<T - 1>(panel, stride, panels, row, count, cold, sums);
    const Self& self = static_cast<const Self&>(*this);
    if constexpr (T <= Self::pairedRows)
      if (panels == 2) return self.template tile<2, T>(panel, stride, row, cold, sums);
    if constexpr (Self::zipped) return withoutPartner<T>(panel, stride, row, cold, sums);
    // A last panel without a partner is rare: row by row there keeps the library small.
    constexpr int step = Self::pairedRows > 0 && Self::compact ? 1 : T;
    float one[step * panelOutputs];
    for (int p = 0; p < panels; p++)
      for (int first = 0; first < T; first += step) {
        self.template tile<1, step>(panel + p * stride, stride, row + first, cold, one);
        for (int t = 0; t < step; t++)
          for (int o = 0; o < panelOutputs; o++)
            sums[((first + t) * panels + p) * panelOutputs + o] = one[t * panelOutputs + o];
      }
  }
};

/// What gates a gated layer.
enum Gate { ungated = 0, gatedBySilu = 1, gatedByGelu = 2, gatedClamped = 3 };

/// `limit` is where a clamped gate and its up end.
inline Vector gatedUp(int gate, Vector x, Vector up, float limit) {
  if (gate == gatedClamped) return clampedGate(x, up, limit);
  return (gate == gatedByGelu ? geluTanh(x) : silu(x)) * up;
}

struct QuantisedRows;

/// What follows a sum before it is stored.
struct Epilogue {
  ggml_tensor* dst;
  const float* bias;  // [M], of a gated layer gate's [M] and then up's
  const ggml_tensor* residual;
  int gated;  // a Gate
  AdaptedRows adapted;
  float limit = 0;
  bool passing = false;  // stored past the caches
  /// Of results that become codes at once: where those go, and the numbers of a block until it is whole, [blockRows][blockStride].
  const QuantisedRows* codes = nullptr;
  float* block = nullptr;

  /// Rows a line more apart than they are long: else all of a unit's would lie in few sets of the first cache.
  static constexpr size_t blockRows = 64, blockOutputs = scaleGroups * groupInputs, blockStride = blockOutputs + 16;

  /// Logits of many rows pass: of more than caches keep every number is read once. What a layer makes is read again by the next
  /// product, which waits longer for it than stores past the caches save (a prompt's 1.1 times as long).
  static bool passes(const ggml_tensor* dst) {
    constexpr int64_t logits = 32768;
    constexpr size_t cacheBytes = size_t(8) << 20;
    const bool aligned = reinterpret_cast<uintptr_t>(dst->data) % 64 == 0 && dst->ne[0] % (2 * panelOutputs) == 0;
    return aligned && dst->ne[0] >= logits && size_t(dst->ne[0]) * dst->ne[1] * 4 > cacheBytes;
  }

  /// Asks for the lines that `finish` writes and adds to, while the sums are still made.
  void comingUp(size_t row, int64_t panel, int panels) const {
    int64_t first = (gated ? panel / 2 : panel) * panelOutputs;
    const char* to = reinterpret_cast<const char*>(static_cast<float*>(dst->data) + row * dst->ne[0] + first);
    for (int line = 0; line < (gated ? 1 : panels) && !passing && !block; line++) askToWrite(to + line * 64);
    if (residual)
      for (int line = 0; line < panels; line++)
        askForLine(static_cast<const char*>(residual->data) + row * residual->nb[1] + first * 4 + line * 64);
  }

  /// `sums` holds `panels` panels side by side of each of `count` rows.
  void finish(size_t row, int count, int64_t panel, int panels, const float* sums) const {
    int64_t first = (gated ? panel / 2 : panel) * panelOutputs;
    bool whole = panels == 2 && first + (gated ? 1 : 2) * panelOutputs <= dst->ne[0];
    if (whole && gated == gatedByGelu) finishPairs<gatedByGelu>(row, count, first, sums);
    else if (whole && gated == gatedClamped) finishPairs<gatedClamped>(row, count, first, sums);
    else if (whole && gated) finishPairs<gatedBySilu>(row, count, first, sums);
    else if (whole) finishPairs<ungated>(row, count, first, sums);
    else
      for (int t = 0; t < count; t++) finishRow(row + t, first, panels, sums + t * panels * panelOutputs);
  }

 private:
  float* to(size_t row, int64_t first) const {
    if (block) return block + row % blockRows * blockStride + size_t(first) % blockOutputs;
    return static_cast<float*>(dst->data) + row * dst->ne[0] + first;
  }

  const float* added(size_t row, int64_t first) const {
    if (!residual) return nullptr;
    return reinterpret_cast<const float*>(static_cast<const char*>(residual->data) + row * residual->nb[1]) + first;
  }

  /// A whole pair of panels needs no masks: those took as long as the rest of it.
  template <int gates>
  void finishPairs(size_t row, int count, int64_t first, const float* sums) const {
    for (int t = 0; t < count; t++, sums += 2 * panelOutputs) {
      float* result = to(row + t, first);
      const float* add = added(row + t, first);
#pragma GCC unroll 2
      for (int i = 0; i < (gates ? 1 : 2) * panelOutputs; i += lanes) {
        Vector value = load(sums + i);
        if (bias) value = value + load(bias + first + i);
        if (gates) {
          Vector up = load(sums + panelOutputs + i);
          if (bias) up = up + load(bias + dst->ne[0] + first + i);
          value = gatedUp(gates, value, up, limit);
        }
        if (add) value = value + load(add + i);
        if (passing) storePast(result + i, value);
        else store(result + i, value);
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
      if (bias) value = value + load(bias + first + i, left);
      if (gated) {
        Vector up = load(sums + panelOutputs + i);
        if (bias) up = up + load(bias + width + first + i, left);
        value = gatedUp(gated, value, up, limit);
      }
      if (add) value = value + load(add + i, left);
      store(result + i, value, left);
    }
  }
};

/// `asked` when the weights are on their way. What adapters add is `raised`, where rows have some.
template <class Product>
inline void pairByRows(const Product& product, const char* packed, size_t stride, int64_t panel, int panels,
                       size_t first, size_t end, bool asked, const Epilogue& epilogue, const RaisedRun* raised = nullptr) {
  const char* from = packed + panel * stride;
  alignas(64) float sums[Product::rows * 2 * panelOutputs];
  for (size_t row = first; row < end;) {
    // Two halves rather than a full tile and a thin one, which would wait for its few sums.
    size_t left = end - row, most = Product::rows;
    int count = int(left >= 2 * most || left == most ? most : left > most ? (left + 1) / 2 : left);
    bool cold = row == first && !asked;  // the weights of this pair come from memory, later from a cache
    for (int t = 0; t < count; t++) epilogue.comingUp(row + t, panel, panels);
    product.pair(from, stride, panels, row, count, cold, sums);
    if (raised) raised->add(panel / 2, row, count, panels, sums);
    epilogue.finish(row, count, panel, panels, sums);
    row += count;
  }
}

/// Pieces for one thread, neighbours in memory: at the end of a run the hardware has fetched what another thread is going to
/// read.
class Pieces {
 public:
  Pieces(Call* call, int nth, int64_t count, int64_t most)
      : call(call), nth(nth), count(int32_t(count)), most(int32_t(most < 1 ? 1 : most)) {}

  /// Behind the last of those that were taken at once with it.
  int64_t endOfRun() const { return first + left; }

  /// Negative when none is left.
  int64_t take() {
    if (left == 0 && !takeRun(call, nth, count, most, 1, &first, &left)) return -1;
    return left--, first++;
  }

 private:
  Call* call;
  int nth;
  int32_t count, most, first = 0, left = 0;
};

/// What a thread takes at once, at most: a quarter of it takes a Zen 5 1.02 times as long for a model in q8, 1.1 to 1.25 for few rows by
/// bfloat16. Beside tiles only adapters have it, whose stretches are short; the others were not measured.
constexpr size_t adaptedRunBytes = size_t(1) << 20;
#if defined(ROPEWAY_TILES)
constexpr size_t runBytes = adaptedRunBytes / 4;
#else
constexpr size_t runBytes = adaptedRunBytes;
#endif

/// One row by four panels at a time, each read from its first byte to its last. Of a Granite Rapids' memory two threads get 31
/// GB/s by one stream each, 34 by two, 35 by four and 32 by eight; where lines are asked for, no more than by one.
template <class Product>
inline void multiplyFours(Call* call, int nth, const Product& product, const char* packed, size_t stride, const Epilogue& epilogue) {
  const int64_t panels = (epilogue.dst->ne[0] + panelOutputs - 1) / panelOutputs * (epilogue.gated ? 2 : 1);
  Pieces pieces(call, nth, (panels + 3) / 4, int64_t(runBytes / (4 * stride)));
  alignas(64) float sums[4 * panelOutputs];
  for (int64_t piece; (piece = pieces.take()) >= 0;) {
    const int64_t panel = piece * 4, left = panels - panel;
    const char* from = packed + panel * stride;
    if (left >= 4) product.template tile<4, 1>(from, stride, 0, false, sums);
    else
      for (int p = 0; p < left; p++) product.template tile<1, 1>(from + p * stride, stride, 0, false, sums + p * panelOutputs);
    for (int p = 0; p < 4 && p < left; p += 2)
      epilogue.finish(0, 1, panel + p, left - p < 2 ? 1 : 2, sums + p * panelOutputs);
  }
}

/// The product itself, in pieces of a pair of panels by some rows.
template <class Product>
inline void multiplyPieces(Call* call, int nth, const Product& product, const char* packed, size_t stride, size_t rows,
                           const Epilogue& epilogue) {
  if constexpr (Product::fours)
    if (rows == 1 && !epilogue.adapted.slots) return multiplyFours(call, nth, product, packed, stride, epilogue);
  constexpr size_t rowsPerPiece = 192;
  int64_t panels = (epilogue.dst->ne[0] + panelOutputs - 1) / panelOutputs * (epilogue.gated ? 2 : 1);
  int64_t pairs = (panels + 1) / 2, blocks = (rows + rowsPerPiece - 1) / rowsPerPiece;
  const size_t rowsRaised = rows < rowsPerPiece ? rows : rowsPerPiece;
  RaisedRun raised(epilogue.adapted, rows, rowsRaised, RaisedRun::pairsWithin(rowsRaised));
  if (raised) raised.place(rw_thread_scratch(raised.bytes()));
  Pieces pieces(call, nth, pairs * blocks, int64_t((raised ? adaptedRunBytes : runBytes) / (2 * stride)) * blocks);
  bool asked = false;
  for (int64_t piece = pieces.take(); piece >= 0;) {
    // What is known ahead waits for this thread, so no more is than is asked for.
    const int64_t next = Product::asksAhead ? pieces.take() : -1, panel = piece / blocks * 2, from = next / blocks * 2;
    const size_t first = piece % blocks * rowsPerPiece, end = first + rowsPerPiece < rows ? first + rowsPerPiece : rows;
    // Other rows of the same panels find them in a cache.
    const bool asks = Product::asksAhead && next >= 0 && from != panel && from + 2 <= panels;
    if constexpr (Product::asksAhead)
      if (asks) product.comingUp(packed + from * stride, 2 * stride, end - first);
    const bool changes = raised && raised.touches(first, end - first);
    if (changes && !raised.has(panel / 2, first)) {
      const bool more = blocks == 1 && (!Product::asksAhead || next == piece + 1);
      raised.reach(panel / 2, more ? pieces.endOfRun() : panel / 2 + 1, first, end - first, panels);
    }
    pairByRows(product, packed, stride, panel, panels - panel < 2 ? 1 : 2, first, end, asked, epilogue, changes ? &raised : nullptr);
    asked = asks || (Product::asksAhead && from == panel);
    piece = Product::asksAhead ? next : pieces.take();
  }
}

/// Rows of x as the product reads them, and lowered where they have adapters: neighbours of one run together.
template <class Product>
inline void prepareRows(Call* call, const Product& product, const ggml_tensor* x, const float* norm, float epsilon,
                        size_t inputs, const AdaptedRows& adapted) {
  const size_t width = x->ne[0], rows = x->ne[1], rowBytes = alignUp(inputs * 4);
  // Neighbouring rows share lines of scales, and what is asked for behind a row is the next one.
  const size_t run = rows >= 128 ? 16 : rows >= 32 ? 4 : 1;
  const size_t together = !adapted.slots ? 1 : run < loweredTogether ? run : loweredTogether;
  preparePhase(call, int32_t((rows + run - 1) / run), [&](int32_t piece) {
    const size_t begin = piece * run, end = begin + run < rows ? begin + run : rows;
    for (size_t row = begin; row < end; row += together) {
      const int count = int(end - row < together ? end - row : together);
      char* own = norm || inputs > width ? rw_thread_scratch(together * rowBytes) : nullptr;
      const float* from[loweredTogether];
      for (int t = 0; t < count; t++) {
        from[t] = reinterpret_cast<const float*>(static_cast<const char*>(x->data) + (row + t) * x->nb[1]);
        if (own) from[t] = paddedRow(from[t], norm, epsilon, width, inputs, reinterpret_cast<float*>(own + t * rowBytes));
        product.prepare(from[t], row + t);
      }
      if (adapted.slots) adapted.lower(from, product.codes(row), row, count);
    }
    if constexpr (Product::tiled)
      if (end == rows) product.fill(rows);
  });
}

/// How two products hand activations over where there are many rows: as floats, or as the codes that the second multiplies, which
/// the first leaves in the memory of its result.
enum Handing { asFloats = 0, intoCodes = 1, ofCodes = 2 };
constexpr size_t handedRows = 64;

/// dst F32 [N, M]. Sources: x F32 [N, K] (rows may be strided), packed weights, then those present of: norm
/// weight [K], bias [M], residual [N, M], adapters: I32 [N] slot of each row, then their addresses by slot.
/// Params: normed, biased, residual (0/1 each), Gate, adapted (0/1), epsilon as float bits. Gated weights interleave gate
/// and up by panel, and have no bias here; dst is silu(gate) * up, or gelu(gate) * up.
template <class Product, Handing handing = asFloats>
inline void linear(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor* x = dst->src[0];
  const char* packed = static_cast<const char*>(dst->src[1]->data);
  ggml_tensor* const* extra = dst->src + 2;
  const float* norm = call->params[0] ? static_cast<const float*>((*extra++)->data) : nullptr;
  Epilogue epilogue{dst, nullptr, nullptr, call->params[3]};
  epilogue.passing = Epilogue::passes(dst);
  if (call->params[1]) epilogue.bias = static_cast<const float*>((*extra++)->data);
  if (call->params[2]) epilogue.residual = *extra++;
  AdaptedRows& adapted = epilogue.adapted;
  if (call->params[4]) {
    adapted.slots = static_cast<const int32_t*>((*extra++)->data);
    adapted.adapters = static_cast<const Adapter* const*>((*extra++)->data);
  }
  float epsilon = floatParam(call, 5);
  size_t width = x->ne[0], inputs = wholeGroups(width), rows = x->ne[1];
  size_t stride = panelBytes(Product::packedFormat, inputs);

  size_t placed = Product::placed(rows), placedBytes = alignUp(placed * Product::rowBytes(inputs));
  if (adapted.slots) adapted.stride = adapted.floatsMost(rows), adapted.inputs = inputs;

  if (arriveFirst(call)) {
    rw_workspace_reserve(call->workspace, placedBytes + adapted.placedBytes(rows) + 64);
    publish(call);
  }
  Product product, result;  // the second where results become codes
  const bool many = rows >= handedRows;
  if constexpr (handing == intoCodes)
    if (many) {
      const size_t outputs = wholeGroups(size_t(dst->ne[0]));
      result.place(static_cast<char*>(dst->data), Product::placed(rows), outputs);
      epilogue.codes = &result.x;
    }
  if (handing == ofCodes && many) product.place(static_cast<char*>(x->data), placed, inputs);
  else {
    product.place(call->workspace->memory, placed, inputs);
    adapted.place(call->workspace->memory + placedBytes, rows);
    prepareRows(call, product, x, norm, epsilon, inputs, adapted);
  }
  if constexpr (Product::tiled) product.multiply(call, nth, packed, stride, rows, epilogue);
  else multiplyPieces(call, nth, product, packed, stride, rows, epilogue);
  if (epilogue.passing) finishPast();
  leave(call, nth);
}

}  // namespace
