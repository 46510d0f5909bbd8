// Products with weights stored as codes. Activations become int8 codes per row and group of 32 inputs, never per
// batch; sums of a group are exact, and scales are applied in the order of groups.
#pragma once

#include "codes.h"
#include "linear.h"

namespace {

#if defined(__AVX512VNNI__)
constexpr int rowsAtOnce = 6, panelsAtOnce = 2;
#elif defined(__AVX2__)
constexpr int rowsAtOnce = 2, panelsAtOnce = 1;
#elif defined(ROPEWAY_NEON)
constexpr int rowsAtOnce = 4, panelsAtOnce = 1;
#else
constexpr int rowsAtOnce = 1, panelsAtOnce = 1;
#endif

typedef int8_t LaneCodes __attribute__((vector_size(lanes)));

/// Rows of activations as int8 codes; `bias` is what biased weight codes add to the sum of a part of a group.
struct QuantisedRows {
  int8_t* codes;   // [N][K]
  float* scales;   // [N][K/32]
  float* sums;     // [N][K/32] scale * sum of codes
  int32_t* bias;   // [N][K/32][parts] -bias of the weights' codes * sum of codes
  size_t inputs, groups;
};

inline int32_t sumOfLanes(VectorInt value) {
  int32_t sum = 0;
  for (int l = 0; l < lanes; l++) sum += value[l];
  return sum;
}

template <class Codes>
inline void quantiseRow(const float* x, QuantisedRows rows, size_t row) {
  constexpr int partInputs = groupInputs / Codes::parts;
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
    for (int part = 0; part < Codes::parts; part++) {
      VectorInt all = {};
      for (int i = part * partInputs; i < (part + 1) * partInputs; i += lanes) {
        const Vector magic = splat(12582912.0f);  // rounds to nearest, ties to even
        VectorInt rounded = (VectorInt)(load(from + i) * inverse + magic) - (VectorInt)magic;
        LaneCodes narrow = __builtin_convertvector(rounded, LaneCodes);
        __builtin_memcpy(codes + i, &narrow, sizeof narrow);
        all += rounded;
      }
      int32_t own = sumOfLanes(all);
      rows.bias[(row * rows.groups + g) * Codes::parts + part] = -int32_t(Codes::bias) * own;
      sum += own;
    }
    rows.scales[row * rows.groups + g] = scale;
    rows.sums[row * rows.groups + g] = scale * float(sum);
  }
}

#if defined(__AVX2__) && !defined(__AVX512VNNI__)

/// Sums of pairs of products stay within 16 bits for so many steps, which then share one widening.
template <class Codes>
constexpr int stepsNarrow = Codes::most > 127 ? 1 : 32767 / (Codes::most * 127 * 2);

/// pairs[t][v] over steps j.. of which `left` are left.
template <class Codes, int P, int T, int j, int left, bool first = true>
__attribute__((always_inline)) inline void dotNarrow(const char* const* group, const int8_t* codes, size_t inputs,
                                                     __m256i (*pairs)[P * panelVectors]) {
  constexpr int V = P * panelVectors;
  if constexpr (left > 0) {
    Bytes w[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) w[v] = Codes::template at<j>(group[v / panelVectors], v % panelVectors);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
      VectorInt a = readAs<int32_t>(reinterpret_cast<const char*>(codes + t * inputs + j * 4)) - VectorInt{};
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) {
        __m256i product = pairsOfBytes<Codes::negative>(w[v], a);
        pairs[t][v] = first ? product : _mm256_add_epi16(pairs[t][v], product);
      }
    }
    dotNarrow<Codes, P, T, j + 1, left - 1, false>(group, codes, inputs, pairs);
  }
}

