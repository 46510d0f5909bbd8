// What adapters add to a product (LoRA, Hu 2021): scale * x A^T B^T, each row with its own adapter or none. The sum
// of both may get a factor per output (DoRA, Liu 2024).
//
// A row is lowered to its adapter's ranks while activations are prepared, behind the norm; its sums are raised by B
// before bias, gate or residual. Each of these sums has one order, so a row's bits depend on its own adapter only,
// and a row without one gets the bits that it gets where there are no adapters at all. What factors multiply stays
// F32, but where the CPU multiplies pairs of bfloat16 (AVX-512 BF16) and the factors are bfloat16: rounded to them.
#pragma once

#include "adapter_numbers.h"

namespace {

/// The same of codes, also while one of A does. Where their products are not added up by themselves they take registers.
constexpr int codedRows = lanes == 8 && unsignedBias == 0 ? 4 : adapterRows;

/// The factors of one product of those that a packed weight joins; src/models/packed-adapters.ts writes them.
struct AdapterMember {
  int32_t firstPanel, step, panels;  // its panels of the packed weight: first, first + step (1 or 2), ...
  int32_t rank, firstRank;           // its ranks among those of all members, both even, of codes multiples of 4
  float scale;
  int64_t b;  // where B [panels][rank][16] begins, in bytes from the adapter's own first
  int64_t factor;  // where F32 [panels][16] begin that outputs are multiplied by; 0 for none
};

enum FactorFormat { factorsF32 = 0, factorsBF16 = 1, factorsCoded = 2 };

/// Factors of one adapter for one packed weight, followed by its members, then A and every B. Factors in bfloat16 lie
/// in pairs: A [ranks / 16][inputs / 2][16][2], B [panels][rank / 2][16][2]. Where codes lie says adapter_coded.h.
struct Adapter {
  int32_t format;   // of its factors
  int32_t ranks;    // of all members, up to a multiple of 16
  int32_t members;
  int32_t inputs;   // even, of codes a multiple of 32
  int64_t a;        // where A [ranks / 16][inputs][16] begins
  int64_t unused;

  bool bf16() const { return format == factorsBF16; }
  bool coded() const { return format == factorsCoded; }
  const AdapterMember* member(int index) const { return reinterpret_cast<const AdapterMember*>(this + 1) + index; }
  const char* at(int64_t offset) const { return reinterpret_cast<const char*>(this) + offset; }
};

/// The adapters of a batch's rows at one product.
struct AdaptedRows {
  const int32_t* slots = nullptr;            // of each row, negative for none; null when no row has one
  const Adapter* const* adapters = nullptr;  // by slot; null where an adapter leaves this product alone
  float* lowered = nullptr;                  // [N][stride], scaled; of pairs each row begins with its bfloat16, or with its codes
  size_t stride = 0;
  Half* rounded = nullptr;  // [N][inputs], where pairs are multiplied
  size_t inputs = 0;        // a multiple of 32

  /// For this many rows, behind what the product itself places.
  size_t placedBytes(size_t rows) const {
    return slots ? rows * stride * 4 + (multipliesPairs() ? rows * inputs * 2 : 0) : 0;
  }
  void place(char* memory, size_t rows) {
    lowered = reinterpret_cast<float*>(memory);
    rounded = reinterpret_cast<Half*>(memory + rows * stride * 4);
  }

  const Adapter* of(size_t row) const { return slots[row] < 0 ? nullptr : adapters[slots[row]]; }

  /// What a lowered row takes at most: its ranks, of codes once more before they are some.
  size_t floatsMost(size_t rows) const {
    int32_t most = 0;
    for (size_t row = 0; row < rows; row++)
      if (const Adapter* adapter = of(row)) {
        int32_t floats = adapter->coded() ? 2 * adapter->ranks : adapter->ranks;
        if (floats > most) most = floats;
      }
    return size_t(most);
  }

