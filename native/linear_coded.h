// Products with weights stored as codes. Activations become int8 codes with a scale per row and block of 256 inputs, or of
// 128 where groups of weights have scales of their own, never per batch; sums of a group are exact, and scales are applied
// in the order of groups.
#pragma once

#include "codes.h"
#include "linear.h"

namespace {

#if defined(__AVX512VNNI__)
constexpr int rowsAtOnce = 6, rowsPaired = 6;
#elif defined(__AVXVNNI__)
constexpr int rowsAtOnce = 6, rowsPaired = 0;
#elif defined(__AVX2__)
constexpr int rowsAtOnce = 4, rowsPaired = 0;
#elif defined(ROPEWAY_NEON)
constexpr int rowsAtOnce = 4, rowsPaired = 0;
#elif defined(__SSE2__)
constexpr int rowsAtOnce = 2, rowsPaired = 0;
#else
constexpr int rowsAtOnce = 1, rowsPaired = 0;
#endif

/// Sums of a block are multiplied by the activations' scale once. Narrow registers are too few for sums of their own: there
/// each group is multiplied by both scales.
constexpr bool blockSums = lanes == 16;

/// Rows of activations as int8 codes; `bias` is what biased weight codes add to the sum of a part of a group. What there
/// is per group lies by rows, so that a tile reads it from few lines.
struct QuantisedRows {
  int8_t* codes;   // [N][K]
  float* scales;   // [blocks of K][N]
  float* sums;     // [K/32][N] sum of codes, times their scale without block sums
  int32_t* bias;   // [K/32][parts][N] -bias of the weights' codes * sum of codes; of a block in its first group where groups share
  size_t inputs, groups, rows;

  /// `g` is any group of a block.
  template <class Codes>
  float* scale(size_t g, size_t row) const {
    return scales + g / activationGroups<Codes> * rows + row;
  }
  float* sum(size_t g, size_t row) const { return sums + g * rows + row; }
  template <class Codes>
  int32_t* biasOf(size_t g, int part, size_t row) const {
    return bias + (g * Codes::parts + part) * rows + row;
  }
};

/// The sums of four vectors of integers.
inline void sumFour(const VectorInt* values, int32_t* sums) {
#if defined(__AVX512F__)
  auto pair = [](__m512i a, __m512i b) { return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)); };
  __m512i low = pair((__m512i)values[0], (__m512i)values[1]), high = pair((__m512i)values[2], (__m512i)values[3]);
  __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
  __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(sums),
                   _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
#else
  for (int i = 0; i < 4; i++) sums[i] = sumLanes(values[i]);
#endif
}

/// Blocks whose maxima are found before any of them becomes codes: a division waits for its block only.
constexpr size_t blocksAtOnce = 8;

/// Asks for half of the lines that are `ahead` of these inputs, every second from the first or the second on. Another op
/// wrote them, on another core perhaps: they lie in the last cache. Both passes ask, so that the memory never rests.
inline void askForInputs(const float* x, size_t count, size_t second) {
  constexpr size_t ahead = 2048;
  for (size_t i = second * 16; i < count; i += 32) askForLine(x + ahead + i);
}

/// The largest magnitude of whole pairs of vectors, as bits: what is no number is above all.
inline int32_t highestOf(const float* from, size_t count) {
  VectorInt highest[2] = {};
  for (size_t i = 0; i < count; i += 2 * lanes)
    for (int v = 0; v < 2; v++) highest[v] = maximum(magnitudeBits(load(from + i + v * lanes)), highest[v]);
  return maximumLane(maximum(highest[0], highest[1]));
}

/// Scales of blocks from their largest magnitudes, and by what numbers are multiplied to become codes: zero where the inverse of a
/// smaller one might be infinite.
inline Vector scalesOfHighest(VectorInt most, float* inverse) {
  const Vector scale = (Vector)most / splat(127.0f);
  store(inverse, scale >= splat(0x1p-126f) ? splat(1.0f) / scale : zero());
  return scale;
}

