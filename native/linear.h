// Products of packed weights and activations, with what surrounds them in a layer: the norm before, and
// bias, gate or residual behind. So a decoder layer is six ops.
//
// Activations are quantised per row and group of 32 inputs, never per batch. Every output is summed in the
// order of groups by one accumulator, whatever the number of rows or threads, so its bits depend on its own
// row and weights only.
//
// Legend: N rows, K inputs, M outputs, P panels of 16 outputs, T rows in registers.
#pragma once

#include "adapter.h"
#include "call.h"
#include "packed.h"
#include "simd.h"
#include "tensor.h"

namespace {

/// Rows of activations as int8 codes; `bias` is what biased weight codes add to a group's sum.
struct QuantisedRows {
  int8_t* codes;   // [N][K]
  float* scales;   // [N][K/32]
  float* sums;     // [N][K/32] scale * sum of codes
  int32_t* bias;   // [N][K/32] -codeBias * sum of codes
  size_t inputs, groups;
};

inline void quantiseRow(const float* x, QuantisedRows rows, size_t row) {
  for (size_t g = 0; g < rows.groups; g++) {
    const float* from = x + g * groupInputs;
    Vector highest = zero();
    for (int i = 0; i < groupInputs; i += lanes) {
      Vector v = load(from + i);
      highest = maximum(maximum(v, -v), highest);
    }
    float scale = maximumLane(highest) / 127.0f, inverse = scale > 0 ? 1.0f / scale : 0.0f;
    int8_t* codes = rows.codes + row * rows.inputs + g * groupInputs;
    int32_t sum = 0;
    for (int i = 0; i < groupInputs; i += lanes) {
      const Vector magic = splat(12582912.0f);  // rounds to nearest, ties to even
      VectorInt rounded = (VectorInt)(load(from + i) * inverse + magic) - (VectorInt)magic;
      for (int l = 0; l < lanes; l++) {
        codes[i + l] = int8_t(rounded[l]);
        sum += rounded[l];
      }
    }
    rows.scales[row * rows.groups + g] = scale;
    rows.sums[row * rows.groups + g] = scale * float(sum);
    rows.bias[row * rows.groups + g] = -int32_t(codeBias) * sum;
  }
}

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

#if defined(__AVX512VNNI__)

constexpr int rowsAtOnce = 6, panelsAtOnce = 2;
// The hardware's own prefetch stops at page borders; it does better than we do on the lines behind them.
constexpr size_t prefetchAhead = 4096, pageBytes = 4096, linesPrefetched = 2;

struct Q8Codes {
  static constexpr size_t groupBytes = 512;
  static __m512i codes(const char* group, int j) { return _mm512_loadu_si512(group + 64 * j); }
};

struct Q4Codes {
  static constexpr size_t groupBytes = 256;
  static __m512i codes(const char* group, int j) {
    __m512i pairs = _mm512_loadu_si512(group + 64 * (j % 4));
    return _mm512_and_si512(j < 4 ? pairs : _mm512_srli_epi16(pairs, 4), _mm512_set1_epi8(15));
  }
};

/// sums[t][p * 16 + o] for P panels and T rows; four panels are two pairs, one after the other.
template <class Codes, int P, int T>
inline void productTile(const char* panel, size_t stride, const QuantisedRows& x, size_t row, bool cold, float* sums) {
  constexpr bool offset = Codes::groupBytes == 256;
  const Half* scales[P];
  for (int p = 0; p < P; p++) scales[p] = reinterpret_cast<const Half*>(panel + p * stride + x.groups * Codes::groupBytes);
  __m512 sum[P][T];
  for (int p = 0; p < P; p++)
    for (int t = 0; t < T; t++) sum[p][t] = _mm512_setzero_ps();
  const int8_t* codes = x.codes + row * x.inputs;
  const float* factor = x.scales + row * x.groups;
  const float* total = x.sums + row * x.groups;
  const int32_t* bias = x.bias + row * x.groups;
  for (size_t g = 0; g < x.groups; g++) {
    if (cold && g % (pageBytes / Codes::groupBytes) == 0) {
      for (int p = 0; p < P; p++)
        for (size_t line = 0; line < linesPrefetched; line++)
          _mm_prefetch(panel + p * stride + g * Codes::groupBytes + prefetchAhead + line * 64, _MM_HINT_T0);
    }
    __m512i dot[P][T];
#pragma GCC unroll 8
    for (int t = 0; t < T; t++)
      for (int p = 0; p < P; p++) dot[p][t] = offset ? _mm512_setzero_si512() : _mm512_set1_epi32(bias[t * x.groups + g]);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
      __m512i w[P];
      for (int p = 0; p < P; p++) w[p] = Codes::codes(panel + p * stride + g * Codes::groupBytes, j);
#pragma GCC unroll 8
      for (int t = 0; t < T; t++) {
        __m512i a = _mm512_set1_epi32(readAs<int32_t>(reinterpret_cast<const char*>(codes + t * x.inputs + g * 32 + j * 4)));
        for (int p = 0; p < P; p++) dot[p][t] = _mm512_dpbusd_epi32(dot[p][t], w[p], a);
      }
    }
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) {
      __m512 scale = loadHalf(scales[p] + g * 16);
      __m512 shift = offset ? loadHalf(scales[p] + (x.groups + g) * 16) : scale;
#pragma GCC unroll 8
      for (int t = 0; t < T; t++) {
        __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(factor[t * x.groups + g]));
        sum[p][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[p][t]), both, sum[p][t]);
        if (offset) sum[p][t] = _mm512_fmadd_ps(shift, _mm512_set1_ps(total[t * x.groups + g]), sum[p][t]);
      }
    }
  }
  constexpr int width = P == 1 ? 1 : 2;
