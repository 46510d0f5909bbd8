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

inline TileConfig tileConfig(int activationBytes, int weightRows) {
  TileConfig config;
  for (int t = 0; t < 8; t++) {
    config.bytesPerRow[t] = t == 4 || t == 5 ? activationBytes : 64;
    config.rows[t] = t >= 6 ? weightRows : tileRows;
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

/// The codes of a panel as signed bytes [groups][8][16][4], once for all rows of a pass.
template <class Codes>
inline const char* spreadPanel(const char* panel, size_t groups) {
  if (Codes::format == packedQ8) return panel;
  char* spread = rw_thread_scratch(groups * 512);
  for (size_t g = 0; g < groups; g++) spreadGroup<Codes>(Codes::group(panel, g), spread + g * 512);
  return spread;
}

template <class Codes>
struct TileCodedProduct : CodedProduct<Codes> {
  static constexpr bool asksAhead = false;
  static constexpr int rows = 64;
  static constexpr int partInputs = groupInputs / Codes::parts;

  void enter() const { loadTileConfig(tileConfig(partInputs, partInputs / 4)); }
  void exit() const { releaseTiles(); }

  /// 16 rows by one panel, of which R rows are wanted; `sums` rows lie `sumsStride` floats apart.
  template <int R>
  void tile(const char* panel, const char* codes, size_t row, float* sums, size_t sumsStride) const {
    const auto& x = this->x;
    // What is scaled at once: part of a group, or the groups that share a scale.
    constexpr size_t together = Codes::share ? scaleGroups : 1;
    const size_t parts = x.groups * Codes::parts, steps = (parts + together - 1) / together;
    alignas(64) int32_t dot[2][tileRows][16];
    __m512 sum[R], block[R];
    for (int r = 0; r < R; r++) sum[r] = block[r] = _mm512_setzero_ps();
    auto codesAt = [&](size_t i) {
      return Codes::format == packedQ8 ? Codes::group(codes, i) : codes + i * partInputs * 16;
    };
    // Two tiles in turns, so that one step is scaled while the next is multiplied.
    auto multiply = [&](size_t step) {
      if (step % 2 == 0) zeroTile<0>();
      else zeroTile<3>();
      for (size_t i = step * together; i < (step + 1) * together && i < parts; i++) {
        const int8_t* a = x.codes + row * x.inputs + i * partInputs;
        if (step % 2 == 0) {
          loadTile<4>(a, x.inputs);
          loadTile<6>(codesAt(i), 64);
          multiplyBytes<0, 4, 6>();
        } else {
          loadTile<5>(a, x.inputs);
          loadTile<7>(codesAt(i), 64);
          multiplyBytes<3, 5, 7>();
        }
      }
      if (step % 2 == 0) storeTile<0>(dot[0], 64);
      else storeTile<3>(dot[1], 64);
    };
    multiply(0);
    for (size_t step = 0; step < steps; step++) {
      if (step + 1 < steps) multiply(step + 1);
      size_t g = step * together / Codes::parts;
      __m512 scale = (__m512)Codes::scale(panel, g, int(step % Codes::parts), 0);
      auto sumOf = [&](int r) { return _mm512_cvtepi32_ps(_mm512_load_si512(dot[step % 2][r])); };
      if constexpr (Codes::share) {
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
          sum[r] = _mm512_fmadd_ps(sumOf(r), _mm512_mul_ps(scale, _mm512_set1_ps(x.scale(g, row)[r])), sum[r]);
        continue;
      }
      __m512 shift = Codes::offset ? (__m512)Codes::shift(panel, g, 0) : scale;
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        block[r] = _mm512_fmadd_ps(sumOf(r), scale, block[r]);
        if (Codes::offset) block[r] = _mm512_fmadd_ps(shift, _mm512_set1_ps(x.sum(g, row)[r]), block[r]);
      }
      if ((step + 1) % (scaleGroups * Codes::parts) != 0 && step + 1 < steps) continue;
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        sum[r] = _mm512_fmadd_ps(block[r], _mm512_set1_ps(x.scale(g, row)[r]), sum[r]);
        block[r] = _mm512_setzero_ps();
      }
    }
    for (int r = 0; r < R; r++) _mm512_storeu_ps(sums + r * sumsStride, sum[r]);
  }

  void pair(const char* panel, size_t stride, int panels, size_t row, int count, bool, float* sums) const {
    size_t sumsStride = size_t(panels) * panelOutputs;
    for (int p = 0; p < panels; p++) {
      const char* from = panel + p * stride;
      const char* codes = spreadPanel<Codes>(from, this->x.groups);
      for (int first = 0; first < count; first += tileRows) {
        float* to = sums + first * sumsStride + p * panelOutputs;
        int wanted = count - first;
        if (wanted > 4) tile<tileRows>(from, codes, row + first, to, sumsStride);
        else if (wanted > 1) tile<4>(from, codes, row + first, to, sumsStride);
        else tile<1>(from, codes, row + first, to, sumsStride);
      }
    }
  }
};

/// bf16 weights by activations rounded to bf16: 32 rows by two panels in four tiles of sums.
struct TilePairProduct : PairProduct {
  static constexpr int rows = 32;

  void enter() const { loadTileConfig(tileConfig(64, 16)); }
  void exit() const { releaseTiles(); }

  void pair(const char* panel, size_t, int panels, size_t row, int count, bool, float* sums) const {
    const Half* top = x + row * stride;
    const Half* bottom = top + tileRows * stride;
    bool two = panels == 2, more = count > tileRows;
    zeroTile<0>(), zeroTile<1>(), zeroTile<2>(), zeroTile<3>();
    for (size_t k = 0; k < inputs; k += 32) {
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