/// Scales of up to `blocksAtOnce` blocks of a row, and by what their activations are multiplied to become codes. A block
/// with a NaN has that for its scale, so that its products are none.
template <class Codes>
inline void scalesOf(const float* x, QuantisedRows rows, size_t row, size_t first, size_t groups, float* inverse) {
  constexpr int vectors = int(blocksAtOnce) > lanes ? int(blocksAtOnce) / lanes : 1;
  // Kept in registers: a vector that is read behind stores of its numbers waits until all of them are in the cache.
  VectorInt most[vectors] = {}, numbers = {};
  for (int i = 0; i < lanes; i++) numbers[i] = i;
  alignas(64) float scales[16];
  constexpr size_t together = activationGroups<Codes>;
  for (size_t g = 0; g < groups; g += together) {
    const float* from = x + (first + g) * groupInputs;
    size_t end = (groups - g < together ? groups - g : together) * groupInputs;
    askForInputs(from, end, 0);
    const int32_t highest = highestOf(from, end), block = int32_t(g / together);
    for (int v = 0; v < vectors; v++) most[v] = numbers + v * lanes == block ? VectorInt{} + highest : most[v];
  }
  for (size_t b = 0; b < blocksAtOnce; b += lanes) store(scales + b, scalesOfHighest(most[b / lanes], inverse + b));
  for (size_t g = 0; g < groups; g += together) *rows.scale<Codes>(first + g, row) = scales[g / together];
}

#if defined(__AVX512VNNI__)

/// Codes of 64 inputs, four vectors by one store.
inline VectorInt codesOfFour(const float* x, Vector factor, int8_t* codes, VectorInt sum) {
  __m512i four[4];
#pragma GCC unroll 4
  for (int v = 0; v < 4; v++) four[v] = (__m512i)toNearest(load(x + v * lanes) * factor);
  const __m512i mixed = _mm512_packs_epi16(_mm512_packs_epi32(four[0], four[1]), _mm512_packs_epi32(four[2], four[3]));
  const __m512i places = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes = _mm512_permutexvar_epi32(places, mixed);
  __builtin_memcpy(codes, &bytes, sizeof bytes);
  return (VectorInt)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi8(1), bytes);
}

#endif

/// Codes of whole parts, and all[part] whose lanes add up to the sum of a part's codes; where parts are `one`, all[0] of all.
template <int partInputs, bool one = false>
inline void codesOf(const float* x, Vector factor, size_t parts, int8_t* codes, VectorInt* all) {
#if defined(__AVX512VNNI__)
  if constexpr (one && partInputs == 32) {
    for (; parts >= 2; parts -= 2, x += 64, codes += 64) all[0] = codesOfFour(x, factor, codes, all[0]);
    if (parts == 0) return;
    all++;
  }
#endif
  for (size_t part = 0; part < parts; part++) {
    VectorInt sum = {};
#pragma GCC unroll 8
    for (int i = 0; i < partInputs; i += lanes) {
      VectorInt rounded = toNearest(load(x + part * partInputs + i) * factor);
      LaneCodes narrow = __builtin_convertvector(rounded, LaneCodes);
      __builtin_memcpy(codes + part * partInputs + i, &narrow, sizeof narrow);
      sum += rounded;
    }
    all[part] = sum;
  }
}

template <class Codes>
inline void quantiseRow(const float* x, QuantisedRows rows, size_t row) {
  constexpr size_t together = activationGroups<Codes>;
  constexpr int partInputs = groupInputs / Codes::parts, blockParts = int(together) * Codes::parts;
  for (size_t first = 0; first < rows.groups; first += blocksAtOnce * together) {
    size_t left = rows.groups - first, groups = left < blocksAtOnce * together ? left : blocksAtOnce * together;
    alignas(64) float inverse[16];
    scalesOf<Codes>(x, rows, row, first, groups, inverse);
    for (size_t block = 0; block < groups; block += together) {
      VectorInt all[blockParts] = {};
      size_t parts = (groups - block < together ? groups - block : together) * Codes::parts;
      size_t begin = (first + block) * groupInputs;
      int8_t* codes = rows.codes + row * rows.inputs + begin;
      askForInputs(x + begin, parts * partInputs, 1);
      // Zeros, or what is no number: then the scale says so, and codes of it would be any.
      if (float factor = inverse[block / together]; factor != 0) codesOf<partInputs, Codes::share>(x + begin, splat(factor), parts, codes, all);
      else __builtin_memset(codes, 0, parts * partInputs);
      if (!Codes::offset && Codes::bias == 0) continue;
      if constexpr (Codes::share) {
        for (int part = 1; part < blockParts; part++) all[0] += all[part];
        *rows.biasOf<Codes>(first + block, 0, row) = -int32_t(Codes::bias) * sumLanes(all[0]);
        continue;
      }
      alignas(16) int32_t sums[blockParts];
      for (int part = 0; part < blockParts; part += 4) sumFour(all + part, sums + part);
      for (size_t at = 0; at < parts; at++) {
        size_t g = first + block + at / Codes::parts;
        if (Codes::offset) *rows.sum(g, row) = blockSums ? float(sums[at]) : *rows.scale<Codes>(g, row) * float(sums[at]);
        if (Codes::bias) *rows.biasOf<Codes>(g, int(at % Codes::parts), row) = -int32_t(Codes::bias) * sums[at];
      }
    }
  }
}