#pragma GCC unroll 8
  for (int t = 0; t < T; t++)
    for (int p = 0; p < P; p++) _mm512_storeu_ps(sums + ((p / width * T + t) * width + p % width) * 16, sum[p][t]);
}

#elif defined(__AVX2__)

constexpr int rowsAtOnce = 2, panelsAtOnce = 1;

struct Q8Codes {
  static constexpr size_t groupBytes = 512;
  static __m256i codes(const char* group, int j, int half) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + 64 * j + 32 * half));
  }
  // The first factor of the byte product is unsigned: the weight's sign moves to the activation.
  static __m256i dot(__m256i sum, __m256i w, __m256i a) {
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

struct Q4Codes {
  static constexpr size_t groupBytes = 256;
  static __m256i codes(const char* group, int j, int half) {
    __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + 64 * (j % 4) + 32 * half));
    return _mm256_and_si256(j < 4 ? pairs : _mm256_srli_epi16(pairs, 4), _mm256_set1_epi8(15));
  }
  static __m256i dot(__m256i sum, __m256i w, __m256i a) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
  }
};

template <class Codes, int P, int T>
inline void productTile(const char* panel, size_t, const QuantisedRows& x, size_t row, bool, float* sums) {
  constexpr bool offset = Codes::groupBytes == 256;
  const Half* scales = reinterpret_cast<const Half*>(panel + x.groups * Codes::groupBytes);
  __m256 sum[T][2];
  for (int t = 0; t < T; t++) sum[t][0] = sum[t][1] = _mm256_setzero_ps();
  const int8_t* codes = x.codes + row * x.inputs;
  for (size_t g = 0; g < x.groups; g++) {
    __m256i dot[T][2];
    for (int t = 0; t < T; t++) dot[t][0] = dot[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++) {
        __m256i w = Codes::codes(panel + g * Codes::groupBytes, j, h);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
          __m256i a = _mm256_set1_epi32(readAs<int32_t>(reinterpret_cast<const char*>(codes + t * x.inputs + g * 32 + j * 4)));
          dot[t][h] = Codes::dot(dot[t][h], w, a);
        }
      }
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      __m256 scale = loadHalf(scales + g * 16 + h * 8);
      __m256 shift = offset ? loadHalf(scales + (x.groups + g) * 16 + h * 8) : scale;
      for (int t = 0; t < T; t++) {
        size_t at = (row + t) * x.groups + g;
        __m256 both = _mm256_mul_ps(scale, _mm256_set1_ps(x.scales[at]));
        sum[t][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[t][h]), both, sum[t][h]);
        if (offset) sum[t][h] = _mm256_fmadd_ps(shift, _mm256_set1_ps(x.sums[at]), sum[t][h]);
      }
    }
  }
  for (int t = 0; t < T; t++)
    for (int h = 0; h < 2; h++) _mm256_storeu_ps(sums + t * 16 + h * 8, sum[t][h]);
}

