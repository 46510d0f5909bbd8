// Attention over a cache of bfloat16 by AMX tiles: scores and values of a tile of positions, 16 rows by 16 of them at a
// time. The softmax between them is that of vectors.
//
// A cache of bfloat16 lies as tiles want the right side of a product: keys in pairs of dimensions side by side for
// neighbouring positions, values in pairs of positions for neighbouring dimensions. Rows of a tile do not mix, so a row
// has the bits that it has alone, and decodes go by tiles as prompts do. Positions that nobody sees take part as zeros.
#pragma once

#include "attention.h"
#include "tiles.h"

namespace {

/// Rows of a unit that share a pass over a tile of positions: it is read, and its values are put together, for all of them.
constexpr int tiledRowsAim = 64;

struct TileCache : PairCache {
  static constexpr bool tiled = true;
  static constexpr int tileRows = 16, stepInputs = 32;

  /// Queries lie row by row.
  static float* queryAt(float* query, int row, int, int width, int* stride) {
    *stride = 1;
    return query + row * (width / 2);
  }
  static void query(const float* from, float factor, int width, int, float* to) {
    for (int d = 0; d < width; d += 2 * lanes)
      store(to + d / 2, pairsOf(::load(from + d) * factor, ::load(from + d + lanes) * factor));
  }

  static void begin(int rows) { changeTileConfig(config(rows)); }

  /// Rows behind the last of more than 16 are computed, of whatever lies there: there is room, and nobody reads them.
  static TileConfig config(int rows) {
    TileConfig config;
    for (int t = 0; t < 8; t++) config.bytesPerRow[t] = 64, config.rows[t] = t < 6 && rows < tileRows ? uint8_t(rows) : tileRows;
    return config;
  }

  static void scores(const ScoreBody<TileCache>& of, int rows) {
    const char* queries = reinterpret_cast<const char*>(of.query);
    const int rowBytes = of.cache.width * 2;
    for (int row = 0; row < rows; row += 2 * tileRows) {
      const char* q = queries + row * rowBytes;
      float* to = of.scores + row * tilePositions;
      if (rows - row <= tileRows) scoresOfTile(of, q, row == 0, to);
      else
        for (int part = 0; part < tilePositions / subPositions; part += 2) scoresOfTwo(of, q, part, row == 0, to + part * subPositions);
    }
  }

  static void values(const ValueBody<TileCache>& of, int rows, float* pairs) {
    const int steps = (of.tile.end - of.tile.base + stepInputs - 1) / stepInputs;
    for (int part = 0; part < 2 * steps; part++) copyValues(of, part, pairs);
    for (int row = 0; row < rows; row++)
      if (float keep = of.keep[row]; keep != 1.0f)
        for (int d = 0; d < of.cache.width; d += lanes) {
          float* out = of.out + row * of.outStride + d;
          store(out, ::load(out) * keep);
        }
    for (int row = 0; row < rows; row += 2 * tileRows)
      for (int d = 0; d < of.cache.width; d += 2 * tileRows)
        if (rows - row > tileRows) valuesOfRows<true>(of, row, d, steps, pairs);
        else valuesOfRows<false>(of, row, d, steps, pairs);
  }

 private:
  static constexpr int rowStride = tilePositions * 4;  // bytes, of scores and of weights

  /// Keys of 16 positions in 32 dimensions; others are asked for meanwhile by who reads them first.
  static const char* keysAt(const ScoreBody<TileCache>& of, int part, int step, bool asks) {
    if (asks) of.ahead.ask<stepInputs * subPositions * 2, false, false>();
    return of.tile.keys[part] + of.tile.head + size_t(step) * stepInputs * of.cache.blockTokens * 2;
  }

  /// Up to 16 rows by all positions.
  static void scoresOfTile(const ScoreBody<TileCache>& of, const char* q, bool asks, float* to) {
    const size_t apart = size_t(of.cache.blockTokens) * 4, qApart = size_t(of.cache.width) * 2;
    zeroTile<0>(), zeroTile<1>(), zeroTile<2>(), zeroTile<3>();
    for (int step = 0; step < of.cache.width / stepInputs; step++) {
      loadTile<4>(q + step * 64, qApart);
      loadTile<6>(keysAt(of, 0, step, asks), apart);
      multiplyPairs<0, 4, 6>();
      loadTile<7>(keysAt(of, 1, step, asks), apart);
      multiplyPairs<1, 4, 7>();
      loadTile<6>(keysAt(of, 2, step, asks), apart);
      multiplyPairs<2, 4, 6>();
      loadTile<7>(keysAt(of, 3, step, asks), apart);
      multiplyPairs<3, 4, 7>();
    }
    storeTile<0>(to, rowStride), storeTile<1>(to + 16, rowStride);
    storeTile<2>(to + 32, rowStride), storeTile<3>(to + 48, rowStride);
  }