/// Where products and their sums are instructions of their own, g++ else makes all products of a group first and keeps
/// them in memory until they are added up.
template <class Sums>
inline void keepOrder(Sums& sums) {
#if defined(__SSE2__) && !defined(ROPEWAY_SUMS_OF_BYTES)
  asm("" : "+x"(sums));
#else
  (void)sums;
#endif
}

#if defined(__AVX2__) && !defined(ROPEWAY_SUMS_OF_BYTES)

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
        keepOrder(pairs[t][v]);
      }
    }
    dotNarrow<Codes, P, T, j + 1, left - 1, false>(group, codes, inputs, pairs);
  }
}

/// sums += products of one row's four activations at `from` and of two vectors of signed codes, whose magnitudes are given. In
/// this order fifteen registers do for four rows; where g++ chooses it, sums go through memory in between, which takes 3 % longer
/// and beside a busy neighbour on the same core 10 to 20 %.
inline void addSigned(VectorInt* sums, const int8_t* from, const Bytes* codes, const __m256i* magnitudes, __m256i ones) {
  __m256i first, second;
  asm("vpbroadcastd %[from], %[first]\n\t"
      "vpsignb %[codes1], %[first], %[second]\n\t"
      "vpsignb %[codes0], %[first], %[first]\n\t"
      "vpmaddubsw %[second], %[magnitudes1], %[second]\n\t"
      "vpmaddubsw %[first], %[magnitudes0], %[first]\n\t"
      "vpmaddwd %[ones], %[second], %[second]\n\t"
      "vpmaddwd %[ones], %[first], %[first]\n\t"
      "vpaddd %[second], %[sums1], %[sums1]\n\t"
      "vpaddd %[first], %[sums0], %[sums0]"
      : [sums0] "+x"(sums[0]), [sums1] "+x"(sums[1]), [first] "=&x"(first), [second] "=&x"(second)
      : [from] "m"(*reinterpret_cast<const int32_t*>(from)), [codes0] "x"(codes[0]), [codes1] "x"(codes[1]),
        [magnitudes0] "x"(magnitudes[0]), [magnitudes1] "x"(magnitudes[1]), [ones] "x"(ones));
}

/// A whole group of signed codes for several rows: magnitudes are made once for all of them.
template <class Codes, int T, int j = 0>
__attribute__((always_inline)) inline void dotSignedGroup(const char* group, const int8_t* codes, size_t inputs, __m256i ones,
                                                          VectorInt (*dot)[panelVectors]) {
  static_assert(panelVectors == 2);
  if constexpr (j < 8) {
    const Bytes w[2] = {Codes::template at<j>(group, 0), Codes::template at<j>(group, 1)};
    const __m256i magnitudes[2] = {_mm256_abs_epi8((__m256i)w[0]), _mm256_abs_epi8((__m256i)w[1])};
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) addSigned(dot[t], codes + t * inputs + j * 4, w, magnitudes, ones);
    dotSignedGroup<Codes, T, j + 1>(group, codes, inputs, ones, dot);
  }
}