#else

constexpr int rowsAtOnce = 1, panelsAtOnce = 1;

struct Q8Codes {
  static constexpr size_t groupBytes = 512;
  static int32_t code(const char* group, int j, int at) { return int8_t(group[64 * j + at]); }
};

struct Q4Codes {
  static constexpr size_t groupBytes = 256;
  static int32_t code(const char* group, int j, int at) {
    uint8_t pair = uint8_t(group[64 * (j % 4) + at]);
    return j < 4 ? pair & 15 : pair >> 4;
  }
};

template <class Codes, int P, int T>
inline void productTile(const char* panel, size_t, const QuantisedRows& x, size_t row, bool, float* sums) {
  constexpr bool offset = Codes::groupBytes == 256;
  const Half* scales = reinterpret_cast<const Half*>(panel + x.groups * Codes::groupBytes);
  for (int o = 0; o < 16; o++) sums[o] = 0;
  for (size_t g = 0; g < x.groups; g++) {
    const char* group = panel + g * Codes::groupBytes;
    const int8_t* a = x.codes + row * x.inputs + g * 32;
    int32_t dot[16] = {};
    for (int j = 0; j < 8; j++)
      for (int o = 0; o < 16; o++)
        for (int c = 0; c < 4; c++) dot[o] += Codes::code(group, j, o * 4 + c) * a[j * 4 + c];
    float factor = x.scales[row * x.groups + g], total = x.sums[row * x.groups + g];
    for (int o = 0; o < 16; o++) {
      sums[o] = fma(float(dot[o]), halfToFloat(scales[g * 16 + o]) * factor, sums[o]);
      if (offset) sums[o] = fma(halfToFloat(scales[(x.groups + g) * 16 + o]), total, sums[o]);
    }
  }
}

#endif

/// A pair of panels by `count` <= Self::rows rows, by a tile compiled for exactly so many.
template <class Self>
struct ByRegisters {
  void enter() const {}
  void exit() const {}

  /// Two pairs of panels by `count` <= Self::fewRows rows, sums pair after pair: few rows leave registers for
  /// four streams, and a core gets more from its memory by four than by two.
  void quad(const char* panel, size_t stride, size_t row, int count, float* sums) const {
    exactlyQuad<Self::fewRows>(panel, stride, row, count, sums);
  }

  void pair(const char* panel, size_t stride, int panels, size_t row, int count, bool cold, float* sums) const {
    exactly<Self::rows>(panel, stride, panels, row, count, cold, sums);
  }

 private:
  template <int T>
  void exactlyQuad(const char* panel, size_t stride, size_t row, int count, float* sums) const {
    if constexpr (T > 1)
      if (count < T) return exactlyQuad<T - 1>(panel, stride, row, count, sums);
    static_cast<const Self&>(*this).template tile<4, T>(panel, stride, row, true, sums);
  }

  template <int T>
  void exactly(const char* panel, size_t stride, int panels, size_t row, int count, bool cold, float* sums) const {
    if constexpr (T > 1)
      if (count < T) return exactly<T - 1>(panel, stride, panels, row, count, cold, sums);
    const Self& self = static_cast<const Self&>(*this);
    if constexpr (Self::panels == 2)
      if (panels == 2) return self.template tile<2, T>(panel, stride, row, cold, sums);
    float one[T * panelOutputs];
    for (int p = 0; p < panels; p++) {
      self.template tile<1, T>(panel + p * stride, stride, row, cold, one);
      for (int t = 0; t < T; t++)
        for (int o = 0; o < panelOutputs; o++) sums[(t * panels + p) * panelOutputs + o] = one[t * panelOutputs + o];
    }
  }
};

