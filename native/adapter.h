// What adapters add to a product (LoRA, Hu 2021): scale * x A^T B^T, each row with its own adapter or none. The sum
// of both may get a factor per output (DoRA, Liu 2024).
//
// A row is lowered to its adapter's ranks while activations are prepared, behind the norm; its sums are raised by B
// before bias, gate or residual. Each of these sums has one order, so a row's bits depend on its own adapter only,
// and a row without one gets the bits that it gets where there are no adapters at all. What factors multiply stays
// F32, but where the CPU multiplies pairs of bfloat16 (AVX-512 BF16) and the factors are bfloat16: rounded to them.
#pragma once

#include "adapter_coded.h"

namespace {

/// How far ahead of a panel's B the next ones are asked for: threads take pairs of panels in turns.
constexpr int panelsAhead = 8;
/// Rows whose sums stay in registers while one panel of B goes by.
constexpr int adapterRows = lanes == 16 ? 8 : lanes == 8 ? 6 : 2;
/// The same of codes, also while one of A does. Where their products are not added up by themselves they take registers.
constexpr int codedRows = lanes == 8 && unsignedBias == 0 ? 4 : adapterRows;
/// Neighbouring rows that are lowered before others are prepared.
constexpr size_t loweredTogether = 8;
/// Steps of A, a line each or half of one, that stay in the first cache while so many rows go by.
constexpr size_t loweredSteps = 128;

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

/// sums[t] += sum over r of lowered[t][r] B[r] for T rows and one panel, in the order of r.
template <bool bf16, int T>
__attribute__((noinline)) inline void raiseRows(const char* b, int rank, const float* lowered, size_t stride, float* sums,
                                                size_t sumsStride) {
  Vector sum[T][panelVectors];
#pragma GCC unroll 8
  for (int t = 0; t < T; t++)
    for (int v = 0; v < panelVectors; v++) sum[t][v] = load(sums + t * sumsStride + v * lanes);
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

/// P neighbouring panels of T rows, each with factors and lowered sums of its own: a row that is alone with its adapter
/// is in and out for two panels at once.
template <int P, int T>
inline void raisePairs(const char* const* b, int rank, const Half* const* lowered, size_t stride, float* sums,
                       int sumsStride) {
  Vector sum[T][P];
  for (int t = 0; t < T; t++)
    for (int p = 0; p < P; p++) sum[t][p] = load(sums + t * sumsStride + p * 16);
  for (int r = 0; r < rank; r += 2)
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) {
      VectorInt w = (VectorInt)load(reinterpret_cast<const float*>(b[p]) + r / 2 * 16);
#pragma GCC unroll 8
      for (int t = 0; t < T; t++)
        sum[t][p] = pairsSpread(reinterpret_cast<const float*>(lowered[p] + t * stride + r), w, sum[t][p]);
    }
  for (int t = 0; t < T; t++)
    for (int p = 0; p < P; p++) store(sums + t * sumsStride + p * 16, sum[t][p]);
}

#endif

/// Stretches of factors that are asked for evenly while something else is computed. All at once they would fill the
/// places that a core has for lines on their way.
struct FactorsAhead {
  static constexpr int most = 4 * adapterRows;
  const char* from[most];
  const char* end[most];
  int count = 0;

  void add(const char* stretch, int64_t bytes) {
    if (count == most) return;
    from[count] = stretch;
    end[count++] = stretch + bytes;
  }
  size_t lines() const {
    size_t lines = 0;
    for (int i = 0; i < count; i++) lines += size_t(end[i] - from[i] + 63) / 64;
    return lines;
  }
  /// Asks for so many lines; not while none is left.
  void ask(size_t lines) {
    for (size_t line = 0; line < lines && count > 0; line++) {
      askForLine(from[count - 1]);
      if ((from[count - 1] += 64) >= end[count - 1]) count--;
    }
  }
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
    eachRun(row, count, [&](const Adapter& adapter, int first, int rows) {
      if (adapter.coded()) lowerCoded(adapter, codes.from(first), row + first, rows);
#if defined(__AVX512F__)
      else if (adapter.bf16() && multipliesPairs()) lowerByPairs(adapter, x + first, row + first, rows);
#endif
      else if (adapter.bf16()) lowerNumbers<NumbersOfA<true>>(adapter, x + first, row + first, rows);
      else lowerNumbers<NumbersOfA<false>>(adapter, x + first, row + first, rows);
    });
  }

