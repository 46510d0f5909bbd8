// Products by AMX tiles. Rows are computed 16 at a time, padded with whatever lies behind the last one:
// rows of a tile do not mix, so a row's bits are the same alone and in company.
//
// Int8 sums of a group are exact, and scales are applied in the same order as by the AVX-512 kernels: the
// results of coded weights are theirs to the bit.
#pragma once

#include "linear_coded.h"
#include "linear_float.h"
#include "tiles.h"

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

/// Coded weights by int8 activations: 32 rows by two panels in four tiles of sums, so that no product waits for the one
/// before it (16 cycles of work, 52 until its sums are there). While blocks of 128 inputs are multiplied, the sums of those
/// before them are scaled by vectors. Up to `few` rows are multiplied by the vectors alone, which is as quick as memory.
template <class Codes>
struct TileCodedProduct : CodedProduct<Codes> {
  using Vectors = CodedProduct<Codes>;
  static constexpr int rows = 64, few = rowsAtOnce;
  /// What one tile product takes: inputs that share a scale, or as many as go into a tile.
  static constexpr int stepInputs = Codes::share ? 64 : groupInputs / Codes::parts;
  /// Tile products of a block that are scaled one by one.
  static constexpr int sumsOfBlock = Codes::share ? 1 : int(scaleGroups) * Codes::parts;
  /// Blocks that are scaled at once.
  static constexpr int turnBlocks = 4;
  /// Integer sums of 32 rows by two panels.
  using Sums = int32_t[2 * tileRows][2][16];

  static size_t placed(size_t count) {
    return count <= size_t(few) ? size_t(few) : (count + rows - 1) / rows * rows;
  }
  bool byVectors() const { return this->x.rows <= size_t(few); }

  void enter() const {
    if (!byVectors()) loadTileConfig(tileConfig(tileRows, stepInputs, stepInputs / 4));
  }
  void exit() const {
    if (!byVectors()) releaseTiles();
  }

  void comingUp(const char* weights, size_t bytes, size_t count) const {
    if (byVectors()) Vectors::comingUp(weights, bytes, count);
    else this->upcoming.begin(weights, bytes, (count + 2 * tileRows - 1) / (2 * tileRows) * blocks());
  }
  void comingUp(const FactorsAhead& factors) const {
    if (byVectors()) Vectors::comingUp(factors);
    else this->upcoming.begin(factors, blocks());
  }

  void pair(const char* panel, size_t stride, int panels, size_t row, int count, bool cold, float* sums) const {
    if (count <= few) return Vectors::pair(panel, stride, panels, row, count, cold, sums);
    Weights weights{{panel, panel + stride}, {}, {}};
    if (panels < 2) weights.scales[1] = panel;
    char* scratch = Codes::format == packedQ8 ? nullptr : rw_thread_scratch(this->x.groups * 1024);
    alignas(64) char tails[2][1024];
    for (int p = 0; p < panels; p++) spread(weights, p, scratch ? scratch + p * this->x.groups * 512 : nullptr, tails[p]);
    for (int first = 0; first < count; first += 2 * tileRows) {
      float* to = sums + size_t(first) * panels * panelOutputs;
      int wanted = count - first < 2 * tileRows ? count - first : 2 * tileRows;
      if (panels == 1) columns<2, 1>(weights, row + first, wanted, to);
      else if (wanted > tileRows) columns<2, 2>(weights, row + first, wanted, to);
      else columns<1, 2>(weights, row + first, wanted, to);
    }
  }

 private:
  /// Two panels: where their scales stand, their codes as signed bytes, and those of a last step that is not whole.
  struct Weights {
    const char* scales[2];
    const char* codes[2];
    const char* tail[2];
  };

  size_t blocks() const { return (this->x.groups + scaleGroups - 1) / scaleGroups; }

