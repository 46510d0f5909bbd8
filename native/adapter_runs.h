// What adapters add to a run of panels, made before the products that it is added to.
//
// Of many adapters a pair of panels takes a few hundred bytes each, all in other pages, and finding a page takes a core longer than
// reading such a piece. So B of one adapter is read for as many panels as a thread has taken at once.
#pragma once

#include "adapter.h"
#include "call.h"

namespace {

/// Sums of a run of panels, [pairs of panels][rows][2][16].
struct SumsOfRun {
  float* sums;
  size_t rows;
  int64_t panel;  // its first, an even one

  /// Where panel `of` is in the first row.
  float* at(int64_t of) const { return sums + size_t((of - panel) >> 1) * rows * 2 * panelOutputs + (of & 1) * panelOutputs; }
  SumsOfRun from(size_t row) const { return {sums + row * 2 * panelOutputs, rows, panel}; }
};

/// Some panels of a member: from its `index`th on, which is `panel` of the packed weight.
struct StretchOfMember {
  const char* b;
  int rank, step;
  int64_t index, count, panel;
  int64_t pairBytes;  // of two panels of B

  StretchOfMember(const Adapter& adapter, const AdapterMember& member, int64_t first, int64_t panels)
      : b(adapter.at(member.b)), rank(member.rank), step(member.step) {
    pairBytes = adapter.coded() ? PanelCodes::pairBytes(rank) : int64_t(rank) * 2 * panelOutputs * (adapter.bf16() ? 2 : 4);
    index = placeOf(member, first);
    count = placeOf(member, first + panels) - index;
    panel = member.firstPanel + index * step;
  }

  const char* begin() const { return b + index / 2 * pairBytes; }
  size_t bytes() const { return count > 0 ? size_t((index + count + 1) / 2 - index / 2) * size_t(pairBytes) : 0; }

 private:
  /// How many of a member's panels are before this one.
  static int64_t placeOf(const AdapterMember& member, int64_t panel) {
    const int64_t before = (panel - member.firstPanel + member.step - 1) >> (member.step - 1);
    return before < 0 ? 0 : before < member.panels ? before : member.panels;
  }
};

/// What B in codes adds to T rows, of which `row` is the first, `stride` floats apart. Ranks are `fours` times four, or where that is 0 as the
/// stretch says. As many bytes as are read are asked for at `ahead`, where there is something.
template <int T, int fours>
__attribute__((noinline)) inline void raiseStretch(const StretchOfMember& of, const MemberCodes& row, size_t stride, const SumsOfRun& run,
                                                   const char* ahead) {
  Vector rowScale[T];
  VectorInt bias[T], own[T][fours > 0 ? fours : 1];
#pragma GCC unroll 8
  for (int t = 0; t < T; t++) {
    rowScale[t] = splat(row.scale[t * stride]);
    bias[t] = unsignedBias ? VectorInt{} + row.bias[t * stride] : VectorInt{};
#pragma GCC unroll 8
    for (int j = 0; j < fours; j++) own[t][j] = fourCodes(row.codes + t * stride * 4 + 4 * j);
  }
  const int rank = fours > 0 ? 4 * fours : of.rank;
  int64_t panel = of.panel;
  for (int64_t index = of.index; index < of.index + of.count; index++, panel += of.step) {
    const PanelCodes b(of.b, rank, index);
    if (ahead)
      for (const char* line = index % 2 ? b.codes : b.scales; line < b.codes + rank * panelOutputs; line += 64) askForLine(ahead + (line - of.b));
    VectorInt dot[T][panelVectors];
#pragma GCC unroll 8
    for (int t = 0; t < T; t++)
      for (int v = 0; v < panelVectors; v++) dot[t][v] = bias[t];
#pragma GCC unroll 8
    for (int j = 0; j < rank / 4; j++)
      for (int v = 0; v < panelVectors; v++) {
        const Bytes w = loadBytes(b.codes + j * 4 * panelOutputs + lanes * 4 * v);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++)
          dot[t][v] = dotSigned(dot[t][v], w, fours > 0 ? own[t][fours > 0 ? j : 0] : fourCodes(row.codes + t * stride * 4 + 4 * j));
      }
    float* to = run.at(panel);
    for (int v = 0; v < panelVectors; v++) {
      const Vector scale = loadBfloat(reinterpret_cast<const Half*>(b.scales) + v * lanes);
#pragma GCC unroll 8
      for (int t = 0; t < T; t++)
        store(to + t * 2 * panelOutputs + v * lanes, __builtin_convertvector(dot[t][v], Vector) * (scale * rowScale[t]));
    }
  }
}

