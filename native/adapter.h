// What adapters add to a product (LoRA, Hu 2021): scale * x A^T B^T, each row with its own adapter or none. The sum
// of both may get a factor per output (DoRA, Liu 2024).
//
// A row is lowered to its adapter's ranks while activations are prepared, in F32 and behind the norm; its sums
// are raised by B before bias, gate or residual. Each of these sums has one order, so a row's bits depend on
// its own adapter only, and a row without one gets the bits that it gets where there are no adapters at all.
#pragma once

#include "packed.h"
#include "simd.h"

namespace {

/// How far ahead of a panel's B the next ones are asked for: threads take pairs of panels in turns.
constexpr int panelsAhead = 8;
/// Rows whose sums stay in registers while one panel of B goes by.
constexpr int adapterRows = lanes == 16 ? 8 : lanes == 8 ? 4 : 2;

/// The factors of one product of those that a packed weight joins; src/models/packed-adapters.ts writes them.
struct AdapterMember {
  int32_t firstPanel, step, panels;  // its panels of the packed weight: first, first + step, ...
  int32_t rank, firstRank;           // its ranks among those of all members
  float scale;
  int64_t b;  // where B [panels][rank][16] begins, in bytes from the adapter's own first
  int64_t factor;  // where F32 [panels][16] begin that outputs are multiplied by; 0 for none
};

/// Factors of one adapter for one packed weight, followed by its members, then A and every B.
struct Adapter {
  int32_t bf16;     // 1: factors are bfloat16, 0: F32
  int32_t ranks;    // of all members, each of them up to a multiple of 16
  int32_t members;
  int32_t inputs;
  int64_t a;        // where A [ranks / 16][inputs][16] begins
  int64_t unused;

  const AdapterMember* member(int index) const { return reinterpret_cast<const AdapterMember*>(this + 1) + index; }
  const char* at(int64_t offset) const { return reinterpret_cast<const char*>(this) + offset; }
};

inline Vector loadBfloat(const Half* from) {
#if defined(__AVX512F__)
  __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
#elif defined(__AVX2__)
  __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return (Vector)_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
#elif defined(ROPEWAY_NEON)
  return (Vector)vshll_n_u16(vld1_u16(from), 16);
#else
  Vector result;
  for (int i = 0; i < lanes; i++) result[i] = bfloatToFloat(from[i]);
  return result;
#endif
}

template <bool bf16>
inline Vector factors(const char* from, size_t index) {
  return bf16 ? loadBfloat(reinterpret_cast<const Half*>(from) + index)
              : load(reinterpret_cast<const float*>(from) + index);
}

/// to[r] = sum over k of x[k] A[k][r], in four chains by k modulo 4 that are joined in one order.
template <bool bf16>
inline void lowerRow(const Adapter& adapter, const float* x, float* to) {
  size_t inputs = adapter.inputs;
  for (int block = 0; block < adapter.ranks / 16; block++) {
    const char* a = adapter.at(adapter.a + int64_t(block * inputs * 16 * (bf16 ? 2 : 4)));
    Vector sum[4][panelVectors];
    for (int c = 0; c < 4; c++)
      for (int v = 0; v < panelVectors; v++) sum[c][v] = zero();
    size_t k = 0;
    for (; k + 4 <= inputs; k += 4)
#pragma GCC unroll 4
      for (int c = 0; c < 4; c++)
#pragma GCC unroll 4
        for (int v = 0; v < panelVectors; v++)
          sum[c][v] = fmaSpread(x + k + c, factors<bf16>(a, (k + c) * 16 + v * lanes), sum[c][v]);
    for (; k < inputs; k++)
      for (int v = 0; v < panelVectors; v++)
        sum[k % 4][v] = fma(splat(x[k]), factors<bf16>(a, k * 16 + v * lanes), sum[k % 4][v]);
    for (int v = 0; v < panelVectors; v++)
      store(to + block * 16 + v * lanes, (sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v]));
  }
}

/// sums[t] += sum over r of lowered[t][r] B[r] for T rows and one panel, in the order of r.
template <bool bf16, int T>
inline void raiseRows(const char* b, int rank, const float* lowered, size_t stride, float* sums, int sumsStride) {
  Vector sum[T][panelVectors];
  for (int t = 0; t < T; t++)
    for (int v = 0; v < panelVectors; v++) sum[t][v] = load(sums + t * sumsStride + v * lanes);
  for (int r = 0; r < rank; r++) {
    Vector w[panelVectors];
    for (int v = 0; v < panelVectors; v++) w[v] = factors<bf16>(b, r * 16 + v * lanes);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
      for (int v = 0; v < panelVectors; v++) sum[t][v] = fmaSpread(lowered + t * stride + r, w[v], sum[t][v]);
    }
  }
  for (int t = 0; t < T; t++)
    for (int v = 0; v < panelVectors; v++) store(sums + t * sumsStride + v * lanes, sum[t][v]);
}

