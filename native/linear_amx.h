// Products by AMX tiles of packed weights and activations, a unit of rows and panels at a time; linear_tiles.h says in
// which order. Units are padded with whatever lies behind the last row: rows of a tile do not mix, so a row's bits are
// the same alone and in company.
//
// Int8 sums of a group are exact, and scales are applied in the same order as by the AVX-512 kernels: the
// results of coded weights are theirs to the bit.
#pragma once

#include "kernels.h"
#include "linear_float.h"
#include "linear_tiles_few.h"

namespace {

constexpr int tileRows = 16;

inline TileConfig tileConfig(int activationRows, int activationBytes, int weightRows) {
  TileConfig config;
  for (int t = 0; t < 8; t++) {
    config.bytesPerRow[t] = t == 4 || t == 5 ? activationBytes : 64;
    config.rows[t] = t >= 6 ? weightRows : activationRows;
  }
  return config;
}

template <class Codes, int j = 0>
inline void spreadGroup(const char* group, char* to) {
  if constexpr (j < 8) {
    Bytes codes = Codes::template at<j>(group, 0) - uint8_t(Codes::bias);
    __builtin_memcpy(to + j * 64, &codes, 64);
    spreadGroup<Codes, j + 1>(group, to);
  }
}

/// Coded weights by int8 activations: 16 rows by two pairs of panels. Sums leave their tiles for every block of inputs,
/// to be scaled by vectors: those of one pair while the other is multiplied. What asks for a line takes one of the 16 places that
/// tile loads need as well, so what comes up is asked for between tile products, some lines at a time, not a block's at once. Up
/// to `few` rows go to the vectors alone: a unit takes as long for one row as for 16, and codes of 4 and 5 bits are spread
/// first. AVX-512 has packed all codes but those of q8 in the same way.
template <class Codes>
struct TileCodedProduct : CodedProduct<Codes> {
  static_assert(Codes::parts == 1);
  using Vectors = CodedProduct<Codes>;
  static constexpr bool tiled = true, endsLate = false;
  static constexpr size_t few = Codes::share ? 2 : 20;
  static constexpr size_t unitRows = tileRows, unitPanels = 4, blockGroups = activationGroups<Codes>;
  static constexpr size_t blockInputs = blockGroups * groupInputs;
  static constexpr size_t unitFloats = unitRows * unitPanels * panelOutputs;
  /// Units of rows that go by a block together; of many rows only where no sums of groups take the first cache's room.
  static constexpr size_t rowUnitsFew = 4, rowUnitsMost = Codes::share ? rowUnitsFew : 1;
  static constexpr size_t rowsMost = Codes::share ? 64 : 192, rowsAsking = 192, panelsMost = 16, chunkInputs = 2048;
  static constexpr bool rowsInside = false;
  /// How often a block asks for weights of the next unit; 0 where it asks once, beside codes that are spread first.
  static constexpr size_t turnsOfBlock = Codes::share ? 16 : 0, turnsOfFew = 16;
  /// Whether only the last step of a unit is spread, once.
  static constexpr bool spreadsTail = Codes::share;
  /// What one tile product takes: inputs that share a scale, or as many as go into a tile.
  static constexpr size_t stepInputs = Codes::share ? 64 : groupInputs, stepBytes = stepInputs * panelOutputs;
  static constexpr size_t stepsOfBlock = blockInputs / stepInputs;
  /// Sums of a block that are scaled one by one.
  static constexpr int sumsOfBlock = Codes::share ? 1 : int(stepsOfBlock);
  /// Integer sums of a pair of panels.
  using Dots = int32_t[sumsOfBlock][2][tileRows][16];

  static size_t placed(size_t count) {
    return Codes::share && count <= few ? Vectors::placed(count) : (count + tileRows - 1) / tileRows * tileRows;
  }

  /// Rows behind the last one are multiplied as well. What lies there may be numbers below 2^-126, which Intels scale many times
  /// more slowly (17 rows of a model took twice as long as 32), so their scales are zeros.
  void fill(size_t rows) const {
    for (size_t g = 0; g < this->x.groups; g++) {
      if (g % blockGroups == 0) __builtin_memset(this->x.template scale<Codes>(g, rows), 0, (this->x.rows - rows) * 4);
      if (Codes::offset) __builtin_memset(this->x.sum(g, rows), 0, (this->x.rows - rows) * 4);
    }
  }