/// Of a row alone with the ranks that are mostly used the codes stay in registers.
template <int T>
inline void raiseNeighbours(const StretchOfMember& of, const MemberCodes& row, size_t stride, int rows, const SumsOfRun& run, const char* ahead) {
  if constexpr (T > 1)
    if (rows < T) return raiseNeighbours<T - 1>(of, row, stride, rows, run, ahead);
  if constexpr (T == 1) {
    if (of.rank == 8) return raiseStretch<1, 2>(of, row, stride, run, ahead);
    if (of.rank == 16) return raiseStretch<1, 4>(of, row, stride, run, ahead);
  }
  raiseStretch<T, 0>(of, row, stride, run, ahead);
}

/// The same of B as numbers, by lowered rows of numbers, `stride` floats apart; with `pairs` both are bfloat16, which are multiplied as
/// pairs.
template <bool bf16, bool pairs, int T>
__attribute__((noinline)) inline void raiseNumbers(const StretchOfMember& of, const float* row, size_t stride, const SumsOfRun& run,
                                                   const char* ahead) {
  const int64_t bytes = of.pairBytes / 2;
  int64_t panel = of.panel;
  for (int64_t index = of.index; index < of.index + of.count; index++, panel += of.step) {
    const char* b = of.b + index * bytes;
    if (ahead)
      for (int64_t line = 0; line < bytes; line += 64) askForLine(ahead + index * bytes + line);
#if defined(__AVX512F__)
    if constexpr (pairs) {
      raisePairs<T>(b, of.rank, reinterpret_cast<const Half*>(row), stride * 2, run.at(panel), 2 * panelOutputs);
      continue;
    }
#endif
    raiseRows<bf16, T>(b, of.rank, row, stride, run.at(panel), 2 * panelOutputs);
  }
}

template <int T>
inline void raiseNeighboursByNumbers(const StretchOfMember& of, const Adapter& adapter, const float* row, int firstRank, size_t stride,
                                     int rows, const SumsOfRun& run, const char* ahead) {
  if constexpr (T > 1)
    if (rows < T) return raiseNeighboursByNumbers<T - 1>(of, adapter, row, firstRank, stride, rows, run, ahead);
  const float* own = row + firstRank;
#if defined(__AVX512F__)
  const float* pairs = reinterpret_cast<const float*>(reinterpret_cast<const Half*>(row) + firstRank);
  if (adapter.bf16() && multipliesPairs()) return raiseNumbers<true, true, T>(of, pairs, stride, run, ahead);
#endif
  if (adapter.bf16()) raiseNumbers<true, false, T>(of, own, stride, run, ahead);
  else raiseNumbers<false, false, T>(of, own, stride, run, ahead);
}

class RaisedRun {
 public:
  /// So many pairs of panels of so many rows stay in the second cache beside weights; a multiple of `step`.
  static size_t pairsWithin(size_t rows, size_t step = 1) {
    if (rows == 0) return step;
    const size_t pairs = bytesMost / (rows * 2 * panelOutputs * 4) / step * step;
    return pairs > step ? pairs : step;
  }

  /// For up to `pairs` of panels and `most` of a batch's rows at a time; of none where no row has an adapter.
  RaisedRun(const AdaptedRows& adapted, size_t rows, size_t most, size_t pairs) : adapted(adapted) {
    if (!adapted.slots) return;
    multiplies = multipliesOutputs(rows);
    pairsMost = int64_t(pairs);
    floats = pairs * (rows < most ? rows : most) * 2 * panelOutputs;
  }

  explicit operator bool() const { return floats > 0; }
  size_t bytes() const { return floats * 4; }
  void place(char* memory) { sums = reinterpret_cast<float*>(memory); }

  /// Whether any of these rows has an adapter.
  bool touches(size_t row, size_t rows) const {
    for (size_t t = row; t < row + rows; t++)
      if (adapted.of(t)) return true;
    return false;
  }
  bool has(int64_t pair, size_t row) const { return pair >= firstPair && pair < endPair && row == firstRow; }

  /// Makes what a pair of panels gets in these rows, and pairs before `known`, which come next. `panels` are those of the whole
  /// weight.
  void reach(int64_t pair, int64_t known, size_t row, size_t rows, int64_t panels) {
    firstPair = pair, endPair = known < pair + pairsMost ? known : pair + pairsMost;
    firstRow = row, rowCount = rows;
    raise((endPair * 2 < panels ? endPair * 2 : panels) - pair * 2);
  }

  /// Adds it to the sums [count][panels * 16] of a pair, which outputs' own factors are multiplied by then.
  void add(int64_t pair, size_t row, int count, int panels, float* to) const {
    const float* from = sums + (size_t(pair - firstPair) * rowCount + row - firstRow) * 2 * panelOutputs;
    for (int t = 0; t < count; t++, from += 2 * panelOutputs, to += panels * panelOutputs) {
      for (int v = 0; v < panels * panelOutputs; v += lanes) store(to + v, load(to + v) + load(from + v));
      if (multiplies) multiplyOutputs(adapted.of(row + size_t(t)), pair * 2, panels, to);
    }
  }

