// AMX tiles: 16 rows of 64 bytes each, and products of them that accumulate in place.
//
// With ROPEWAY_EMULATE_TILES the same functions work on plain arrays, so that the arithmetic is tested on
// machines without AMX. The emulation follows the pseudocode of Intel's manual for int8; for bf16 it keeps
// the order of sums but not the flushing of subnormals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <immintrin.h>

namespace {

// Tiles 0 to 3 hold sums, 4 and 5 rows of activations, 6 and 7 weights.
struct alignas(64) TileConfig {
  uint8_t palette = 1, startRow = 0, reserved[14] = {};
  uint16_t bytesPerRow[16] = {};
  uint8_t rows[16] = {};
};

#if defined(ROPEWAY_EMULATE_TILES)

struct Tiles {
  TileConfig config;
  alignas(64) uint8_t data[8][16][64];
};

inline Tiles* tiles() {
  static thread_local Tiles all;
  return &all;
}

inline void loadTileConfig(const TileConfig& config) { tiles()->config = config; }
inline void changeTileConfig(const TileConfig& config) { tiles()->config = config; }
inline void releaseTiles() {}

template <int t>
inline void zeroTile() {
  __builtin_memset(tiles()->data[t], 0, sizeof tiles()->data[t]);
}

template <int t>
inline void loadTile(const void* from, size_t stride) {
  for (int r = 0; r < tiles()->config.rows[t]; r++)
    __builtin_memcpy(tiles()->data[t][r], static_cast<const char*>(from) + r * stride, tiles()->config.bytesPerRow[t]);
}

template <int t>
inline void storeTile(void* to, size_t stride) {
  for (int r = 0; r < tiles()->config.rows[t]; r++)
    __builtin_memcpy(static_cast<char*>(to) + r * stride, tiles()->data[t][r], tiles()->config.bytesPerRow[t]);
}

/// sums[m][n] += a[m][4k + c] * b[k][4n + c], int8.
template <int sums, int a, int b>
inline void multiplyBytes() {
  for (int m = 0; m < tiles()->config.rows[a]; m++)
    for (int n = 0; n < 16; n++) {
      int32_t sum;
      __builtin_memcpy(&sum, &tiles()->data[sums][m][n * 4], 4);
      for (int k = 0; k < tiles()->config.rows[b]; k++)
        for (int c = 0; c < 4; c++) sum += int8_t(tiles()->data[a][m][4 * k + c]) * int8_t(tiles()->data[b][k][4 * n + c]);
      __builtin_memcpy(&tiles()->data[sums][m][n * 4], &sum, 4);
    }
}

inline float emulatedBfloat(const uint8_t* from) {
  uint32_t bits = uint32_t(from[0] | from[1] << 8) << 16;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

/// sums[m][n] += (sum over k of the even products) + (sum over k of the odd ones), bfloat16.
template <int sums, int a, int b>
inline void multiplyPairs() {
  for (int m = 0; m < tiles()->config.rows[a]; m++)
    for (int n = 0; n < 16; n++) {
      float even = 0, odd = 0, sum;
      for (int k = 0; k < tiles()->config.rows[b]; k++) {
        const uint8_t *x = &tiles()->data[a][m][4 * k], *w = &tiles()->data[b][k][4 * n];
        even = __builtin_fmaf(emulatedBfloat(x), emulatedBfloat(w), even);
        odd = __builtin_fmaf(emulatedBfloat(x + 2), emulatedBfloat(w + 2), odd);
      }
      __builtin_memcpy(&sum, &tiles()->data[sums][m][n * 4], 4);
      sum += even + odd;
      __builtin_memcpy(&tiles()->data[sums][m][n * 4], &sum, 4);
    }
}

#else

/// What the calling thread had before: another library may have configured tiles once for all (ggml does), and would meet
/// none, which ends the process.
inline TileConfig* configBefore() {
  static thread_local TileConfig before;
  return &before;
}

/// g++ 12's own says that eight bytes are read, and leaves the others unwritten.
inline void changeTileConfig(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }

inline void loadTileConfig(const TileConfig& config) {
  asm volatile("sttilecfg %0" : "=m"(*configBefore()));
  changeTileConfig(config);
}

inline void releaseTiles() {
  if (configBefore()->palette != 0) changeTileConfig(*configBefore());
  else _tile_release();
}

// Tile numbers are part of the instruction, hence templates; macros of the compiler's header want literals.
#define ROPEWAY_TILE(t)                                                                              \
  template <>                                                                                        \
  inline void zeroTile<t>() { _tile_zero(t); }                                                       \
  template <>                                                                                        \
  inline void loadTile<t>(const void* from, size_t stride) { _tile_loadd(t, from, stride); }         \
  template <>                                                                                        \
  inline void storeTile<t>(void* to, size_t stride) { _tile_stored(t, to, stride); }
template <int t>
inline void zeroTile();
template <int t>
inline void loadTile(const void* from, size_t stride);
template <int t>
inline void storeTile(void* to, size_t stride);
ROPEWAY_TILE(0)
ROPEWAY_TILE(1)
ROPEWAY_TILE(2)
ROPEWAY_TILE(3)
ROPEWAY_TILE(4)
ROPEWAY_TILE(5)
ROPEWAY_TILE(6)
ROPEWAY_TILE(7)
#undef ROPEWAY_TILE

template <int sums, int a, int b>
inline void multiplyBytes();
template <int sums, int a, int b>
inline void multiplyPairs();
#define ROPEWAY_DOT(sums, a, b)                                              \
  template <>                                                                \
  inline void multiplyBytes<sums, a, b>() { _tile_dpbssd(sums, a, b); }           \
  template <>                                                                \
  inline void multiplyPairs<sums, a, b>() { _tile_dpbf16ps(sums, a, b); }
ROPEWAY_DOT(0, 4, 6)
ROPEWAY_DOT(1, 4, 7)
ROPEWAY_DOT(2, 5, 6)
ROPEWAY_DOT(3, 5, 7)
ROPEWAY_DOT(0, 5, 6)
ROPEWAY_DOT(1, 5, 7)
ROPEWAY_DOT(2, 4, 6)
ROPEWAY_DOT(3, 4, 7)
#undef ROPEWAY_DOT

#endif

/// A store from a tile takes 300 ns longer where for 650 ns there was none (Granite Rapids), as much as 15 steps of four products.
/// So long chains of products store a tile to nowhere every now and then.
struct KeepStoring {
  /// Behind the nth step.
  void step(size_t n) const {
    if (n % 8 == 0) storeTile<4>(nowhere, 0);
  }

 private:
  alignas(64) mutable char nowhere[64] = {};
};

}  // namespace
