// The arithmetic of attention: scores of a tile's positions, and the sum of its values. What differs by format of
// the cache is in attention_formats.h.
//
// Every sum has one order, by dimension or by position, whichever rows are computed together.
//
// Legend: R rows = (token, query head) pairs that share one kv head, D head width, P positions of a tile, V vectors.
#pragma once

#include "attention_formats.h"

namespace {

constexpr int registerRows = lanes == 16 ? 8 : lanes == 8 ? 5 : 4;

/// How vectors share registers: few rows leave room for more positions or dimensions, and need the chains.
template <int R>
constexpr int vectorsFor = lanes == 16 && R <= 4 ? 4 : 2;

/// So many rows keep a core busy with what it has; meanwhile they ask for the lines that come next. Fewer wait for
/// memory in any case, which the hardware then follows better.
template <int R>
constexpr bool asksAhead = R > 2;

/// scores[r][p..] of V vectors of positions from p on.
template <class Cache, int R, int V>
inline void tileScores(const float* q, int stride, const Tile& tile, const CacheShape& cache, int p, float* scores) {
  constexpr int asks = V * lanes / subPositions;
  const char *key[V], *ask[asks];
  Vector sum[R][V];
  for (int v = 0; v < V; v++) key[v] = positionAt(tile.keys, p + v * lanes, Cache::bytes * Cache::together);
  // While keys go by, the values of the same positions are asked for: as many bytes, in the order of memory.
  for (int a = 0; a < asks; a++) ask[a] = tile.values[p / subPositions + a];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sum[r][v] = zero();
  const int group = Cache::scaled ? cache.groupWidth() : cache.width;
  const size_t keyStep = size_t(cache.blockTokens) * Cache::bytes * Cache::together;
  for (int first = 0; first < cache.width; first += group) {
    Vector part[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) part[r][v] = zero();
    for (int d = 0; d < group; d += Cache::together, q += Cache::together / Cache::packed * stride) {
      if constexpr (asksAhead<R>)
        for (int a = 0; a < asks; a++, ask[a - 1] += subPositions * Cache::together * Cache::bytes) askForLine(ask[a]);
      typename Cache::Numbers numbers[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++, key[v - 1] += keyStep) numbers[v] = Cache::load(key[v]);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) part[r][v] = Cache::template add<(R > 1)>(part[r][v], q + r, stride, numbers[v]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++)
        sum[r][v] = Cache::scaled ? fma(part[r][v], Cache::keyScale(tile, cache, p + v * lanes, first / group), sum[r][v])
                                  : part[r][v];
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(scores + r * tilePositions + p + v * lanes, sum[r][v]);
}

/// out[r][d..] += weights[r][p] v[p][d..] over the tile for V vectors of d, the last of `last` elements.
template <class Cache, int R, int V, bool Partial>
inline void tileValues(const float* weights, const float* keep, const Tile& tile, const CacheShape& cache, int d,
                       int last, float* out, int outStride) {
  Vector sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sum[r][v] = load(out + r * outStride + d + v * lanes) * keep[r];
  const size_t rowBytes = size_t(cache.width) * Cache::bytes * Cache::together;
  const size_t at = size_t(d) * Cache::together * Cache::bytes;
  unsigned p = unsigned(tile.first - tile.base) / Cache::together * Cache::together, end = tile.end - tile.base;
  while (p < end) {
    unsigned part = p / subPositions, inside = p % subPositions / Cache::together;
    unsigned stop = (part + 1) * subPositions < end ? (part + 1) * subPositions : end;
    const char* from = tile.values[part] + inside * rowBytes + at;
    const char* ahead = tile.keysAhead[part] + inside * rowBytes + at;
    for (; p < stop; p += Cache::together, from += rowBytes, ahead += rowBytes) {
      if constexpr (asksAhead<R>)
        for (int byte = 0; byte < V * lanes * Cache::together * Cache::bytes; byte += 64) askForLine(ahead + byte);
      typename Cache::Numbers numbers[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) {
        const char* own = from + v * lanes * Cache::together * Cache::bytes;
        numbers[v] = Partial && v == V - 1 ? Cache::load(own, last) : Cache::load(own);
        numbers[v] = Cache::value(numbers[v], tile, cache, p, d + v * lanes, p + Cache::together <= end);
      }
      const float* factor = weights + p / Cache::packed;
#pragma GCC unroll 8
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++)
          sum[r][v] = Cache::template add<(R > 1)>(sum[r][v], factor + r * tilePositions, 1, numbers[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(out + r * outStride + d + v * lanes, sum[r][v]);
}

/// Calls `body` with R = registerRows while so many rows are left, then once with the rest.
template <class Body>
inline void byRegisterRows(int rows, Body body) {
  int row = 0;
  for (; row + registerRows <= rows; row += registerRows) body.template run<registerRows>(row);
  switch (rows - row) {
    case 1: return body.template run<1>(row);
    case 2: return body.template run<2>(row);
    case 3: return body.template run<3>(row);
    case 4: if constexpr (registerRows > 4) return body.template run<4>(row); return;
    case 5: if constexpr (registerRows > 5) return body.template run<5>(row); return;
    case 6: if constexpr (registerRows > 6) return body.template run<6>(row); return;
    case 7: if constexpr (registerRows > 7) return body.template run<7>(row); return;
  }
}

template <class Cache>
struct ScoreBody {
  const float* query;
  int stride;
  const Tile& tile;
  const CacheShape& cache;
  float* scores;

  template <int R>
  void run(int row) const {
    int end = tile.end - tile.base, p = (tile.first - tile.base) / (2 * lanes) * (2 * lanes);
    float* to = scores + row * tilePositions;
    if constexpr (vectorsFor<R> == 4)
      for (; p + 2 * lanes < end && p + 4 * lanes <= tilePositions; p += 4 * lanes)
        tileScores<Cache, R, 4>(query + row, stride, tile, cache, p, to);
    for (; p < end; p += 2 * lanes) tileScores<Cache, R, 2>(query + row, stride, tile, cache, p, to);
  }
};

template <class Cache>
struct ValueBody {
  const float* weights;
  const float* keep;
  const Tile& tile;
  const CacheShape& cache;
  float* out;
  int outStride;

  template <int R>
  void run(int row) const {
    constexpr int V = vectorsFor<R>;
    int d = 0;
    for (; d + V * lanes <= cache.width; d += V * lanes) pass<R, V, false>(row, d, 0);
    for (; d < cache.width; d += 2 * lanes) {
      int left = cache.width - d;
      if (left >= 2 * lanes) pass<R, 2, false>(row, d, 0);
      else if (left > lanes) pass<R, 2, true>(row, d, left - lanes);
      else if (left == lanes) pass<R, 1, false>(row, d, 0);
      else pass<R, 1, true>(row, d, left);
    }
  }

 private:
  template <int R, int V, bool Partial>
  void pass(int row, int d, int last) const {
    tileValues<Cache, R, V, Partial>(weights + row * tilePositions, keep + row, tile, cache, d, last, out + row * outStride,
                                     outStride);
  }
};

}  // namespace