  /// Codes of panel p as tiles want them, [groups][8][16][4]; those of q8 lie so already.
  void spread(Weights& weights, int p, char* room, char* tail) const {
    const char* panel = weights.scales[p];
    const size_t groups = this->x.groups;
    weights.codes[p] = room ? room : panel;
    weights.tail[p] = tail;
    if (room)
      for (size_t g = 0; g < groups; g++) spreadGroup<Codes>(Codes::group(panel, g), room + g * 512);
    if (!Codes::share || groups % 2 == 0) return;
    __builtin_memcpy(tail, Codes::group(panel, groups - 1), 512);
    __builtin_memset(tail + 512, 0, 512);
  }

  const char* codesAt(const Weights& weights, int p, size_t step) const {
    if (Codes::share && 2 * step + 1 == this->x.groups) return weights.tail[p];
    if (Codes::format == packedQ8) return Codes::group(weights.codes[p], 2 * step);
    return weights.codes[p] + step * stepInputs * 16;
  }

  /// 16 or 32 rows by P panels.
  template <int halves, int P>
  void columns(const Weights& weights, size_t row, int wanted, float* sums) const {
    if constexpr (Codes::share) sharedColumns<halves, P>(weights, row, wanted, sums);
    else apartColumns<halves, P>(weights, row, wanted, sums);
  }

  /// Where groups or parts of them have scales of their own.
  template <int halves, int P>
  void apartColumns(const Weights& weights, size_t row, int wanted, float* sums) const {
    alignas(64) Sums dots[2][sumsOfBlock];
    const size_t all = blocks();
    multiply<halves, P>(weights, row, 0, dots[0]);
    for (size_t block = 0; block < all; block++) {
      if (block + 1 < all) multiply<halves, P>(weights, row, block + 1, dots[(block + 1) % 2]);
      if (this->upcoming.any()) this->upcoming.ask();
      scaleBlock<P>(weights, row, block, wanted, dots[block % 2], sums);
    }
  }

  /// The same where a block is one sum: a few blocks are multiplied while those before them are scaled, a share of the rows
  /// beside each, so that sums in floats are read and written once for all of them.
  template <int halves, int P>
  void sharedColumns(const Weights& weights, size_t row, int wanted, float* sums) const {
    alignas(64) Sums dots[2][turnBlocks];
    const size_t all = blocks();
    const int share = (wanted + turnBlocks - 1) / turnBlocks;
    for (size_t block = 0; block < turnBlocks && block < all; block++) {
      multiply<halves, P>(weights, row, block, nullptr);
      storeSums<halves, P>(dots[0][block]);
    }
    for (size_t first = 0; first < all; first += turnBlocks) {
      const size_t turn = first / turnBlocks;
      for (int i = 0; i < turnBlocks; i++) {
        const size_t block = first + turnBlocks + i;
        if (block < all) multiply<halves, P>(weights, row, block, nullptr);
        if (this->upcoming.any() && first + i < all) this->upcoming.ask();
        int end = (i + 1) * share < wanted ? (i + 1) * share : wanted;
        scaleTurn<P>(weights, row, first, i * share, end, dots[turn % 2], sums);
        // Sums of the next blocks are fetched only now, when they are there.
        if (block < all) storeSums<halves, P>(dots[(turn + 1) % 2][i]);
      }
    }
  }

