// Products with weights stored as floats. Activations stay F32 and every output is one chain of fused
// multiply-adds in the order of inputs. Where the CPU multiplies pairs of bfloat16 (AVX-512 BF16), bf16
// weights are multiplied by activations rounded to bf16.
#pragma once

#include "linear.h"
#include "pack.h"

namespace {

#if defined(__AVX512F__)
constexpr int floatRowsAtOnce = 12, floatPanelsAtOnce = 2;
constexpr size_t pageBytes = 4096;
#elif defined(__AVX2__) || defined(ROPEWAY_NEON)
constexpr int floatRowsAtOnce = 6, floatPanelsAtOnce = 1;
#else
constexpr int floatRowsAtOnce = 2, floatPanelsAtOnce = 1;
#endif

/// Rows whose length is a power of two would share the same sets of the cache; a line more, and they do not.
inline size_t rowStride(size_t inputs, size_t bytes) { return inputs + 64 / bytes; }

struct F32Weights {
  static constexpr int format = packedF32, inputBytes = 64, step = 1;
  static Vector at(const char* panel, size_t k, int v, int) {
    return load(reinterpret_cast<const float*>(panel) + k * panelOutputs + v * lanes);
  }
};

struct F16Weights {
  static constexpr int format = packedF16, inputBytes = 32, step = 1;
  static Vector at(const char* panel, size_t k, int v, int) {
    return loadHalf(reinterpret_cast<const Half*>(panel) + k * panelOutputs + v * lanes);
  }
};

/// Two inputs share a 32-bit lane: the even one becomes a float by a shift, the odd one by a mask.
struct BF16Weights {
  static constexpr int format = packedBF16, inputBytes = 32, step = 2;
  static Vector at(const char* panel, size_t k, int v, int odd) {
    VectorInt pair = (VectorInt)load(reinterpret_cast<const float*>(panel) + k / 2 * panelOutputs + v * lanes);
    return (Vector)(odd ? pair & int32_t(0xffff0000) : pair << 16);
  }
};

template <class Weights>
struct FloatProduct : ByRegisters<FloatProduct<Weights>> {
  // One or two rows read several panels at once where they would else wait for one (lanes of AVX2 and NEON).
  static constexpr int rows = floatRowsAtOnce, panels = floatPanelsAtOnce, fewRows = panels == 1 ? 2 : 0;
  static constexpr int packedFormat = Weights::format;
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

  void quad(const char* panel, size_t panelStride, size_t row, int count, float* sums) const {
    if (count == 1) return tile<4, 1>(panel, panelStride, row, true, sums);
    for (int pair = 0; pair < 2; pair++)
      tile<2, 2>(panel + pair * 2 * panelStride, panelStride, row, true, sums + pair * 4 * panelOutputs);
  }

  template <int P, int T>
  void tile(const char* panel, size_t panelStride, size_t row, bool cold, float* sums) const {
    Vector sum[T][P * panelVectors];
    // Few rows wait for their one stream of weights.
    const bool asks = lanes == 8 && P == 1 && T <= 4 && cold;
    // Unrolled by word: left to itself g++ keeps the sums of four to six rows in memory, and takes twice as long.
#pragma GCC unroll 12
    for (int t = 0; t < T; t++)
#pragma GCC unroll 8
      for (int v = 0; v < P * panelVectors; v++) sum[t][v] = zero();
    const float* from = x + row * stride;
    for (size_t k = 0; k < inputs; k += Weights::step) {
      if (asks) __builtin_prefetch(panel + k * Weights::inputBytes + 4096);
      for (int odd = 0; odd < Weights::step; odd++) {
        Vector w[P * panelVectors];
#pragma GCC unroll 8
        for (int v = 0; v < P * panelVectors; v++)
          w[v] = Weights::at(panel + v / panelVectors * panelStride, k, v % panelVectors, odd);
#pragma GCC unroll 12
        for (int t = 0; t < T; t++) {
          const float* a = from + t * stride + k + odd;
#pragma GCC unroll 8
          for (int v = 0; v < P * panelVectors; v++)
            sum[t][v] = T > 1 ? fmaSpread(a, w[v], sum[t][v]) : fma(splat(*a), w[v], sum[t][v]);
        }
      }
    }
#pragma GCC unroll 12
    for (int t = 0; t < T; t++)
#pragma GCC unroll 8
      for (int v = 0; v < P * panelVectors; v++) store(sums + t * P * panelOutputs + v * lanes, sum[t][v]);
  }
};

#if defined(__AVX512F__)

/// Pairs of bfloat16 by pairs of bfloat16, for CPUs that have the instruction.
struct PairProduct : ByRegisters<PairProduct> {
  static constexpr int rows = floatRowsAtOnce, panels = 2, fewRows = 4;
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
  void tile(const char* panel, size_t panelStride, size_t row, bool cold, float* sums) const {
    Vector sum[T][P];
#pragma GCC unroll 12
    for (int t = 0; t < T; t++)
      for (int p = 0; p < P; p++) sum[t][p] = zero();
    const char* from = reinterpret_cast<const char*>(x + row * stride);
    for (size_t k = 0; k < inputs; k += 2) {
      VectorInt w[P];
      for (int p = 0; p < P; p++) {
        const char* at = panel + p * panelStride + k * 32;
        // The hardware's own prefetch stops at page borders; it does better than we do on the lines behind them.
        if (cold && k % (pageBytes / 32) == 0) _mm_prefetch(at + pageBytes, _MM_HINT_T0);
        w[p] = (VectorInt)load(reinterpret_cast<const float*>(at));
      }
#pragma GCC unroll 12
      for (int t = 0; t < T; t++) {
        const float* pair = reinterpret_cast<const float*>(from + (t * stride + k) * 2);
        for (int p = 0; p < P; p++) sum[t][p] = pairsSpread(pair, w[p], sum[t][p]);
      }
    }
    constexpr int width = P == 1 ? 1 : 2;
#pragma GCC unroll 12
    for (int t = 0; t < T; t++)
      for (int p = 0; p < P; p++) store(sums + ((p / width * T + t) * width + p % width) * 16, sum[t][p]);
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
    size_t behind = size_t(ids[row] / panelOutputs + 1) * panelBytes(format, padded);
    if (ids[row] < 0 || behind > dst->src[1]->nb[3]) __builtin_trap();
    const char* panel = static_cast<const char*>(dst->src[1]->data) + behind - panelBytes(format, padded);
    float* to = static_cast<float*>(dst->data) + row * width;
    for (size_t k = 0; k < width; k++) to[k] = packedNumber(format, panel, k, ids[row] % panelOutputs);
  }
  leave(call, nth);
}

}  // namespace