  void multiply(Call* call, int nth, const char* packed, size_t stride, size_t rows, const Epilogue& epilogue) const {
    if constexpr (Codes::share)
      if (rows <= few) return multiplyPieces(call, nth, static_cast<const Vectors&>(*this), packed, stride, rows, epilogue);
    if (rows < TiledLinear<TileCodedProduct>::rowsMany)
      return TiledFew<TileCodedProduct>(*this, packed, stride, rows, epilogue).run(call, nth);
    TiledLinear<TileCodedProduct>(*this, packed, stride, rows, epilogue).run(call, nth);
  }

  void enter() const { loadTileConfig(tileConfig(tileRows, int(stepInputs), int(stepInputs / 4))); }
  void exit() const { releaseTiles(); }

  size_t blocks() const { return (this->x.groups + blockGroups - 1) / blockGroups; }

  /// Where a block of a panel begins, its scales before it; at `blocks()` the panel's end.
  size_t blockAt(size_t block) const {
    size_t group = block * blockGroups;
    if (group == 0) return 0;
    return size_t(Codes::group(nullptr, (group < this->x.groups ? group : this->x.groups) - 1) - static_cast<const char*>(nullptr)) + Codes::bytes;
  }

  /// Of a unit's codes as signed bytes, [4 panels][groups][8][16][4]. Those of q8 lie so in the panel; of them only the last
  /// step is copied, where it is not whole.
  size_t spreadBytes(size_t blockCount) const {
    if (!Codes::share) return unitPanels * blockCount * blockInputs * panelOutputs;
    return this->x.groups % 2 == 0 ? 0 : unitPanels * stepBytes;
  }
  void spread(const char* panel, size_t stride, int panels, size_t begin, size_t end, char* to) const {
    const size_t groups = this->x.groups, first = begin * blockGroups, last = end * blockGroups < groups ? end * blockGroups : groups;
    for (int p = 0; p < panels; p++, panel += stride)
      if constexpr (Codes::share) {
        char* tail = to + p * stepBytes;
        __builtin_memcpy(tail, Codes::group(panel, groups - 1), stepBytes / 2);
        __builtin_memset(tail + stepBytes / 2, 0, stepBytes / 2);
      } else {
        char* codes = to + p * (end - begin) * blockInputs * panelOutputs;
        for (size_t g = first; g < last; g++) spreadGroup<Codes>(Codes::group(panel, g), codes + (g - first) * stepBytes);
      }
  }

  /// Four panels and 16 rows.
  struct Unit {
    const char *panels[4], *spreads[4];
    size_t begin, row;
  };

  /// The last block of the unit before, whose sums of codes are still to be scaled. Before the first unit that is any block,
  /// and its sums go nowhere.
  struct Inside {
    bool waits = false;
    Unit unit;
    size_t block;
    float* sums;
    alignas(64) Dots dots[2] = {};
    alignas(64) float nowhere[unitFloats];
  };