  /// Blocks from `first` on, of rows `begin` to `end`.
  template <int P>
  void scaleTurn(const Weights& weights, size_t row, size_t first, int begin, int end, const Sums* dots, float* sums) const {
    const auto& x = this->x;
    const size_t left = blocks() - first;
    const int count = left < turnBlocks ? int(left) : turnBlocks;
    __m512 scales[turnBlocks][P];
#pragma GCC unroll 4
    for (int i = 0; i < turnBlocks; i++)
#pragma GCC unroll 2
      for (int p = 0; p < P; p++)  // what lies behind the last block is not read
        scales[i][p] = (__m512)Codes::scale(weights.scales[p], (first + (i < count ? i : 0)) * scaleGroups, 0, 0);
    const float* rowScales = x.scale(first * scaleGroups, row);
    auto add = [&](int r, int i, __m512 (&sum)[P]) __attribute__((always_inline)) {
      __m512 rowScale = _mm512_set1_ps(rowScales[size_t(i) * x.rows + r]);
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) {
        __m512 numbers = _mm512_cvtepi32_ps(_mm512_load_si512(dots[i][r][p]));
        sum[p] = _mm512_fmadd_ps(numbers, _mm512_mul_ps(scales[i][p], rowScale), sum[p]);
      }
    };
    for (int r = begin; r < end; r++) {
      float* to = sums + size_t(r) * P * panelOutputs;
      __m512 sum[P];
      for (int p = 0; p < P; p++) sum[p] = first == 0 ? _mm512_setzero_ps() : _mm512_load_ps(to + p * panelOutputs);
      if (count == turnBlocks) {
#pragma GCC unroll 4
        for (int i = 0; i < turnBlocks; i++) add(r, i, sum);
      } else
        for (int i = 0; i < count; i++) add(r, i, sum);
      for (int p = 0; p < P; p++) _mm512_store_ps(to + p * panelOutputs, sum[p]);
    }
  }

  template <int halves, int P>
  void multiply(const Weights& weights, size_t row, size_t block, Sums* dots) const {
    const auto& x = this->x;
    constexpr size_t stepsOfBlock = scaleGroups * groupInputs / stepInputs;
    const size_t steps = (x.inputs + stepInputs - 1) / stepInputs;
    for (size_t i = 0; i < stepsOfBlock; i++) {
      size_t step = block * stepsOfBlock + i;
      if (step >= steps) break;
      if (i == 0 || !Codes::share) {
        zeroTile<0>();
        if (P > 1) zeroTile<1>();
        if (halves > 1) zeroTile<2>();
        if (halves > 1 && P > 1) zeroTile<3>();
      }
      const int8_t* a = x.codes + row * x.inputs + step * stepInputs;
      loadTile<4>(a, x.inputs);
      loadTile<6>(codesAt(weights, 0, step), 64);
      multiplyBytes<0, 4, 6>();
      if constexpr (P > 1) {
        loadTile<7>(codesAt(weights, 1, step), 64);
        multiplyBytes<1, 4, 7>();
      }
      if constexpr (halves > 1) {
        loadTile<5>(a + tileRows * x.inputs, x.inputs);
        multiplyBytes<2, 5, 6>();
        if constexpr (P > 1) multiplyBytes<3, 5, 7>();
      }
      if (!Codes::share) storeSums<halves, P>(dots[i]);
    }
  }

  template <int halves, int P>
  static void storeSums(Sums& to) {
    storeTile<0>(to[0][0], 128);
    if constexpr (P > 1) storeTile<1>(to[0][1], 128);
    if constexpr (halves > 1) {
      storeTile<2>(to[tileRows][0], 128);
      if constexpr (P > 1) storeTile<3>(to[tileRows][1], 128);
    }
  }

  /// Adds a block's sums, scaled in the order of groups as the vectors do, to those of the wanted rows.
  template <int P>
  void scaleBlock(const Weights& weights, size_t row, size_t block, int wanted, const Sums* dots, float* sums) const {
    const auto& x = this->x;
    const size_t first = block * scaleGroups;
    const float* rowScales = x.scale(first, row);
    __m512 scales[sumsOfBlock][P], shifts[Codes::offset ? sumsOfBlock : 1][P];
    const size_t left = x.groups - first;
    const int steps = int(left < scaleGroups ? left : scaleGroups) * Codes::parts;
#pragma GCC unroll 8
    for (int i = 0; i < sumsOfBlock; i++)
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) {
        // What lies behind the last group is not read.
        size_t g = first + (i < steps ? i : 0) / Codes::parts;
        scales[i][p] = i < steps ? (__m512)Codes::scale(weights.scales[p], g, i % Codes::parts, 0) : _mm512_setzero_ps();
        if (Codes::offset) shifts[i][p] = i < steps ? (__m512)Codes::shift(weights.scales[p], g, 0) : _mm512_setzero_ps();
      }
    for (int r = 0; r < wanted; r++) {
      __m512 rowScale = _mm512_set1_ps(rowScales[r]);
      float* to = sums + size_t(r) * P * panelOutputs;
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) {
        __m512 sum = block == 0 ? _mm512_setzero_ps() : _mm512_load_ps(to + p * panelOutputs);
        auto numbers = [&](int i) { return _mm512_cvtepi32_ps(_mm512_load_si512(dots[i][r][p])); };
        __m512 part = _mm512_setzero_ps();
        if (steps == sumsOfBlock) {
#pragma GCC unroll 8
          for (int i = 0; i < sumsOfBlock; i++) part = scaled(numbers(i), scales[i][p], shifts, i, p, row + r, first, part);
        } else
          for (int i = 0; i < steps; i++) part = scaled(numbers(i), scales[i][p], shifts, i, p, row + r, first, part);
        _mm512_store_ps(to + p * panelOutputs, _mm512_fmadd_ps(part, rowScale, sum));
      }
    }
  }

  template <class Shifts>
  __attribute__((always_inline)) __m512 scaled(__m512 number, __m512 scale, const Shifts& shifts, int i, int p, size_t row,
                                               size_t first, __m512 part) const {
    part = _mm512_fmadd_ps(number, scale, part);
    if (!Codes::offset) return part;
    return _mm512_fmadd_ps(shifts[i][p], _mm512_set1_ps(*this->x.sum(first + size_t(i) / Codes::parts, row)), part);
  }
};