  /// Adds to the sums [count][panels * 16] of neighbouring rows and panels; rows with one adapter go together. `asked`
  /// when what comes up next was asked for with `comingUp`, or for the row before.
  void raise(size_t row, int count, int64_t panel, int panels, bool ahead, float* sums) const {
    eachRun(row, count, [&](const Adapter& adapter, int first, int rows) {
      float* own = sums + first * panels * panelOutputs;
      const bool asked = ahead || (row + first > 0 && slots[row + first] == slots[row + first - 1]);
#if defined(__AVX512F__)
      if (panels == 2 && raiseTwo(adapter, row + first, rows, panel, asked, own)) return;
#endif
      for (int p = 0; p < panels; p++)
        raisePanel(adapter, row + first, rows, panel + p, asked, own + p * panelOutputs, panels * panelOutputs);
    });
  }

  /// What `raise` of these rows and panels is going to read.
  FactorsAhead comingUp(size_t row, int count, int64_t panel, int panels) const {
    FactorsAhead ahead;
    eachRun(row, count, [&](const Adapter& adapter, int, int) {
      for (int p = 0; p < panels; p++) {
        int64_t index;
        if (const AdapterMember* member = memberAt(adapter, panel + p, &index)) {
          Stretch b = panelOf(adapter, *member, index);
          ahead.add(b.from, b.bytes);
        }
      }
    });
    return ahead;
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

  LoweredCodes loweredCodes(const Adapter& adapter) const {
    return {lowered, stride, size_t(adapter.ranks), size_t(adapter.members)};
  }

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

  /// A panel's factors; scales of two panels of codes lie before the first of them.
  struct Stretch {
    const char* from;
    int64_t bytes;
  };
  static Stretch panelOf(const Adapter& adapter, const AdapterMember& member, int64_t index) {
    const char* b = adapter.at(member.b);
    if (adapter.coded()) {
      PanelCodes panel(b, member.rank, index);
      const char* from = index % 2 ? panel.codes : panel.scales;
      return {from, panel.codes + member.rank * panelOutputs - from};
    }
    int64_t bytes = int64_t(member.rank) * panelOutputs * (adapter.bf16() ? 2 : 4);
    return {b + index * bytes, bytes};
  }

  /// Who changes a panel, and the how many-th of its own that is; null for nobody.
  static const AdapterMember* memberAt(const Adapter& adapter, int64_t panel, int64_t* index) {
    for (int m = 0; m < adapter.members; m++) {
      const AdapterMember* member = adapter.member(m);
      int64_t from = panel - member->firstPanel;
      *index = from >> (member->step - 1);
      if (from >= 0 && (from & (member->step - 1)) == 0 && *index < member->panels) return member;
    }
    return nullptr;
  }

  /// Several adapters are more streams than the hardware follows; what lies behind the last panel is only asked for.
  static void askFor(const Adapter& adapter, const AdapterMember& member, int64_t index) {
    Stretch b = panelOf(adapter, member, index + (panelsAhead >> (member.step - 1)));
    for (int64_t line = 0; line < b.bytes; line += 64) askForLine(b.from + line);
  }

#if defined(__AVX512F__)
  /// Two panels at once, where pairs are multiplied and both are of one rank; false where they are not.
  bool raiseTwo(const Adapter& adapter, size_t row, int count, int64_t panel, bool asked, float* sums) const {
    if (!adapter.bf16() || !multipliesPairs()) return false;
    int64_t index[2];
    const AdapterMember* members[2] = {memberAt(adapter, panel, index), memberAt(adapter, panel + 1, index + 1)};
    if (!members[0] || !members[1] || members[0]->rank != members[1]->rank) return false;
    const char* b[2];
    const Half* own[2];
    for (int p = 0; p < 2; p++) {
      b[p] = panelOf(adapter, *members[p], index[p]).from;
      own[p] = reinterpret_cast<const Half*>(lowered + row * stride) + members[p]->firstRank;
      if (!asked) askFor(adapter, *members[p], index[p]);
    }
    for (int t = 0; t < count; t += adapterRows) {
      const Half* rows[2] = {own[0] + t * stride * 2, own[1] + t * stride * 2};
      exactlyTwo<adapterRows>(b, members[0]->rank, rows, count - t, sums + t * 2 * panelOutputs);
    }
    for (int p = 0; p < 2; p++)
      if (members[p]->factor)
        multiplyOutputs(adapter.at(members[p]->factor) + index[p] * 64, count, sums + p * panelOutputs, 2 * panelOutputs);
    return true;
  }

  template <int T>
  void exactlyTwo(const char* const* b, int rank, const Half* const* own, int count, float* sums) const {
    if constexpr (T > 1)
      if (count < T) return exactlyTwo<T - 1>(b, rank, own, count, sums);
    raisePairs<2, T>(b, rank, own, stride * 2, sums, 2 * panelOutputs);
  }
#endif

  void raisePanel(const Adapter& adapter, size_t row, int count, int64_t panel, bool asked, float* sums,
                  int sumsStride) const {
    int64_t index;
    const AdapterMember* member = memberAt(adapter, panel, &index);
    if (!member) return;
    if (!asked) askFor(adapter, *member, index);
    if (adapter.coded()) {
      const PanelCodes b(adapter.at(member->b), member->rank, index);
      const LoweredCodes rows = loweredCodes(adapter);
      for (int t = 0; t < count; t += codedRows)
        exactlyCoded(b, member->rank, rows.of(row + t, size_t(member - adapter.member(0)), member->firstRank), count - t,
                     sums + t * sumsStride, sumsStride);
    } else
      for (int t = 0; t < count; t += adapterRows)
        exactly<adapterRows>(adapter, *member, index, row + t, count - t, sums + t * sumsStride, sumsStride);
    if (member->factor) multiplyOutputs(adapter.at(member->factor) + index * 64, count, sums, sumsStride);
  }

  template <int T = codedRows>
  void exactlyCoded(const PanelCodes& b, int rank, const MemberCodes& rows, int count, float* sums, int sumsStride) const {
    if constexpr (T > 1)
      if (count < T) return exactlyCoded<T - 1>(b, rank, rows, count, sums, sumsStride);
    raiseCodes<T>(b, rank, rows, stride, sums, size_t(sumsStride));
  }

  static void multiplyOutputs(const char* factors, int count, float* sums, int sumsStride) {
    for (int t = 0; t < count; t++)
      for (int v = 0; v < panelVectors; v++) {
        float* sum = sums + t * sumsStride + v * lanes;
        store(sum, load(sum) * load(reinterpret_cast<const float*>(factors) + v * lanes));
      }
  }

  template <int T>
  void exactly(const Adapter& adapter, const AdapterMember& member, int64_t index, size_t row, int count, float* sums,
               int sumsStride) const {
    if constexpr (T > 1)
      if (count < T) return exactly<T - 1>(adapter, member, index, row, count, sums, sumsStride);
    const char* b = panelOf(adapter, member, index).from;
    const float* own = lowered + row * stride;
#if defined(__AVX512F__)
    if (adapter.bf16() && multipliesPairs()) {
      const Half* pairs = reinterpret_cast<const Half*>(own) + member.firstRank;
      return raisePairs<1, T>(&b, member.rank, &pairs, stride * 2, sums, sumsStride);
    }
#endif
    if (adapter.bf16()) raiseRows<true, T>(b, member.rank, own + member.firstRank, stride, sums, sumsStride);
    else raiseRows<false, T>(b, member.rank, own + member.firstRank, stride, sums, sumsStride);
  }
};

}  // namespace
