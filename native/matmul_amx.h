// Products of training by AMX tiles.
#pragma once

#include "matmul.h"
#include "tiles.h"

namespace {

/// Every tile of 16 rows of 64 bytes.
inline TileConfig wholeTiles() {
  TileConfig config;
  for (int t = 0; t < 8; t++) config.bytesPerRow[t] = 64, config.rows[t] = 16;
  return config;
}

/// Products of training: 32 rows by 32 outputs in four tiles of sums. A strip of the left side is [steps / 16][32 rows]
/// [16 lanes], as tiles want it.
struct MatmulTiles : PairLanes {
  static constexpr size_t rows = 32, width = 32, stepsUnit = 16;
  static constexpr int tileRows = 16;
  static constexpr bool readsPairs = false;

  static void enter() { loadTileConfig(wholeTiles()); }
  static void exit() { releaseTiles(); }

  template <class From>
  static void packLeft(const From& from, const Strips& strips) {
    for (size_t strip = 0; strip < strips.count; strip++)
      for (size_t step = strips.begin; step < strips.end; step += stepsUnit)
        for (size_t half = 0; half < rows; half += tileRows) {
          size_t row = strips.first + strip * rows + half;
          int count = row >= from.rows ? 0 : from.rows - row < tileRows ? int(from.rows - row) : tileRows;
          Vector block[tileRows];
          for (int i = 0; i < tileRows; i++) {
            if (from.rowsAreNeighbours()) block[i] = across(from, row, (step + i) * inputs, count);
            else block[i] = i < count ? along(from, row + i, step * inputs) : zero();
          }
          if (from.rowsAreNeighbours()) turn(block);
          float* to = strips.to + strip * strips.apart + (step - strips.begin) * rows + half * lanes;
          for (int i = 0; i < tileRows; i++) store(to + i * lanes, block[i]);
        }
  }

  template <class Next>
  static void stripTile(const float* left, const float* right, size_t steps, const float* before, float* sums, size_t stride,
                        const Next&) {
    if (before) {
      loadTile<0>(before, stride * 4), loadTile<1>(before + 16, stride * 4);
      loadTile<2>(before + 16 * stride, stride * 4), loadTile<3>(before + 16 * stride + 16, stride * 4);
    } else zeroTile<0>(), zeroTile<1>(), zeroTile<2>(), zeroTile<3>();
    for (size_t step = 0; step < steps; step += stepsUnit) {
      const float *a = left + step * rows, *b = right + step * width;
      loadTile<4>(a, 64), loadTile<6>(b, width * 4);
      multiplyPairs<0, 4, 6>();
      loadTile<7>(b + 16, width * 4);
      multiplyPairs<1, 4, 7>();
      loadTile<5>(a + tileRows * lanes, 64);
      multiplyPairs<2, 5, 6>();
      multiplyPairs<3, 5, 7>();
    }
    storeTile<0>(sums, stride * 4), storeTile<1>(sums + 16, stride * 4);
    storeTile<2>(sums + 16 * stride, stride * 4), storeTile<3>(sums + 16 * stride + 16, stride * 4);
  }
};

}  // namespace