 private:
  /// So much stays in the second cache beside weights.
  static constexpr size_t bytesMost = size_t(1) << 17;
  /// Rows whose pages are found together: many at once take a Zen 5 a quarter of the time that each takes alone.
  static constexpr size_t foundTogether = 16;

  const AdaptedRows& adapted;
  float* sums = nullptr;
  size_t floats = 0, firstRow = 0, rowCount = 0;
  int64_t pairsMost = 0, firstPair = 0, endPair = 0;
  bool multiplies = false;

  bool multipliesOutputs(size_t rows) const {
    for (size_t row = 0; row < rows; row++) {
      const Adapter* adapter = adapted.of(row);
      if (!adapter || (row > 0 && adapter == adapted.of(row - 1))) continue;
      for (int m = 0; m < adapter->members; m++)
        if (adapter->member(m)->factor) return true;
    }
    return false;
  }

  static void multiplyOutputs(const Adapter* adapter, int64_t panel, int64_t panels, float* sums) {
    for (int m = 0; adapter && m < adapter->members; m++) {
      const AdapterMember& member = *adapter->member(m);
      const StretchOfMember of(*adapter, member, panel, panels);
      const float* factors = reinterpret_cast<const float*>(adapter->at(member.factor)) + of.index * panelOutputs;
      for (int64_t i = 0; member.factor && i < of.count; i++) {
        float* to = sums + (of.panel + i * of.step - panel) * panelOutputs;
        for (int o = 0; o < panelOutputs; o += lanes) store(to + o, load(to + o) * load(factors + i * panelOutputs + o));
      }
    }
  }

  bool isFirst(size_t row) const { return row == firstRow || adapted.slots[row] != adapted.slots[row - 1]; }

  void raise(int64_t panels) const {
    size_t found = firstRow, behind;
    for (size_t row = firstRow, end = firstRow + rowCount; row < end; row = behind) {
      if (row >= found)
        for (const size_t last = found + foundTogether; found < last && found < end; found++)
          if (isFirst(found)) findPagesOf(adapted.of(found), panels);
      for (behind = row + 1; behind < end && !isFirst(behind);) behind++;
      raiseRows(row, int(behind - row), behind < end ? adapted.of(behind) : nullptr, panels);
    }
  }

  void findPagesOf(const Adapter* adapter, int64_t panels) const {
    for (int m = 0; adapter && m < adapter->members; m++) {
      const StretchOfMember of(*adapter, *adapter->member(m), firstPair * 2, panels);
      findPages(of.begin(), of.bytes());
    }
  }

  /// Neighbours with one adapter; `next` is that of the rows behind them. Negative zeros, which change nothing, where there is none,
  /// and in panels that it leaves alone.
  void raiseRows(size_t row, int count, const Adapter* next, int64_t panels) const {
    const SumsOfRun run = SumsOfRun{sums, rowCount, firstPair * 2}.from(row - firstRow);
    const Adapter* adapter = adapted.of(row);
    int64_t left = panels;
    for (int m = 0; adapter && m < adapter->members; m++)
      left -= StretchOfMember(*adapter, *adapter->member(m), run.panel, panels).count;
    if (left > 0) clear(run, count, panels);
    for (int m = 0; adapter && m < adapter->members; m++) {
      const AdapterMember& member = *adapter->member(m);
      const StretchOfMember of(*adapter, member, run.panel, panels);
      const char* ahead = next && m < next->members ? next->at(next->member(m)->b) : nullptr;
      for (int t = 0; t < count && !adapter->coded(); t += adapterRows)
        raiseNeighboursByNumbers<adapterRows>(of, *adapter, adapted.lowered + (row + t) * adapted.stride, member.firstRank, adapted.stride,
                                              count - t, run.from(t), ahead);
      for (int t = 0; t < count && adapter->coded(); t += codedRows)
        raiseNeighbours<codedRows>(of, adapted.loweredCodes(*adapter).of(row + t, size_t(m), member.firstRank), adapted.stride, count - t,
                                   run.from(t), ahead);
    }
  }

  static void clear(const SumsOfRun& run, int count, int64_t panels) {
    for (int64_t panel = run.panel; panel < run.panel + panels; panel++)
      for (int t = 0; t < count; t++)
        for (int v = 0; v < panelOutputs; v += lanes) store(run.at(panel) + t * 2 * panelOutputs + v, splat(-0.0f));
  }
};

}  // namespace