/// Weights by int8 codes; its sibling for floats is FloatProduct in linear_float.h.
template <class Codes, int format>
struct CodedProduct : ByRegisters<CodedProduct<Codes, format>> {
  static constexpr int rows = rowsAtOnce, panels = panelsAtOnce, fewRows = panels == 2 ? 4 : 0;
  static constexpr int packedFormat = format;
  QuantisedRows x;

  static size_t rowBytes(size_t inputs) { return inputs + inputs / groupInputs * 12; }

  void place(char* memory, size_t count, size_t inputs) {
    x.inputs = inputs;
    x.groups = inputs / groupInputs;
    x.codes = reinterpret_cast<int8_t*>(memory);
    x.scales = reinterpret_cast<float*>(memory + count * inputs);
    x.sums = x.scales + count * x.groups;
    x.bias = reinterpret_cast<int32_t*>(x.sums + count * x.groups);
  }

  /// `from` has a multiple of 32 elements.
  void prepare(const float* from, size_t row) const { quantiseRow(from, x, row); }

  template <int P, int T>
  void tile(const char* panel, size_t stride, size_t row, bool cold, float* sums) const {
    productTile<Codes, P, T>(panel, stride, x, row, cold, sums);
  }
};

/// What follows a sum before it is stored.
struct Epilogue {
  ggml_tensor* dst;
  const float* bias;
  const ggml_tensor* residual;
  bool gated;
  AdaptedRows adapted;

  /// `sums` holds outputs first.. of one row, `panels` panels side by side.
  void finish(size_t row, int64_t panel, int panels, const float* sums) const {
    int64_t width = dst->ne[0], first = (gated ? panel / 2 : panel) * panelOutputs;
    int64_t count = gated ? panelOutputs : panels * panelOutputs;
    if (count > width - first) count = width - first;
    float* to = static_cast<float*>(dst->data) + row * width + first;
    const float* add = residual ? reinterpret_cast<const float*>(static_cast<const char*>(residual->data) +
                                                                 row * residual->nb[1]) + first
                                : nullptr;
    for (int64_t i = 0; i < count; i += lanes) {
      int left = int(count - i);
      Vector value = load(sums + i);
      if (gated) value = silu(value) * load(sums + panelOutputs + i);
      if (bias) value = value + load(bias + first + i, left);
      if (add) value = value + load(add + i, left);
      store(to + i, value, left);
    }
  }
};

template <class Product>
inline void pairByRows(const Product& product, const char* packed, size_t stride, int64_t panel, int panels,
                       size_t first, size_t end, const Epilogue& epilogue) {
  const char* from = packed + panel * stride;
  alignas(64) float sums[Product::rows * 2 * panelOutputs];
  for (size_t row = first; row < end;) {
    // Two halves rather than a full tile and a thin one, which would wait for its few sums.
    size_t left = end - row, most = Product::rows;
    int count = int(left >= 2 * most || left == most ? most : left > most ? (left + 1) / 2 : left);
    bool cold = row == first;  // the weights of this pair come from memory, later from a cache
    product.pair(from, stride, panels, row, count, cold, sums);
    if (epilogue.adapted.slots) epilogue.adapted.raise(row, count, panel, panels, sums);
    for (int t = 0; t < count; t++) epilogue.finish(row + t, panel, panels, sums + t * panels * panelOutputs);
    row += count;
  }
}

template <class Product>
inline void quadByRows(const Product& product, const char* packed, size_t stride, int64_t panel, size_t rows,
                       const Epilogue& epilogue) {
  alignas(64) float sums[Product::rows * 4 * panelOutputs];
  product.quad(packed + panel * stride, stride, 0, int(rows), sums);
  for (int pair = 0; pair < 2; pair++) {
    float* own = sums + pair * rows * 2 * panelOutputs;
    if (epilogue.adapted.slots) epilogue.adapted.raise(0, int(rows), panel + pair * 2, 2, own);
    for (size_t t = 0; t < rows; t++) epilogue.finish(t, panel + pair * 2, 2, own + t * 2 * panelOutputs);
  }
}

