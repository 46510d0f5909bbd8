// Products with weights stored as floats. Activations stay F32 and every output is one chain of fused
// multiply-adds in the order of inputs. Where the CPU multiplies pairs of bfloat16 (AVX-512 BF16), bf16
// weights are multiplied by activations rounded to bf16.
#pragma once

#include "linear.h"
#include "pack.h"

namespace {

#if defined(__AVX512F__)
constexpr int floatRowsAtOnce = 12, floatRowsPaired = 12;
#elif defined(__AVX2__) || defined(ROPEWAY_NEON)
constexpr int floatRowsAtOnce = 6, floatRowsPaired = 3;
#else
constexpr int floatRowsAtOnce = 2, floatRowsPaired = 2;
#endif

/// Inputs of a turn where two panels take turns: their weights lie in the first cache.
constexpr size_t turnInputs = 128;

/// Where the hardware follows a stream by itself, a line of each page is asked for so far ahead: a Zen 5 that has found those pages
/// multiplies one row a sixth to a fifth quicker, four a tenth.
#if defined(__AVX512F__) && !defined(ROPEWAY_TILES)
constexpr bool findsPages = true;
#else
constexpr bool findsPages = false;
#endif
constexpr size_t pagesAhead = 8 * pageBytes;

/// Rows whose length is a power of two would share the same sets of the cache; a line more, and they do not.
inline size_t rowStride(size_t inputs, size_t bytes) { return inputs + 64 / bytes; }

struct F32Weights {
  static constexpr int format = packedF32, step = 1;
  static Vector at(const char* step, int v, int) {
    return load(reinterpret_cast<const float*>(step) + v * lanes);
  }
};

struct F16Weights {
  static constexpr int format = packedF16, step = 1;
  static Vector at(const char* step, int v, int) {
    return loadHalf(reinterpret_cast<const Half*>(step) + v * lanes);
  }
};

/// Two inputs share a 32-bit lane: the even one becomes a float by a shift, the odd one by a mask.
struct BF16Weights {
  static constexpr int format = packedBF16, step = 2;
  static Vector at(const char* step, int v, int odd) {
    VectorInt pair = (VectorInt)load(reinterpret_cast<const float*>(step) + v * lanes);
    return (Vector)(odd ? pair & int32_t(0xffff0000) : pair << 16);
  }
};

template <class Weights>
struct FloatProduct : ByRegisters<FloatProduct<Weights>> {
  static constexpr int rows = floatRowsAtOnce, pairedRows = rows;
  static constexpr int packedFormat = Weights::format;
  static constexpr bool zipped = isZipped(packedFormat);
  float* x;  // [N][K], `stride` apart
  size_t inputs, stride;

  static size_t rowBytes(size_t inputs) { return rowStride(inputs, 4) * 4; }

  void place(char* memory, size_t, size_t width) {
    x = reinterpret_cast<float*>(memory);
    inputs = width;
    stride = rowStride(width, 4);
  }

  void prepare(const float* from, size_t row) const {
    for (size_t k = 0; k < inputs; k++) x[row * stride + k] = from[k];
  }

  /// Two panels by T rows: at once where there are registers for all sums, or else in turns, of panels that are zipped by so
  /// few inputs that their weights still are one stream.
  template <int panelCount, int T>
  void tile(const char* panels, size_t panelStride, size_t row, bool cold, float* sums) const {
    constexpr int width = panelCount * panelOutputs;
    if constexpr (T <= pairedAtOnce) stretch<panelCount, T, width>(panels, panelStride, 0, row, 0, inputs, cold, sums);
    else {
      size_t turn = zipped ? turnInputs : inputs;
      for (size_t begin = 0; begin < inputs; begin += turn)
        for (int p = 0; p < panelCount; p++)
          stretch<1, T, width>(panels, panelStride, p, row, begin, begin + turn < inputs ? begin + turn : inputs, cold, sums);
    }
  }

 private:
  /// A Zen 3 gives one row of zipped panels an eighth more where it is asked, two rows a fifth.
  static constexpr bool asksForFew = lanes == 8 && zipped;
  static constexpr int pairedAtOnce = lanes == 8 && !zipped ? 2 : floatRowsPaired;