  /// Blocks `begin` to `end` into sums [rowUnits][2][16][2][16], or onto them behind the first. A block goes by all units of rows
  /// before the next one: its codes lie in the first cache then. The sums are all there when `before` is called in the next
  /// unit, or after `drain`; that and `beside` are called with the unit of rows. `byBlock`: the codes of a block are spread when
  /// its turn comes, and `spreads` is for one.
  template <class Beside, class Before>
  void units(const char* panel, size_t stride, int panels, char* spreads, size_t row, size_t rows, size_t begin, size_t end, bool,
             float* sums, Inside* inside, Beside& beside, const Before& before, bool byBlock = false) const {
    const size_t rowUnits = (rows + unitRows - 1) / unitRows;
    Unit units[rowUnitsFew] = {{{}, {}, begin, row}};
    for (int p = 0; p < int(unitPanels); p++) {
      const int own = p < panels ? p : 0;  // those that are not there are another's once more
      units[0].panels[p] = panel + own * stride;
      units[0].spreads[p] = spreads + own * (Codes::share ? stepBytes : (byBlock ? 1 : end - begin) * blockInputs * panelOutputs);
    }
    for (size_t r = 1; r < rowUnits; r++) units[r] = units[0], units[r].row = row + r * unitRows;
    const Unit* unitBefore = inside->waits ? &inside->unit : units;
    size_t blockBefore = inside->waits ? inside->block : begin;
    float* sumsBefore = inside->waits ? inside->sums : inside->nowhere;
    for (size_t block = begin; block < end; block++) {
      if (byBlock && !Codes::share) {
        spread(panel, stride, panels, block, block + 1, spreads);
        for (size_t r = 0; r < rowUnits; r++) units[r].begin = block;
      }
      for (size_t r = 0; r < rowUnits; r++) {
        float* to = sums + r * unitFloats;
        const bool more = r + 1 < rowUnits;
        const int8_t* next = codesOf(units[more ? r + 1 : 0], more || block + 1 == end ? block : block + 1);
        both(units[r], block, *unitBefore, blockBefore, sumsBefore, to, inside->dots, next, beside, [&] {
          if (block == begin) before(r);
        });
        beside(r);
        unitBefore = units + r, blockBefore = block, sumsBefore = to;
      }
    }
    inside->waits = true, inside->unit = *unitBefore, inside->block = end - 1, inside->sums = sumsBefore;
  }

  void drain(Inside* inside) const {
    if (!inside->waits) return;
    if constexpr (Codes::share) {
      store<1>(inside->dots[1][0]);
      Scaling<0>(*this, inside->unit, inside->block, inside->dots[0], inside->sums).all();
    }
    Scaling<1>(*this, inside->unit, inside->block, inside->dots[1], inside->sums).all();
  }

 private:
  /// A block by both pairs, beside which sums of the block before are scaled: a pair's while the other is multiplied. Where
  /// groups share scales, sums leave their tiles only then, and are scaled a turn later. `complete` is called when the
  /// block before is; `next` are activations of the next one.
  template <class Beside, class Complete>
  __attribute__((always_inline)) void both(const Unit& unit, size_t block, const Unit& unitBefore, size_t blockBefore,
                                           float* sumsBefore, float* sums, Dots* dots, const int8_t* next,
                                           Beside& beside, const Complete& complete) const {
    if constexpr (Codes::share) {
      const Scaling<0> first(*this, unitBefore, blockBefore, dots[0], sumsBefore);
      multiplyHalf<0, 0>(unit, block, dots, [&](int turn) __attribute__((always_inline)) { first(turn), beside.turn(), askForRows(next, turn); });
      multiplyHalf<1, 0>(unit, block, dots, [&](int turn) __attribute__((always_inline)) { first(turn + 4), beside.turn(), askForRows(next, turn + 4); });
      const Scaling<1> second(*this, unitBefore, blockBefore, dots[1], sumsBefore);
      multiplyHalf<0, 1>(unit, block, dots, [&](int turn) __attribute__((always_inline)) { second(turn), beside.turn(), askForRows(next, turn + 8); });
      multiplyHalf<1, 1>(unit, block, dots, [&](int turn) __attribute__((always_inline)) { second(turn + 4), beside.turn(), askForRows(next, turn + 12); });
      complete();
    } else {
      const Scaling<1> second(*this, unitBefore, blockBefore, dots[1], sumsBefore);
      multiplyApart<0>(unit, block, dots[0], [&](int turn) __attribute__((always_inline)) { second(turn), beside.turn(); });
      complete();
      const Scaling<0> first(*this, unit, block, dots[0], sums);
      multiplyApart<1>(unit, block, dots[1], [&](int turn) __attribute__((always_inline)) { first(turn), beside.turn(); });
    }
  }

  /// A pair's sums are scaled in so many turns, one behind each tile product of the other pair.
  static constexpr int turns = 2 * int(stepsOfBlock), rowsOfTurn = tileRows / turns;

  const int8_t* codesOf(const Unit& unit, size_t block) const {
    return this->x.codes + unit.row * this->x.inputs + block * blockInputs;
  }

  /// Into the first cache: a tile of activations is 16 lines at once, and nothing goes on before they are there. Without, waiting for
  /// them was a quarter of a prompt's products.
  __attribute__((always_inline)) void askForRows(const int8_t* rows, int turn) const {
    constexpr int each = tileRows / (2 * turns);
    for (int r = turn * each; r < (turn + 1) * each; r++)
      for (size_t at = 0; at < blockInputs; at += 64) askForLineNow(rows + size_t(r) * this->x.inputs + at);
  }