/// The codes of one group as integers: dot[t][v] over its `part`, for T rows and the vectors of P panels. Inlined by
/// force, as is what calls it: g++ made calls of it for four bits, all sums went through memory, and it took twice as long.
template <class Codes, int P, int T, int part, int j = 0>
__attribute__((always_inline)) inline void dotGroup(const char* const* group, const int8_t* codes, size_t inputs,
                                                    VectorInt (*dot)[P * panelVectors]) {
  constexpr int V = P * panelVectors, steps = 8 / Codes::parts;
  if constexpr (Codes::negative && P == 1 && T > 1) dotSignedGroup<Codes, T>(group[0], codes, inputs, _mm256_set1_epi16(1), dot);
  else if constexpr (j < steps) {
    constexpr int narrow = stepsNarrow<Codes> < steps - j ? stepsNarrow<Codes> : steps - j;
    __m256i pairs[T][V];
    dotNarrow<Codes, P, T, part * steps + j, narrow>(group, codes, inputs, pairs);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) {
        dot[t][v] += (VectorInt)_mm256_madd_epi16(pairs[t][v], _mm256_set1_epi16(1));
        keepOrder(dot[t][v]);
      }
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
      for (int v = 0; v < V; v++) {
        dot[t][v] = dotBytes<Codes::negative>(dot[t][v], w[v], a);
        keepOrder(dot[t][v]);
      }
    }
    dotGroup<Codes, P, T, part, j + 1>(group, codes, inputs, dot);
  }
}

#endif

/// One part of group g for T rows: its sums of codes, scaled as the weights are, into `sum`.
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
        dot[t][v] = Codes::bias == 0 ? VectorInt{} : x.biasOf<Codes>(g, part, row)[t] - VectorInt{};
    dotGroup<Codes, P, T, part>(group, x.codes + row * x.inputs + g * groupInputs, x.inputs, dot);
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      const char* from = panel + v / panelVectors * stride;
      Vector scale = Codes::scale(from, g, part, v % panelVectors);
      Vector shift = Codes::offset ? Codes::shift(from, g, v % panelVectors) : scale;