  /// `count` <= loweredTogether neighbours from `row` on; `codes` of the same rows, which factors in codes are multiplied by.
  void lower(const float* const* x, const RowCodes& codes, size_t row, int count) const {
    eachRun(row, count, [&](const Adapter& adapter, int, int) {
      findPages(adapter.at(adapter.a), size_t(adapter.member(0)->b - adapter.a));
    });
    eachRun(row, count, [&](const Adapter& adapter, int first, int rows) {
      if (adapter.coded()) lowerCoded(adapter, codes.from(first), row + first, rows);
#if defined(__AVX512F__)
      else if (adapter.bf16() && multipliesPairs()) lowerByPairs(adapter, x + first, row + first, rows);
#endif
      else if (adapter.bf16()) lowerNumbers<NumbersOfA<true>>(adapter, x + first, row + first, rows);
      else lowerNumbers<NumbersOfA<false>>(adapter, x + first, row + first, rows);
    });
  }

  LoweredCodes loweredCodes(const Adapter& adapter) const {
    return {lowered, stride, size_t(adapter.ranks), size_t(adapter.members)};
  }

 private:
  /// Rows `first` .. of neighbours with one adapter.
  template <class Work>
  void eachRun(size_t row, int count, Work work) const {
    for (int first = 0; first < count;) {
      int end = first + 1;
      while (end < count && slots[row + end] == slots[row + first]) end++;
      if (const Adapter* adapter = of(row + first)) work(*adapter, first, end - first);
      first = end;
    }
  }

  template <class A>
  void lowerNumbers(const Adapter& adapter, const float* const* x, size_t row, int rows) const {
    float* to = lowered + row * stride;
    lowerRows<A>(adapter.at(adapter.a), size_t(adapter.inputs) / A::inputs, size_t(adapter.ranks), x, rows, to, stride);
    for (int t = 0; t < rows; t++, to += stride)
      for (int m = 0; m < adapter.members; m++) {
        const AdapterMember* member = adapter.member(m);
        for (int r = 0; r < member->rank; r++) to[member->firstRank + r] *= member->scale;
      }
  }

#if defined(__AVX512F__)
  void lowerByPairs(const Adapter& adapter, const float* const* x, size_t row, int rows) const {
    const float* pairs[loweredTogether];
    for (int t = 0; t < rows; t++) {
      Half* own = rounded + (row + t) * inputs;
      roundToPairs(x[t], inputs, own);
      pairs[t] = reinterpret_cast<const float*>(own);
    }
    lowerNumbers<PairsOfA>(adapter, pairs, row, rows);
    for (int t = 0; t < rows; t++) {
      float* own = lowered + (row + t) * stride;
      roundToPairs(own, adapter.ranks, reinterpret_cast<Half*>(own));
    }
  }
#endif

  template <int T = codedRows>
  void sumsOfCodes(const Adapter& adapter, const RowCodes& codes, int rows, float* sums) const {
    if constexpr (T > 1)
      if (rows < T) return sumsOfCodes<T - 1>(adapter, codes, rows, sums);
    lowerCodes<T>(adapter.at(adapter.a), adapter.ranks, codes, sums, stride);
  }

  void lowerCoded(const Adapter& adapter, const RowCodes& codes, size_t row, int rows) const {
    float* sums = lowered + row * stride + adapter.ranks;
    for (int t = 0; t < rows; t += codedRows) sumsOfCodes(adapter, codes.from(t), rows - t, sums + t * stride);
    const LoweredCodes to = loweredCodes(adapter);
    for (int t = 0; t < rows; t++, row++, sums += stride)
      for (int m = 0; m < adapter.members; m++) {
        const AdapterMember* member = adapter.member(m);
        float scale = codesOfLowered(sums + member->firstRank, member->rank, to.codes(row) + member->firstRank, to.bias(row, m));
        *to.scale(row, m) = scale * member->scale;
      }
  }
};

}  // namespace