  /// Inputs `begin` .. of P panels, from `first` of the two on, into or onto sums[t][width].
  template <int P, int T, int width>
  void stretch(const char* panels, size_t panelStride, int first, size_t row, size_t begin, size_t end, bool cold,
               float* sums) const {
    constexpr int V = P * panelVectors;
    constexpr size_t panelStep = floatStepBytes(packedFormat), bytes = zipped ? 2 * panelStep : panelStep;
    const size_t apart = zipped ? panelStep : panelStride;
    const float* from = x + row * stride;
    // Where more rows are multiplied, a core spends so long at each line that the hardware no longer follows by itself.
    const bool asks = cold && (T > (zipped ? 3 : lanes == 16 ? 6 : 2) || asksForFew);
    Vector sum[T][V];
    float* to = sums + first * panelOutputs;
    // Unrolled by word: left to itself g++ keeps the sums of four to six rows in memory, and takes twice as long.
#pragma GCC unroll 12
    for (int t = 0; t < T; t++)
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) sum[t][v] = begin == 0 ? zero() : load(to + t * width + v * lanes);
    for (size_t k = begin; k < end; k += Weights::step) {
      const char* step = panels + k / Weights::step * bytes;
      // One stream alone is asked for into the first cache: where the second was, three rows took a quarter longer.
      if (asks && !zipped && P == 1) __builtin_prefetch(step + first * apart + 4096);
      else if (asks) askBehind<P>(step, apart, first, k);
      else if (findsPages && cold && k / Weights::step * bytes % pageBytes == 0)
        for (int p = 0; p < (zipped ? 1 : P); p++) askForLine(step + (first + p) * apart + pagesAhead);
      for (int odd = 0; odd < Weights::step; odd++) {
        Vector w[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++)
          w[v] = Weights::at(step + (first + v / panelVectors) * apart, v % panelVectors, odd);
#pragma GCC unroll 12
        for (int t = 0; t < T; t++) {
          const float* a = from + t * stride + k + odd;
#pragma GCC unroll 8
          for (int v = 0; v < V; v++)
            sum[t][v] = T > 1 && (V == 1 || spreads(t)) ? fmaSpread(a, w[v], sum[t][v]) : fma(splat(*a), w[v], sum[t][v]);
        }
      }
    }
#pragma GCC unroll 12
    for (int t = 0; t < T; t++)
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) store(to + t * width + v * lanes, sum[t][v]);
  }

  /// Asks for the lines so far behind a step; zipped panels that take turns ask for half of them each.
  template <int P>
  static void askBehind(const char* step, size_t apart, int first, size_t k) {
    constexpr size_t distance = P == 1 && zipped ? turnInputs * 64 : asksForFew ? 1536 : 4096;
    if (P == 1 && packedFormat == packedF16) {
      if (k % 2 == size_t(first)) askForLine(step + distance);
    } else if (packedFormat == packedF16) askForLine(step + distance);
    else
      for (int p = 0; p < P; p++) askForLine(step + (first + p) * apart + distance);
  }
};

#if defined(__AVX512F__)

/// Pairs of bfloat16 by pairs of bfloat16, for CPUs that have the instruction.
struct PairProduct : ByRegisters<PairProduct> {
  static constexpr int rows = floatRowsAtOnce, pairedRows = rows;
  static constexpr bool zipped = true;
  static constexpr int packedFormat = packedBF16;
  Half* x;  // [N][K], `stride` apart
  size_t inputs, stride;

  static size_t rowBytes(size_t inputs) { return rowStride(inputs, 2) * 2; }

  void place(char* memory, size_t, size_t width) {
    x = reinterpret_cast<Half*>(memory);
    inputs = width;
    stride = rowStride(width, 2);
  }

  void prepare(const float* from, size_t row) const {
    roundToPairs(from, inputs, x + row * stride);
  }

  template <int P, int T>
  void tile(const char* panel, size_t, size_t row, bool cold, float* sums) const {
    Vector sum[T][P];
    const bool asks = cold && T > 8;
#pragma GCC unroll 12
    for (int t = 0; t < T; t++)
      for (int p = 0; p < P; p++) sum[t][p] = zero();
    const char* from = reinterpret_cast<const char*>(x + row * stride);
    for (size_t k = 0; k < inputs; k += 2) {
      if (asks)
        for (int p = 0; p < P; p++) askForLine(panel + k * 64 + 4096 + p * 64);
      else if (findsPages && cold && k * 64 % pageBytes == 0) askForLine(panel + k * 64 + pagesAhead);
      VectorInt w[P];
      for (int p = 0; p < P; p++) w[p] = (VectorInt)load(reinterpret_cast<const float*>(panel + k * 64 + p * 64));
#pragma GCC unroll 12
      for (int t = 0; t < T; t++) {
        const float* pair = reinterpret_cast<const float*>(from + (t * stride + k) * 2);
        for (int p = 0; p < P; p++) sum[t][p] = P == 1 || spreads(t) ? pairsSpread(pair, w[p], sum[t][p]) : pairsSplat(pair, w[p], sum[t][p]);
      }
    }
#pragma GCC unroll 12
    for (int t = 0; t < T; t++)
      for (int p = 0; p < P; p++) store(sums + (t * P + p) * 16, sum[t][p]);
  }
};

inline void linearBF16(ggml_tensor* dst, int ith, int nth, void* userdata) {
  if (multipliesPairs()) linear<PairProduct>(dst, ith, nth, userdata);
  else linear<FloatProduct<BF16Weights>>(dst, ith, nth, userdata);
}

#else

inline void linearBF16(ggml_tensor* dst, int ith, int nth, void* userdata) {
  linear<FloatProduct<BF16Weights>>(dst, ith, nth, userdata);
}

#endif

/// dst F32 [N, K] = rows of a packed weight. Sources: ids I32 [N], packed weight. Params: packed format. An id behind
/// the weight's last panel has no row, and ggml would end the process, too.
inline void embed(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const int32_t* ids = static_cast<const int32_t*>(dst->src[0]->data);
  int format = call->params[0];
  size_t width = dst->ne[0], padded = wholeGroups(width);
  for (int64_t row; (row = takePiece(call)) < dst->ne[1];) {
    size_t of = size_t(ids[row] / panelOutputs);
    if (ids[row] < 0 || packedBytes(format, of + 1, padded) > dst->src[1]->nb[3]) __builtin_trap();
    const char* panel = static_cast<const char*>(dst->src[1]->data) + panelAt(format, of, padded);
    float* to = static_cast<float*>(dst->data) + row * width;
    for (size_t k = 0; k < width; k++) to[k] = packedNumber(format, panel, k, ids[row] % panelOutputs);
  }
  leave(call, nth);
}

}  // namespace