  const char* codesAt(const Unit& unit, int p, size_t step) const {
    if (!Codes::share) return unit.spreads[p] + (step - unit.begin * stepsOfBlock) * stepBytes;
    return 2 * step + 1 == this->x.groups ? unit.spreads[p] : Codes::group(unit.panels[p], 2 * step);
  }

  template <int t>
  static void store(int32_t (&to)[2][tileRows][16]) {
    storeTile<2 * t>(to[0], 64);
    storeTile<2 * t + 1>(to[1], 64);
  }

  /// Products of a block by a pair where groups share scales: two of its four steps, so that activations are loaded once for both
  /// pairs. Sums of all are in the pair's two tiles then, and are stored when those of the other pair are on their way;
  /// `beside(n)` is called behind the nth.
  template <int pair, int half, class F>
  __attribute__((always_inline)) void multiplyHalf(const Unit& unit, size_t block, Dots* dots, const F& beside) const {
    constexpr int s = 2 * pair;
    const size_t step = block * stepsOfBlock + 2 * half;
    const int8_t* a = codesOf(unit, block) + 2 * half * stepInputs;
    if (half == 0) zeroTile<s>(), zeroTile<s + 1>();
    if (half == 0 || step * stepInputs < this->x.inputs) {
      if (pair == 0) loadTile<4>(a, this->x.inputs);
      loadTile<6>(codesAt(unit, s, step), 64);
      multiplyBytes<s, 4, 6>();
      beside(0);
      loadTile<7>(codesAt(unit, s + 1, step), 64);
      multiplyBytes<s + 1, 4, 7>();
    } else beside(0);
    beside(1);
    if ((step + 1) * stepInputs < this->x.inputs) {
      if (pair == 0) loadTile<5>(a + stepInputs, this->x.inputs);
      loadTile<6>(codesAt(unit, s, step + 1), 64);
      multiplyBytes<s, 5, 6>();
      beside(2);
      loadTile<7>(codesAt(unit, s + 1, step + 1), 64);
      multiplyBytes<s + 1, 5, 7>();
    } else beside(2);
    if (pair == half) store<1 - pair>(dots[1 - pair][0]);
    beside(3);
  }

  /// Sums of each step apart, in two tiles and then the two others.
  template <int pair, int i = 0, class F>
  __attribute__((always_inline)) void multiplyApart(const Unit& unit, size_t block, Dots& dots, const F& beside) const {
    constexpr int t = i % 2, s = 2 * t;
    const size_t step = block * stepsOfBlock + i;
    const bool there = step < this->x.groups;
    if (there) {
      zeroTile<s>(), zeroTile<s + 1>();
      loadTile<4 + t>(this->x.codes + unit.row * this->x.inputs + step * stepInputs, this->x.inputs);
      loadTile<6>(codesAt(unit, 2 * pair, step), 64);
      multiplyBytes<s, 4 + t, 6>();
      loadTile<7>(codesAt(unit, 2 * pair + 1, step), 64);
      multiplyBytes<s + 1, 4 + t, 7>();
    }
    if constexpr (i > 0)
      if (step <= this->x.groups) store<1 - t>(dots[i - 1]);
    beside(2 * i), beside(2 * i + 1);
    if constexpr (i + 1 < int(stepsOfBlock)) multiplyApart<pair, i + 1>(unit, block, dots, beside);
    else if (there) store<t>(dots[i]);
  }

  /// Adds a block's sums of a pair, scaled in the order of groups as the vectors do it, some rows a turn.
  template <int pair>
  struct Scaling {
    const QuantisedRows& x;
    const Dots& dots;
    size_t row, first;
    bool onto;
    float* sums;
    const float* rowScales;
    const float* groupSums[Codes::offset ? sumsOfBlock : 1];
    __m512 scales[sumsOfBlock][2], shifts[Codes::offset ? sumsOfBlock : 1][2];

