// Factors of adapters as numbers, floats or bfloat16: rows lowered by A, and panels raised by B. Codes: adapter_coded.h.
#pragma once

#include "adapter_coded.h"

namespace {

/// Rows whose sums stay in registers while one panel of B goes by.
constexpr int adapterRows = lanes == 16 ? 8 : lanes == 8 ? 6 : 2;
/// Neighbouring rows that are lowered before others are prepared.
constexpr size_t loweredTogether = 8;
/// Steps of A, a line each or half of one, that stay in the first cache while so many rows go by.
constexpr size_t loweredSteps = 128;

/// Factor k of a panel's lanes; of a pair in 32 bits the even one becomes a float by a shift, the odd one by a mask.
template <bool bf16>
inline Vector factorsAt(const char* from, size_t k, int v) {
  if (!bf16) return load(reinterpret_cast<const float*>(from) + k * panelOutputs + v * lanes);
  VectorInt pair = (VectorInt)load(reinterpret_cast<const float*>(from) + k / 2 * panelOutputs + v * lanes);
  return (Vector)(k % 2 ? pair & int32_t(0xffff0000) : pair << 16);
}

/// A as numbers, a step an input.
template <bool bf16>
struct NumbersOfA {
  static constexpr size_t chains = 4, inputs = 1, bytes = bf16 ? 32 : 64;  // of a step
  static Vector at(const char* a, size_t k, int v) { return factorsAt<bf16>(a, k, v); }
  static Vector add(const float* x, Vector w, Vector sum) { return fmaSpread(x, w, sum); }
  static Vector join(const Vector (*sum)[panelVectors], int v) { return (sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v]); }
};

#if defined(__AVX512F__)

/// A as pairs of bfloat16, a step a pair of inputs: in eight chains, which is what their product takes to keep its pipe full.
struct PairsOfA {
  static constexpr size_t chains = 8, inputs = 2, bytes = 64;
  static Vector at(const char* a, size_t k, int) { return load(reinterpret_cast<const float*>(a) + k * 16); }
  static Vector add(const float* x, Vector w, Vector sum) { return pairsSpread(x, (VectorInt)w, sum); }
  static Vector join(const Vector (*sum)[1], int) {
    return ((sum[0][0] + sum[4][0]) + (sum[2][0] + sum[6][0])) + ((sum[1][0] + sum[5][0]) + (sum[3][0] + sum[7][0]));
  }
};

#endif

/// Adds steps `begin` .. to chains `first` .. of T rows; step k is in chain k modulo their number.
template <class A, int T, int C>
inline void lowerStretch(const char* a, const float* const* x, size_t begin, size_t end, size_t first,
                         Vector (*sums)[A::chains][panelVectors]) {
  Vector sum[T][C][panelVectors];
#pragma GCC unroll 8
  for (int t = 0; t < T; t++)
#pragma GCC unroll 8
    for (int c = 0; c < C; c++)
#pragma GCC unroll 4
      for (int v = 0; v < panelVectors; v++) sum[t][c][v] = sums[t][first + c][v];
  size_t k = begin + first;
  for (; k + C <= end; k += A::chains)
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
      Vector w[panelVectors];
#pragma GCC unroll 4
      for (int v = 0; v < panelVectors; v++) w[v] = A::at(a, k + c, v);
#pragma GCC unroll 8
      for (int t = 0; t < T; t++)
#pragma GCC unroll 4
        for (int v = 0; v < panelVectors; v++) sum[t][c][v] = A::add(x[t] + k + c, w[v], sum[t][c][v]);
    }
#pragma GCC unroll 8
  for (int t = 0; t < T; t++)
#pragma GCC unroll 8
    for (int c = 0; c < C; c++)
#pragma GCC unroll 4
      for (int v = 0; v < panelVectors; v++) {
        if (k + c < end) sum[t][c][v] = A::add(x[t] + k + c, A::at(a, k + c, v), sum[t][c][v]);
        sums[t][first + c][v] = sum[t][c][v];
      }
}

/// Rows whose chains are in registers together, so many of their chains at once.
constexpr int chainedRows = lanes == 16 ? 8 : lanes == 8 ? 4 : 2, chainsAtOnce = lanes == 16 ? 2 : 1;

/// to[t][r] = sum over steps k of x[t][k] A[k][r] for up to `loweredTogether` rows, in chains that are joined in one order. A
/// stretch of A goes by all rows from the first cache.
template <class A>
inline void lowerRows(const char* a, size_t steps, size_t ranks, const float* const* x, int count, float* to, size_t stride) {
  for (size_t first = 0; first < ranks; first += 16, to += 16) {
    Vector sums[loweredTogether][A::chains][panelVectors];
    for (int t = 0; t < count; t++)
      for (size_t c = 0; c < A::chains; c++)
        for (int v = 0; v < panelVectors; v++) sums[t][c][v] = zero();
    for (size_t begin = 0; begin < steps; begin += loweredSteps) {
      size_t end = begin + loweredSteps < steps ? begin + loweredSteps : steps;
      int t = 0;
      for (; t + chainedRows <= count; t += chainedRows)
        for (size_t c = 0; c < A::chains; c += chainsAtOnce)
          lowerStretch<A, chainedRows, chainsAtOnce>(a, x + t, begin, end, c, sums + t);
      for (; t < count; t++) lowerStretch<A, 1, A::chains>(a, x + t, begin, end, 0, sums + t);
    }
    for (int t = 0; t < count; t++)
      for (int v = 0; v < panelVectors; v++) store(to + t * stride + v * lanes, A::join(sums[t], v));
    a += steps * A::bytes;
  }
}

/// sums[t] = sum over r of lowered[t][r] B[r] for T rows and one panel, in the order of r.
template <bool bf16, int T>
__attribute__((noinline)) inline void raiseRows(const char* b, int rank, const float* lowered, size_t stride, float* sums,
                                                size_t sumsStride) {
  Vector sum[T][panelVectors];
#pragma GCC unroll 8
  for (int t = 0; t < T; t++)
    for (int v = 0; v < panelVectors; v++) sum[t][v] = zero();
  for (int r = 0; r < rank; r += 2)
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; odd++) {
      Vector w[panelVectors];
      for (int v = 0; v < panelVectors; v++) w[v] = factorsAt<bf16>(b, r + odd, v);
#pragma GCC unroll 8
      for (int t = 0; t < T; t++)
        for (int v = 0; v < panelVectors; v++) sum[t][v] = fmaSpread(lowered + t * stride + r + odd, w[v], sum[t][v]);
    }
#pragma GCC unroll 8
  for (int t = 0; t < T; t++)
    for (int v = 0; v < panelVectors; v++) store(sums + t * sumsStride + v * lanes, sum[t][v]);
}

#if defined(__AVX512F__)

/// The same of pairs of bfloat16.
template <int T>
inline void raisePairs(const char* b, int rank, const Half* lowered, size_t stride, float* sums, size_t sumsStride) {
  Vector sum[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; t++) sum[t] = zero();
  for (int r = 0; r < rank; r += 2) {
    VectorInt w = (VectorInt)load(reinterpret_cast<const float*>(b) + r / 2 * 16);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) sum[t] = pairsSpread(reinterpret_cast<const float*>(lowered + t * stride + r), w, sum[t]);
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; t++) store(sums + t * sumsStride, sum[t]);
}

#endif

}  // namespace