/// The codes of one group as integers: dot[t][v] over its `part`, for T rows and the vectors of P panels. Inlined by
/// force, as is what calls it: g++ made calls of it for four bits, all sums went through memory, and it took twice as long.
template <class Codes, int P, int T, int part, int j = 0>
__attribute__((always_inline)) inline void dotGroup(const char* const* group, const int8_t* codes, size_t inputs,
                                                    VectorInt (*dot)[P * panelVectors]) {
  constexpr int V = P * panelVectors, steps = 8 / Codes::parts;
  if constexpr (j < steps) {
    constexpr int narrow = stepsNarrow<Codes> < steps - j ? stepsNarrow<Codes> : steps - j;
    __m256i pairs[T][V];
    dotNarrow<Codes, P, T, part * steps + j, narrow>(group, codes, inputs, pairs);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) dot[t][v] += (VectorInt)_mm256_madd_epi16(pairs[t][v], _mm256_set1_epi16(1));
    dotGroup<Codes, P, T, part, j + narrow>(group, codes, inputs, dot);
  }
}

#else

template <class Codes, int P, int T, int part, int j = 0>
__attribute__((always_inline)) inline void dotGroup(const char* const* group, const int8_t* codes, size_t inputs,
                                                    VectorInt (*dot)[P * panelVectors]) {
  constexpr int V = P * panelVectors, steps = 8 / Codes::parts;
  if constexpr (j < steps) {
    Bytes w[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) w[v] = Codes::template at<part * steps + j>(group[v / panelVectors], v % panelVectors);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
      const int8_t* from = codes + t * inputs + (part * steps + j) * 4;
      VectorInt a = readAs<int32_t>(reinterpret_cast<const char*>(from)) - VectorInt{};
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) dot[t][v] = dotBytes<Codes::negative>(dot[t][v], w[v], a);
    }
    dotGroup<Codes, P, T, part, j + 1>(group, codes, inputs, dot);
  }
}

#endif

/// One part of group g for T rows: its sums of codes, scaled, into `sum`.
template <class Codes, int P, int T, int part = 0>
__attribute__((always_inline)) inline void productGroup(const char* panel, size_t stride, const QuantisedRows& x,
                                                        size_t row, size_t g, const char* const* group,
                                                        Vector (*sum)[P * panelVectors]) {
  constexpr int V = P * panelVectors;
  if constexpr (part < Codes::parts) {
    VectorInt dot[T][V];
#pragma GCC unroll 8
    for (int t = 0; t < T; t++)
      for (int v = 0; v < V; v++)
        dot[t][v] = Codes::bias == 0 ? VectorInt{} : x.bias[((row + t) * x.groups + g) * Codes::parts + part] - VectorInt{};
    dotGroup<Codes, P, T, part>(group, x.codes + row * x.inputs + g * groupInputs, x.inputs, dot);
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      const char* from = panel + v / panelVectors * stride;
      Vector scale = Codes::scale(from, x.groups, g, part, v % panelVectors);
      Vector shift = Codes::offset ? Codes::shift(from, g, v % panelVectors) : scale;
#pragma GCC unroll 8
      for (int t = 0; t < T; t++) {
        size_t at = (row + t) * x.groups + g;
        sum[t][v] = fma(__builtin_convertvector(dot[t][v], Vector), scale * splat(x.scales[at]), sum[t][v]);
        if (Codes::offset) sum[t][v] = fma(shift, splat(x.sums[at]), sum[t][v]);
      }
    }
    productGroup<Codes, P, T, part + 1>(panel, stride, x, row, g, group, sum);
  }
}

/// Asks for the codes that come up in these panels, or behind their ends for those of the next P: every line, into the
/// second cache. Unpacking keeps a core too busy to wait for memory as well.
template <class Codes, int P>
inline void askAhead(const char* const* group, const char* panel, size_t stride) {
  constexpr size_t distance = 5120;
  bool behind = size_t(group[0] - panel) + distance >= stride;
  for (int p = 0; p < P; p++) {
    const char* from = group[p] + distance + (behind ? (P - 1) * stride : 0);
    for (size_t line = 0; line < Codes::bytes; line += 64) askForLine(from + line);
  }
}

/// How AVX2 asks, in the middle of its work and not by a call that keeps its order: for each line of a group, with its
/// part of the scales; of q4, which the hardware follows, for what lies behind the borders of pages, where it stops.
template <class Codes>
struct NarrowAsk {
  static constexpr bool seldom = Codes::format == packedQ4;
  static constexpr size_t distance = 4096, groups = seldom ? 4096 / Codes::bytes : 1;
  static constexpr size_t lines = seldom ? 2 : (Codes::bytes + 127) / 64;
};