#pragma GCC unroll 8
      for (int t = 0; t < T; t++) {
        Vector factor = blockSums ? scale : scale * splat(x.scale<Codes>(g, row)[t]);
        sum[t][v] = fma(__builtin_convertvector(dot[t][v], Vector), factor, sum[t][v]);
        if (Codes::offset) sum[t][v] = fma(shift, splat(x.sum(g, row)[t]), sum[t][v]);
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

/// Weights that a thread multiplies next, asked for evenly while it computes: otherwise only the first rows of each pair
/// of panels would wait for memory, and the memory for the others.
struct Upcoming {
  const char *from = nullptr, *end = nullptr;
  size_t step = 0;  // bytes a group, whole lines; 0 when nothing is left to ask for

  void begin(const char* weights, size_t bytes, size_t groups) {
    from = weights;
    end = weights + bytes;
    step = (bytes / groups + 63) / 64 * 64;
#if !defined(ROPEWAY_TILES)
    // A Zen 5 computes 4 to 16 rows of a model a tenth to a fifth quicker for it, an Intel with AMX no quicker.
    findPages(from, bytes);
#endif
  }
  bool any() const { return step > 0; }
  /// At most a line a group: the lines of a block may be asked for at once. More than the memory's queue takes are dropped.
  bool sparse() const { return step <= 64; }
  void ask() {
    for (size_t at = 0; at < step; at += 64) askForLine(from + at);
    from += step;
    if (from >= end) step = 0;
  }
};

/// Where one row's weights go on behind the two panels that are read.
struct Stream {
  const char *end = nullptr, *follows = nullptr;  // null: right behind

  /// Asks for the lines so far behind those of group g. Where the hardware follows a stream by itself, also for one line of each
  /// page farther behind: a Zen 5 that has found those pages reads a sixth quicker, but slower where lines come by asking.
  template <class Codes>
  void ask(const char* panel, size_t g) const {
    constexpr size_t distance = lanes == 16 ? Codes::streamAhead : 2048, bytes = Codes::groupBytes;
#if !defined(ROPEWAY_TILES)
    constexpr size_t pagesAhead = 8;
    if (lanes == 16 && distance < pageBytes && g * bytes % pageBytes < bytes) askForLine(panel + g * bytes + pagesAhead * pageBytes);
#endif
    for (size_t line = g * bytes / 64; line < (g + 1) * bytes / 64; line++) {
      const char* at = panel + line * 64 + distance;
      askForLine(follows && at >= end ? follows + (at - end) : at);
    }
  }
};

/// What is asked for beside group g, whose codes lie at `group`.
template <class Codes, int P, int T>
__attribute__((always_inline)) inline void askBeside(const char* const* group, const char* panel, size_t stride, size_t g,
                                                     bool cold, const Stream* stream, Upcoming* upcoming) {
  if constexpr (lanes == 16 && Codes::stream && P == 1) {
    if (stream) stream->ask<Codes>(panel, g);
  } else if constexpr (lanes == 16) {
    if (P < 4 && (cold || (T <= 2 && Codes::askedTwice))) askAhead<Codes, P>(group, panel, stride);
  } else if constexpr (lanes == 8 && Codes::stream && T <= 2) {
    // A single stream, which the hardware follows by itself; a Zen 3 gives a tenth (q8) to two fifths more where it is asked.
    if (cold) Stream{}.ask<Codes>(panel, g);
  }
  if constexpr (lanes == 16)
    if (upcoming->any()) upcoming->ask();
}

/// sums[t][p * 16 + o] for P panels and T rows. A function of its own: within its caller g++ runs out of registers, and six
/// rows take a quarter longer.
template <class Codes, int P, int T>
__attribute__((noinline)) inline void productTile(const char* panel, size_t stride, const QuantisedRows& x, size_t row,
                                                  bool cold, const Stream* stream, Upcoming* upcoming, float* sums) {
  constexpr int V = P * panelVectors;
  Vector sum[T][V];
#pragma GCC unroll 8
  for (int t = 0; t < T; t++)
    for (int v = 0; v < V; v++) sum[t][v] = zero();
  auto addGroup = [&](size_t g, Vector (*to)[V]) __attribute__((always_inline)) {
    const char* group[P];
    for (int p = 0; p < P; p++) group[p] = Codes::group(panel + p * stride, g);
    askBeside<Codes, P, T>(group, panel, stride, g, cold, stream, upcoming);
    productGroup<Codes, P, T>(panel, stride, x, row, g, group, to);
  };
  if constexpr (!blockSums)
    for (size_t g = 0; g < x.groups; g++) addGroup(g, sum);
  else
    for (size_t first = 0; first < x.groups; first += activationGroups<Codes>) {
      Vector block[T][V];
#pragma GCC unroll 8
      for (int t = 0; t < T; t++)
        for (int v = 0; v < V; v++) block[t][v] = zero();
      size_t end = first + activationGroups<Codes> < x.groups ? first + activationGroups<Codes> : x.groups;
      for (size_t g = first; g < end; g++) addGroup(g, block);
#pragma GCC unroll 8
      for (int t = 0; t < T; t++)
        for (int v = 0; v < V; v++) sum[t][v] = fma(block[t][v], splat(x.scale<Codes>(first, row)[t]), sum[t][v]);
    }
#pragma GCC unroll 8
  for (int t = 0; t < T; t++)
    for (int v = 0; v < V; v++) store(sums + (t * V + v) * lanes, sum[t][v]);
}

/// The same where groups share their scales: a block's sums of codes are exact, and become numbers once.
template <class Codes, int P, int T>
__attribute__((noinline)) inline void sharedTile(const char* panel, size_t stride, const QuantisedRows& x, size_t row,
                                                 bool cold, const Stream* stream, Upcoming* upcoming, float* sums) {
  constexpr int V = P * panelVectors;
  // A block of a whole tile is one stretch of code; with what it asks for between its groups it takes a twentieth longer.
  const bool stretch = lanes == 16 && T == rowsAtOnce && !cold && upcoming->sparse();
  Vector sum[T][V];
#pragma GCC unroll 8
  for (int t = 0; t < T; t++)
    for (int v = 0; v < V; v++) sum[t][v] = zero();
  for (size_t first = 0; first < x.groups; first += scaleGroups) {
    size_t groups = x.groups - first < scaleGroups ? x.groups - first : scaleGroups;
    const char* block[P];
    for (int p = 0; p < P; p++) block[p] = Codes::group(panel + p * stride, first);
    const int8_t* codes = x.codes + row * x.inputs + first * groupInputs;
    Vector scales[V];
    for (int v = 0; v < V; v++) {
      scales[v] = Codes::scale(panel + v / panelVectors * stride, first, 0, v % panelVectors);
      // Read before the codes, as they lie: the hardware follows one row's stream only in order (0.7 of the pace).
      if (T == 1) keepHere(scales[v]);
    }
    VectorInt dot[T][V];
#pragma GCC unroll 8
    for (int t = 0; t < T; t++)
      for (int v = 0; v < V; v++) dot[t][v] = Codes::bias == 0 ? VectorInt{} : x.biasOf<Codes>(first, 0, row)[t] - VectorInt{};
    auto addGroup = [&](size_t g, bool asks) __attribute__((always_inline)) {
      const char* group[P];
      for (int p = 0; p < P; p++) group[p] = block[p] + g * Codes::bytes;
      if (asks) askBeside<Codes, P, T>(group, panel, stride, first + g, cold, stream, upcoming);
      dotGroup<Codes, P, T, 0>(group, codes + g * groupInputs, x.inputs, dot);
    };
    if (stretch && groups == scaleGroups) {
      if (upcoming->any())
        for (size_t g = 0; g < scaleGroups; g++) upcoming->ask();
      for (size_t half = 0; half < scaleGroups; half += 4)
#pragma GCC unroll 4
        for (size_t g = 0; g < 4; g++) addGroup(half + g, false);
    } else
      for (size_t g = 0; g < groups; g++) addGroup(g, true);
#pragma GCC unroll 4
    for (int v = 0; v < V; v++)
#pragma GCC unroll 8
      for (int t = 0; t < T; t++)
        sum[t][v] = fma(__builtin_convertvector(dot[t][v], Vector), scales[v] * splat(x.scale<Codes>(first, row)[t]), sum[t][v]);
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; t++)
    for (int v = 0; v < V; v++) store(sums + (t * V + v) * lanes, sum[t][v]);
}

/// Its sibling for floats is FloatProduct in linear_float.h.
template <class Codes>
struct CodedProduct : ByRegisters<CodedProduct<Codes>> {
  static constexpr int rows = rowsAtOnce, pairedRows = rowsPaired;
  static constexpr int packedFormat = Codes::format;
  static constexpr bool compact = true, asksAhead = lanes == 16;
#if defined(ROPEWAY_TILES)
  /// One row goes by four panels at once (measured on Intel's only).
  static constexpr bool fours = Codes::share;
#endif
  QuantisedRows x;
  mutable Upcoming upcoming;
  mutable Stream stream;

  /// `weights` come up behind the tiles of `count` rows; where there is one, its stream goes on there.
  void comingUp(const char* weights, size_t bytes, size_t count) const {
    if (Codes::stream && count == 1 && x.rows <= size_t(rows)) stream.follows = weights;
    else upcoming.begin(weights, bytes, (count + rows - 1) / rows * x.groups);
  }

  static size_t blocks(size_t inputs) { return (inputs / groupInputs + activationGroups<Codes> - 1) / activationGroups<Codes>; }
  static size_t rowBytes(size_t inputs) {
    return inputs + blocks(inputs) * 4 + inputs / groupInputs * (4 + 4 * Codes::parts);
  }

  void place(char* memory, size_t count, size_t inputs) {
    x.inputs = inputs;
    x.groups = inputs / groupInputs;
    x.rows = count;
    x.codes = reinterpret_cast<int8_t*>(memory);
    x.scales = reinterpret_cast<float*>(memory + count * inputs);
    x.sums = x.scales + count * blocks(inputs);
    x.bias = reinterpret_cast<int32_t*>(x.sums + count * x.groups);
  }

  /// `from` has a multiple of 32 elements.
  void prepare(const float* from, size_t row) const { quantiseRow<Codes>(from, x, row); }
  RowCodes codes(size_t row) const { return {x.codes + row * x.inputs, x.scale<Codes>(0, row), x.inputs, x.rows, activationGroups<Codes>}; }

  template <int P, int T>
  void tile(const char* panel, size_t stride, size_t row, bool cold, float* sums) const {
    if constexpr (lanes == 16 && Codes::stream && P == 2 && T == 1) {
      stream.end = panel + 2 * stride;
      for (int p = 0; p < 2; p++) byOne<1, 1>(panel + p * stride, stride, row, cold, &stream, sums + p * panelOutputs);
      stream.follows = nullptr;
    } else byOne<P, T>(panel, stride, row, cold, nullptr, sums);
  }

 private:
  template <int P, int T>
  void byOne(const char* panel, size_t stride, size_t row, bool cold, const Stream* asks, float* sums) const {
    if constexpr (Codes::share) sharedTile<Codes, P, T>(panel, stride, x, row, cold, asks, &upcoming, sums);
    else productTile<Codes, P, T>(panel, stride, x, row, cold, asks, &upcoming, sums);
  }
};

}  // namespace