    __attribute__((always_inline)) Scaling(const TileCodedProduct& by, const Unit& unit, size_t block, const Dots& of, float* to)
        : x(by.x), dots(of), row(unit.row), first(block * blockGroups), onto(block > 0), sums(to + pair * tileRows * 2 * panelOutputs) {
      rowScales = x.template scale<Codes>(first, row);
      const size_t groups = Codes::share || x.groups - first > blockGroups ? blockGroups : x.groups - first;
#pragma GCC unroll 4
      for (int i = 0; i < sumsOfBlock; i++) {
        // Behind the last group stands nothing: another one's sums, times zero.
        const bool there = size_t(i) < groups;
        const size_t g = there ? first + i : first;
        if (Codes::offset) groupSums[i] = x.sum(g, row);
#pragma GCC unroll 2
        for (int p = 0; p < 2; p++) {
          const char* panel = unit.panels[2 * pair + p];
          scales[i][p] = there ? (__m512)Codes::scale(panel, g, 0, 0) : _mm512_setzero_ps();
          if (Codes::offset) shifts[i][p] = there ? (__m512)Codes::shift(panel, g, 0) : _mm512_setzero_ps();
        }
      }
    }

    __attribute__((always_inline)) void operator()(int turn) const {
#pragma GCC unroll 4
      for (int r = turn * rowsOfTurn; r < (turn + 1) * rowsOfTurn; r++) {
        const __m512 rowScale = _mm512_set1_ps(rowScales[r]);
#pragma GCC unroll 2
        for (int p = 0; p < 2; p++) {
          float* to = sums + (r * 2 + p) * panelOutputs;
          const __m512 sum = onto ? _mm512_load_ps(to) : _mm512_setzero_ps();
          _mm512_store_ps(to, scaled(r, p, rowScale, sum));
        }
      }
    }

    void all() const {
      for (int turn = 0; turn < turns; turn++) (*this)(turn);
    }

   private:
    __m512 numbers(int i, int r, int p) const { return _mm512_cvtepi32_ps(_mm512_load_si512(dots[i][p][r])); }

    __attribute__((always_inline)) __m512 scaled(int r, int p, __m512 rowScale, __m512 sum) const {
      if constexpr (Codes::share) return _mm512_fmadd_ps(numbers(0, r, p), _mm512_mul_ps(scales[0][p], rowScale), sum);
      __m512 part = _mm512_setzero_ps();
#pragma GCC unroll 4
      for (int i = 0; i < sumsOfBlock; i++) {
        part = _mm512_fmadd_ps(numbers(i, r, p), scales[i][p], part);
        if (Codes::offset) part = _mm512_fmadd_ps(shifts[i][p], _mm512_set1_ps(groupSums[i][r]), part);
      }
      return _mm512_fmadd_ps(part, rowScale, sum);
    }
  };
};

constexpr const char* opOf(int format) {
  switch (format) {
    case packedQ4: return "linear_q4";
    case packedQ5: return "linear_q5";
    case packedQ4S: return "linear_q4s";
    case packedQ5S: return "linear_q5s";
    case packedQ4K: return "linear_q4k";
    default: return "linear_q5k";
  }
}

/// The op of codes that lie as AVX-512 wants them: few rows are left to it.
template <class Codes>
inline void linearByTiles(ggml_tensor* dst, int ith, int nth, void* userdata) {
  using Product = TileCodedProduct<Codes>;
  static const CustomOp vectors = opNamed(kernelsAvx512, opOf(Product::packedFormat));
  if (size_t(dst->src[0]->ne[1]) <= Product::few) vectors(dst, ith, nth, userdata);
  else linear<Product>(dst, ith, nth, userdata);
}

/// bf16 weights by activations rounded to bf16: 32 rows by two panels in four tiles of sums.
struct TilePairProduct {
  static constexpr bool tiled = true, endsLate = true;
  static constexpr size_t turnsOfBlock = 0;
  static constexpr int packedFormat = packedBF16;
  static constexpr size_t unitRows = 2 * tileRows, rowUnitsMost = 1, unitPanels = 2, blockInputs = 32;
  static constexpr size_t rowsMost = 128, rowsAsking = 128, panelsMost = 8, chunkInputs = 2048;
  static constexpr bool rowsInside = true;
  static constexpr size_t stepHalves = unitRows * blockInputs;