template <class Product>
inline void multiplyQuads(Call* call, const Product& product, const char* packed, size_t stride, size_t rows,
                          int64_t panels, const Epilogue& epilogue) {
  for (int64_t panel; (panel = int64_t(takePiece(call)) * 4) < panels;) {
    if (panels - panel >= 4) quadByRows(product, packed, stride, panel, rows, epilogue);
    else
      for (int64_t at = panel; at < panels; at += 2)
        pairByRows(product, packed, stride, at, panels - at < 2 ? 1 : 2, 0, rows, epilogue);
  }
}

/// The product itself, in pieces of a pair of panels by some rows, or of two pairs when there are few rows.
template <class Product>
inline void multiplyPieces(Call* call, const Product& product, const char* packed, size_t stride, size_t rows,
                           const Epilogue& epilogue) {
  constexpr size_t rowsPerPiece = 192;
  int64_t panels = (epilogue.dst->ne[0] + panelOutputs - 1) / panelOutputs * (epilogue.gated ? 2 : 1);
  int64_t pairs = (panels + 1) / 2, blocks = (rows + rowsPerPiece - 1) / rowsPerPiece;
  if constexpr (Product::fewRows > 0)
    if (rows <= size_t(Product::fewRows)) return multiplyQuads(call, product, packed, stride, rows, panels, epilogue);
  product.enter();
  for (int64_t piece; (piece = takePiece(call)) < pairs * blocks;) {
    int64_t panel = piece / blocks * 2;
    size_t first = piece % blocks * rowsPerPiece, end = first + rowsPerPiece < rows ? first + rowsPerPiece : rows;
    pairByRows(product, packed, stride, panel, panels - panel < 2 ? 1 : 2, first, end, epilogue);
  }
  product.exit();
}

template <class Product>
inline size_t rowsPlaced(size_t rows) {
  // Kernels may read, but not use, rows up to a whole number of tiles.
  return (rows + Product::rows - 1) / Product::rows * Product::rows;
}

/// dst F32 [N, M]. Sources: x F32 [N, K] (rows may be strided), packed weights, then those present of: norm
/// weight [K], bias [M], residual [N, M], adapters: I32 [N] slot of each row, then their addresses by slot.
/// Params: normed, biased, residual, gated, adapted (0/1 each), epsilon as float bits. Gated weights interleave gate
/// and up by panel; dst is silu(gate) * up.
template <class Product>
inline void linear(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor* x = dst->src[0];
  const char* packed = static_cast<const char*>(dst->src[1]->data);
  ggml_tensor* const* extra = dst->src + 2;
  bool normed = call->params[0] != 0;
  const float* norm = normed ? static_cast<const float*>((*extra++)->data) : nullptr;
  Epilogue epilogue{dst, nullptr, nullptr, call->params[3] != 0};
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

  size_t placed = rowsPlaced<Product>(rows), placedBytes = alignUp(placed * Product::rowBytes(inputs));
  if (adapted.slots) adapted.stride = adapted.ranksMost(rows);

  if (arriveFirst(call)) {
    rw_workspace_reserve(call->workspace, placedBytes + rows * adapted.stride * 4 + 64);
    publish(call);
  }
  Product product;
  product.place(call->workspace->memory, placed, inputs);
  adapted.lowered = reinterpret_cast<float*>(call->workspace->memory + placedBytes);
  preparePhase(call, int32_t(rows), [&](int32_t row) {
    const float* from = reinterpret_cast<const float*>(static_cast<const char*>(x->data) + row * x->nb[1]);
    if (normed || inputs > width) {
      float* own = reinterpret_cast<float*>(rw_thread_scratch(alignUp(inputs * 4)));
      for (size_t k = 0; k < inputs; k++) own[k] = k < width ? from[k] : 0.0f;
      if (normed) normRow(own, norm, epsilon, int(width), own);
      from = own;
    }
    product.prepare(from, row);
    if (adapted.slots) adapted.lower(from, row);
  });
  multiplyPieces(call, product, packed, stride, rows, epilogue);
  leave(call, nth);
}

}  // namespace
