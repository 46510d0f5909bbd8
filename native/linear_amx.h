// Products by AMX tiles. Rows are computed 16 at a time, padded with whatever lies behind the last one:
// rows of a tile do not mix, so a row's bits are the same alone and in company.
//
// Int8 sums of a group are exact, and scales are applied in the same order as by the AVX-512 kernels: the
// results of coded weights are theirs to the bit.
#pragma once

#include "matmul.h"
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

struct TileQ8 {
  static constexpr int format = packedQ8;
  static constexpr size_t groupBytes = 512;
  static const char* codes(const char* panel, size_t) { return panel; }
};

struct TileQ4 {
  static constexpr int format = packedQ4;
  static constexpr size_t groupBytes = 256;
  /// Spreads a panel's nibbles over bytes, once for all rows of a pass.
  static const char* codes(const char* panel, size_t groups) {
    char* spread = rw_thread_scratch(groups * 512);
    const __m512i low = _mm512_set1_epi8(15);
    for (size_t i = 0; i < groups * 4; i++) {
      __m512i pairs = _mm512_loadu_si512(panel + i * 64);
      char* to = spread + i / 4 * 512 + i % 4 * 64;
      _mm512_storeu_si512(to, _mm512_and_si512(pairs, low));
      _mm512_storeu_si512(to + 256, _mm512_and_si512(_mm512_srli_epi16(pairs, 4), low));
    }
    return spread;
  }
};

template <class Codes>
struct TileCodedProduct : CodedProduct<void, Codes::format> {
  static constexpr int rows = 64, fewRows = 0;
  static constexpr bool offset = Codes::groupBytes == 256;

  void enter() const { loadTileConfig(tileConfig(32, 8)); }
  void exit() const { releaseTiles(); }

  /// 16 rows by one panel, of which R rows are wanted; `sums` rows lie `sumsStride` floats apart.
  template <int R>
  void tile(const char* codes, const Half* scales, size_t row, float* sums, size_t sumsStride) const {
    const auto& x = this->x;
    alignas(64) int32_t dot[2][tileRows][16];
    __m512 sum[R];
    for (int r = 0; r < R; r++) sum[r] = _mm512_setzero_ps();
    // Two tiles in turns, so that one group is scaled while the next is multiplied.
    auto multiply = [&](size_t g) {
      const int8_t* a = x.codes + row * x.inputs + g * groupInputs;
      if (g % 2 == 0) {
        zeroTile<0>();
        loadTile<4>(a, x.inputs);
        loadTile<6>(codes + g * 512, 64);
        dotBytes<0, 4, 6>();
        storeTile<0>(dot[0], 64);
      } else {
        zeroTile<3>();
        loadTile<5>(a, x.inputs);
        loadTile<7>(codes + g * 512, 64);
        dotBytes<3, 5, 7>();
        storeTile<3>(dot[1], 64);
      }
    };
    multiply(0);
    for (size_t g = 0; g < x.groups; g++) {
      if (g + 1 < x.groups) multiply(g + 1);
      __m512 scale = loadHalf(scales + g * 16);
      __m512 shift = offset ? loadHalf(scales + (x.groups + g) * 16) : scale;
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        size_t at = (row + r) * x.groups + g;
        __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[at]));
        sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(dot[g % 2][r])), both, sum[r]);
        if (offset) sum[r] = _mm512_fmadd_ps(shift, _mm512_set1_ps(x.sums[at]), sum[r]);
      }
    }
    for (int r = 0; r < R; r++) _mm512_storeu_ps(sums + r * sumsStride, sum[r]);
  }

  void pair(const char* panel, size_t stride, int panels, size_t row, int count, bool, float* sums) const {
    size_t sumsStride = size_t(panels) * panelOutputs;
    for (int p = 0; p < panels; p++) {
      const char* from = panel + p * stride;
      const char* codes = Codes::codes(from, this->x.groups);
      const Half* scales = reinterpret_cast<const Half*>(from + this->x.groups * Codes::groupBytes);
      for (int first = 0; first < count; first += tileRows) {
        float* to = sums + first * sumsStride + p * panelOutputs;
        int wanted = count - first;
        if (wanted > 4) tile<tileRows>(codes, scales, row + first, to, sumsStride);
        else if (wanted > 1) tile<4>(codes, scales, row + first, to, sumsStride);
        else tile<1>(codes, scales, row + first, to, sumsStride);
      }
    }
  }
};

/// bf16 weights by activations rounded to bf16: 32 rows by two panels in four tiles of sums.
struct TilePairProduct : PairProduct {
  static constexpr int rows = 32, fewRows = 0;  // one way of summing, whatever the number of rows

  void enter() const { loadTileConfig(tileConfig(64, 16)); }
  void exit() const { releaseTiles(); }

  void pair(const char* panel, size_t panelStride, int panels, size_t row, int count, bool, float* sums) const {
    const Half* top = x + row * stride;
    const Half* bottom = top + tileRows * stride;
    bool two = panels == 2, more = count > tileRows;
    zeroTile<0>(), zeroTile<1>(), zeroTile<2>(), zeroTile<3>();
    for (size_t k = 0; k < inputs; k += 32) {
      loadTile<4>(top + k, stride * 2);
      loadTile<6>(panel + k * 32, 64);
      dotPairs<0, 4, 6>();
      if (two) {
        loadTile<7>(panel + panelStride + k * 32, 64);
        dotPairs<1, 4, 7>();
      }
      if (!more) continue;
      loadTile<5>(bottom + k, stride * 2);
      dotPairs<2, 5, 6>();
      if (two) dotPairs<3, 5, 7>();
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