/// The adapters of a batch's rows at one product.
struct AdaptedRows {
  const int32_t* slots = nullptr;            // of each row, negative for none; null when no row has one
  const Adapter* const* adapters = nullptr;  // by slot; null where an adapter leaves this product alone
  float* lowered = nullptr;                  // [N][stride], scaled
  size_t stride = 0;

  const Adapter* of(size_t row) const { return slots[row] < 0 ? nullptr : adapters[slots[row]]; }

  /// Ranks that a row may have at most.
  size_t ranksMost(size_t rows) const {
    int32_t most = 0;
    for (size_t row = 0; row < rows; row++)
      if (const Adapter* adapter = of(row))
        if (adapter->ranks > most) most = adapter->ranks;
    return size_t(most);
  }

  void lower(const float* x, size_t row) const {
    const Adapter* adapter = of(row);
    if (!adapter) return;
    float* to = lowered + row * stride;
    if (adapter->bf16) lowerRow<true>(*adapter, x, to);
    else lowerRow<false>(*adapter, x, to);
    for (int m = 0; m < adapter->members; m++) {
      const AdapterMember* member = adapter->member(m);
      for (int r = 0; r < member->rank; r++) to[member->firstRank + r] *= member->scale;
    }
  }

  /// Adds to the sums [count][panels * 16] of neighbouring rows and panels; rows with one adapter go together.
  void raise(size_t row, int count, int64_t panel, int panels, float* sums) const {
    for (int first = 0; first < count;) {
      const Adapter* adapter = of(row + first);
      int end = first + 1;
      while (end < count && slots[row + end] == slots[row + first]) end++;
      for (int p = 0; adapter && p < panels; p++)
        raisePanel(*adapter, row + first, end - first, panel + p, sums + (first * panels + p) * panelOutputs,
                   panels * panelOutputs);
      first = end;
    }
  }

 private:
  void raisePanel(const Adapter& adapter, size_t row, int count, int64_t panel, float* sums, int sumsStride) const {
    for (int m = 0; m < adapter.members; m++) {
      const AdapterMember* member = adapter.member(m);
      int64_t from = panel - member->firstPanel;
      if (from < 0 || from % member->step != 0 || from / member->step >= member->panels) continue;
      int64_t bytes = int64_t(member->rank) * 16 * (adapter.bf16 ? 2 : 4);
      const char* b = adapter.at(member->b + from / member->step * bytes);
      // Several adapters are more streams than the hardware follows; what lies behind the last panel is only asked for.
      for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(b + panelsAhead / member->step * bytes + line);
      const float* own = lowered + row * stride + member->firstRank;
      if (adapter.bf16) raiseAll<true>(b, member->rank, own, count, sums, sumsStride);
      else raiseAll<false>(b, member->rank, own, count, sums, sumsStride);
      if (member->factor) multiplyOutputs(adapter.at(member->factor) + from / member->step * 64, count, sums, sumsStride);
      return;
    }
  }

  static void multiplyOutputs(const char* factors, int count, float* sums, int sumsStride) {
    for (int t = 0; t < count; t++)
      for (int v = 0; v < panelVectors; v++) {
        float* sum = sums + t * sumsStride + v * lanes;
        store(sum, load(sum) * load(reinterpret_cast<const float*>(factors) + v * lanes));
      }
  }

  template <bool bf16>
  void raiseAll(const char* b, int rank, const float* own, int count, float* sums, int sumsStride) const {
    for (int t = 0; t < count; t += adapterRows)
      exactly<bf16, adapterRows>(b, rank, own + t * stride, count - t, sums + t * sumsStride, sumsStride);
  }

  template <bool bf16, int T>
  void exactly(const char* b, int rank, const float* own, int count, float* sums, int sumsStride) const {
    if constexpr (T > 1)
      if (count < T) return exactly<bf16, T - 1>(b, rank, own, count, sums, sumsStride);
    raiseRows<bf16, T>(b, rank, own, stride, sums, sumsStride);
  }
};

}  // namespace