  /// 32 rows by 32 positions.
  static void scoresOfTwo(const ScoreBody<TileCache>& of, const char* q, int part, bool asks, float* to) {
    const size_t apart = size_t(of.cache.blockTokens) * 4, qApart = size_t(of.cache.width) * 2;
    zeroTile<0>(), zeroTile<1>(), zeroTile<2>(), zeroTile<3>();
    for (int step = 0; step < of.cache.width / stepInputs; step++) {
      loadTile<4>(q + step * 64, qApart);
      loadTile<6>(keysAt(of, part, step, asks), apart);
      multiplyPairs<0, 4, 6>();
      loadTile<7>(keysAt(of, part + 1, step, asks), apart);
      multiplyPairs<1, 4, 7>();
      loadTile<5>(q + step * 64 + tileRows * qApart, qApart);
      multiplyPairs<2, 5, 6>();
      multiplyPairs<3, 5, 7>();
    }
    float* below = to + tileRows * tilePositions;
    storeTile<0>(to, rowStride), storeTile<1>(to + 16, rowStride);
    storeTile<2>(below, rowStride), storeTile<3>(below + 16, rowStride);
  }

  /// Values of 16 positions, behind those of others: blocks lie anywhere, and what stands behind the last position may be
  /// no number.
  static void copyValues(const ValueBody<TileCache>& of, int part, float* pairs) {
    const int width = of.cache.width, seen = of.tile.end - of.tile.base - part * subPositions;
    const char* from = of.tile.values[part] + of.tile.head;
    float* to = pairs + part * (subPositions / 2) * width;
    if (seen >= subPositions) {
      for (int i = 0; i < subPositions / 2 * width; i += 4 * lanes) {
        of.ahead.ask<4 * lanes * 4, false, false>();
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) store(to + i + v * lanes, (Vector)PairCache::load(from + (i + v * lanes) * 4));
      }
      return;
    }
    for (int p = 0; p < subPositions; p += 2)
      for (int d = 0; d < width; d += lanes, from += lanes * 4, to += lanes)
        store(to, (Vector)(PairCache::load(from) & (p + 1 < seen ? -1 : p < seen ? 0xffff : 0)));
  }

  /// Up to 32 rows by 32 dimensions.
  template <bool two>
  static void valuesOfRows(const ValueBody<TileCache>& of, int row, int d, int steps, const float* pairs) {
    const size_t apart = size_t(of.cache.width) * 4, outApart = size_t(of.outStride) * 4;
    const char* weights = reinterpret_cast<const char*>(of.weights + row * tilePositions);
    float *out = of.out + row * of.outStride + d, *below = out + tileRows * of.outStride;
    loadTile<0>(out, outApart), loadTile<1>(out + 16, outApart);
    if (two) loadTile<2>(below, outApart), loadTile<3>(below + 16, outApart);
    for (int step = 0; step < steps; step++) {
      const float* from = pairs + step * (stepInputs / 2) * of.cache.width + d;
      loadTile<4>(weights + step * 64, rowStride);
      loadTile<6>(from, apart);
      multiplyPairs<0, 4, 6>();
      loadTile<7>(from + 16, apart);
      multiplyPairs<1, 4, 7>();
      if (two) {
        loadTile<5>(weights + step * 64 + tileRows * rowStride, rowStride);
        multiplyPairs<2, 5, 6>();
        multiplyPairs<3, 5, 7>();
      }
    }
    storeTile<0>(out, outApart), storeTile<1>(out + 16, outApart);
    if (two) storeTile<2>(below, outApart), storeTile<3>(below + 16, outApart);
  }
};

/// The op where tiles serve: caches of bfloat16 with heads of whole steps.
inline void pagedAttentionByTiles(ggml_tensor* dst, int ith, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  if (call->params[3] != cacheBF16 || dst->src[0]->ne[0] % TileCache::stepInputs != 0) {
    static const CustomOp vectors = opNamed(kernelsAvx512, "paged_attention");
    return vectors(dst, ith, nth, userdata);
  }
  pagedAttentionBy(dst, nth, call, tiledRowsAim, [&](const Attention& op) {
    loadTileConfig(TileCache::config(TileCache::tileRows));
    attendUnits<TileCache>(call, op, dst);
    releaseTiles();
  });
}

}  // namespace