/// Weights that a thread multiplies next, asked for evenly while it computes: otherwise only the first rows of each pair
/// of panels would wait for memory, and the memory for the others.
struct Upcoming {
  const char *from = nullptr, *end = nullptr;
  size_t step = 0;  // bytes a group, whole lines; 0 when nothing is left to ask for

  void begin(const char* weights, size_t bytes, size_t groups) {
    from = weights;
    end = weights + bytes;
    step = (bytes / groups + 63) / 64 * 64;
  }
  void ask() {
    for (size_t at = 0; at < step; at += 64) askForLine(from + at);
    from += step;
    if (from >= end) step = 0;
  }
};

/// sums[t][p * 16 + o] for P panels and T rows; four panels are two pairs, one after the other.
template <class Codes, int P, int T>
inline void productTile(const char* panel, size_t stride, const QuantisedRows& x, size_t row, bool cold, Upcoming* upcoming,
                        float* sums) {
  // Narrow registers hold the sums of one panel's codes at a time.
  constexpr int together = lanes == 16 ? P : 1, V = together * panelVectors;
  Vector sum[P / together][T][V];
  for (int p = 0; p < P / together; p++)
#pragma GCC unroll 8
    for (int t = 0; t < T; t++)
      for (int v = 0; v < V; v++) sum[p][t][v] = zero();
  [[maybe_unused]] const size_t share = stride / x.groups;
  for (size_t g = 0; g < x.groups; g++) {
    const char* group[P];
    for (int p = 0; p < P; p++) group[p] = Codes::group(panel + p * stride, g);
    if constexpr (lanes == 8) {
      using Ask = NarrowAsk<Codes>;
      if (P == 1 && cold && g % Ask::groups == 0)
        for (size_t line = 0; line < Ask::lines; line++)
          __builtin_prefetch(panel + g * share + Ask::distance + line * 64);
    } else if (cold) askAhead<Codes, P>(group, panel, stride);
    if (upcoming->step > 0) upcoming->ask();
    for (int p = 0; p < P; p += together)
      productGroup<Codes, together, T>(panel + p * stride, stride, x, row, g, group + p, sum[p / together]);
  }
  constexpr int width = (P == 1 ? 1 : 2) * panelVectors;
#pragma GCC unroll 8
  for (int t = 0; t < T; t++)
    for (int v = 0; v < P * panelVectors; v++)
      store(sums + ((v / width * T + t) * width + v % width) * lanes, sum[v / V][t][v % V]);
}

/// Its sibling for floats is FloatProduct in linear_float.h.
template <class Codes>
struct CodedProduct : ByRegisters<CodedProduct<Codes>> {
  static constexpr int rows = rowsAtOnce, panels = panelsAtOnce;
  static constexpr int fewRows = panels == 2 ? 4 : lanes == 8 && Codes::format == packedQ8 ? 2 : 0;
  static constexpr int packedFormat = Codes::format;
  static constexpr bool compact = true, asksAhead = lanes == 16;
  QuantisedRows x;
  mutable Upcoming upcoming;

  /// `weights` come up behind `tiles` tiles from now on.
  void comingUp(const char* weights, size_t bytes, size_t tiles) const { upcoming.begin(weights, bytes, tiles * x.groups); }

  static size_t rowBytes(size_t inputs) { return inputs + inputs / groupInputs * (8 + 4 * Codes::parts); }

  void place(char* memory, size_t count, size_t inputs) {
    x.inputs = inputs;
    x.groups = inputs / groupInputs;
    x.codes = reinterpret_cast<int8_t*>(memory);
    x.scales = reinterpret_cast<float*>(memory + count * inputs);
    x.sums = x.scales + count * x.groups;
    x.bias = reinterpret_cast<int32_t*>(x.sums + count * x.groups);
  }

  /// `from` has a multiple of 32 elements.
  void prepare(const float* from, size_t row) const { quantiseRow<Codes>(from, x, row); }

  template <int P, int T>
  void tile(const char* panel, size_t stride, size_t row, bool cold, float* sums) const {
    productTile<Codes, P, T>(panel, stride, x, row, cold, &upcoming, sums);
  }
};

}  // namespace