  /// [N / 32][K / 32][32][32], so that a tile lies in one piece; up to 16 rows as they are, [N][rowStride].
  Half* x;
  size_t inputs;
  size_t rowApart, stepApart;  // of a tile, in elements
  /// Rows of a tile: fewer are loaded and multiplied sooner, with the same bits.
  int tall = tileRows;

  static size_t placed(size_t count) { return count <= tileRows ? count : (count + unitRows - 1) / unitRows * unitRows; }
  RowCodes codes(size_t) const { return {}; }
  static size_t rowBytes(size_t inputs) { return rowStride(inputs, 2) * 2; }

  void place(char* memory, size_t count, size_t width) {
    x = reinterpret_cast<Half*>(memory);
    inputs = width;
    const bool few = count <= tileRows;
    rowApart = few ? rowStride(width, 2) : blockInputs, stepApart = few ? blockInputs : stepHalves;
    if (count < tileRows) tall = int(count);
  }

  void prepare(const float* from, size_t row) const {
    Half* to = unitAt(row) + row % unitRows * rowApart;
    for (size_t k = 0; k < inputs; k += blockInputs, to += stepApart) roundToPairs(from + k, blockInputs, to);
  }

  /// Tiles take numbers of bfloat16 below 2^-126 for zeros.
  void fill(size_t) const {}

  void multiply(Call* call, int nth, const char* packed, size_t stride, size_t rows, const Epilogue& epilogue) const {
    TiledLinear<TilePairProduct>(*this, packed, stride, rows, epilogue).run(call, nth);
  }

  void enter() const { loadTileConfig(tileConfig(tall, 64, 16)); }
  void exit() const { releaseTiles(); }

  size_t blocks() const { return inputs / blockInputs; }
  struct Inside {};
  static void drain(Inside*) {}
  static size_t spreadBytes(size_t) { return 0; }
  static void spread(const char*, size_t, int, size_t, size_t, char*) {}

  /// Blocks `begin` to `end` into sums [32][2][16], or onto them behind the first. `cold` weights come from memory: a
  /// tile's lines come all at once, too many for the hardware to follow by itself.
  template <class Beside, class Before>
  void units(const char* panel, size_t, int panels, const char*, size_t row, size_t count, size_t begin, size_t end, bool cold,
             float* sums, Inside*, Beside& beside, const Before& before) const {
    constexpr size_t sumsStride = 2 * panelOutputs * 4, half = tileRows * sumsStride;
    const bool two = panels == 2, more = count > tileRows;
    const Half* top = unitAt(row) + begin * stepApart;
    char* to = reinterpret_cast<char*>(sums);
    const KeepStoring keep{};
    zeroTile<0>(), zeroTile<1>(), zeroTile<2>(), zeroTile<3>();
    if (begin > 0) {
      loadTile<0>(to, sumsStride);
      if (two) loadTile<1>(to + 64, sumsStride);
      if (more) loadTile<2>(to + half, sumsStride);
      if (more && two) loadTile<3>(to + half + 64, sumsStride);
    }
    for (size_t block = begin; block < end; block++, top += stepApart) {
      const char* weights = panel + block * blockInputs * 64;
      if (cold)
        for (int line = 0; line < 32; line++) askForLine(weights + 8192 + line * 64);
      loadTile<4>(top, rowApart * 2);
      loadTile<6>(weights, 128);
      multiplyPairs<0, 4, 6>();
      if (two) {
        loadTile<7>(weights + 64, 128);
        multiplyPairs<1, 4, 7>();
      }
      if (more) {
        loadTile<5>(top + tileRows * rowApart, rowApart * 2);
        multiplyPairs<2, 5, 6>();
        if (two) multiplyPairs<3, 5, 7>();
      }
      // The unit before may have its sums at the same place.
      if (block == begin) before(0);
      beside();
      keep.step(block);
    }
    storeTile<0>(to, sumsStride);
    if (two) storeTile<1>(to + 64, sumsStride);
    if (more) storeTile<2>(to + half, sumsStride);
    if (more && two) storeTile<3>(to + half + 64, sumsStride);
  }

 private:
  Half* unitAt(size_t row) const { return x + row / unitRows * unitRows * inputs; }
};

}  // namespace