/// bf16 weights by activations rounded to bf16: 32 rows by two panels in four tiles of sums.
struct TilePairProduct : PairProduct {
  /// Two blocks of 32: the sums of the first have left the tiles when they are read, and those of the second soon after.
  static constexpr int rows = 64;
  /// Rows of a tile of activations: fewer are loaded and multiplied sooner, with the same bits.
  int tall = tileRows;

  static size_t placed(size_t count) {
    constexpr size_t block = 2 * tileRows;
    return count <= tileRows ? count : (count + block - 1) / block * block;
  }
  void place(char* memory, size_t count, size_t width) {
    PairProduct::place(memory, count, width);
    if (count < tileRows) tall = int(count);
  }
  void enter() const { loadTileConfig(tileConfig(tall, 64, 16)); }
  void exit() const { releaseTiles(); }

  void pair(const char* panel, size_t, int panels, size_t row, int count, bool cold, float* sums) const {
    for (int first = 0; first < count; first += 2 * tileRows)
      block(panel, panels, row + first, count - first > tileRows, cold && first == 0, sums + size_t(first) * panels * panelOutputs);
  }

 private:
  /// 16 rows, or 32 where there are `more`.
  void block(const char* panel, int panels, size_t row, bool more, bool cold, float* sums) const {
    const Half* top = x + row * stride;
    const Half* bottom = top + tileRows * stride;
    bool two = panels == 2;
    zeroTile<0>(), zeroTile<1>(), zeroTile<2>(), zeroTile<3>();
    for (size_t k = 0; k < inputs; k += 32) {
      // A tile's lines come all at once: too many for the hardware to follow by itself.
      if (cold)
        for (int line = 0; line < 32; line++) askForLine(panel + k * 64 + 8192 + line * 64);
      loadTile<4>(top + k, stride * 2);
      loadTile<6>(panel + k * 64, 128);
      multiplyPairs<0, 4, 6>();
      if (two) {
        loadTile<7>(panel + k * 64 + 64, 128);
        multiplyPairs<1, 4, 7>();
      }
      if (!more) continue;
      loadTile<5>(bottom + k, stride * 2);
      multiplyPairs<2, 5, 6>();
      if (two) multiplyPairs<3, 5, 7>();
    }
    size_t sumsStride = size_t(panels) * panelOutputs * 4;
    char* to = reinterpret_cast<char*>(sums);
    storeTile<0>(to, sumsStride);
    if (two) storeTile<1>(to + 64, sumsStride);
    if (!more) return;
    storeTile<2>(to + tileRows * sumsStride, sumsStride);
    if (two) storeTile<3>(to + tileRows * sumsStride + 64, sumsStride);
  }
};

}  // namespace
