// The arithmetic of attention: scores of a tile's positions, and the sum of its values. What differs by format of
// the cache is in attention_formats.h.
//
// Every sum has one order, by dimension or by position, whichever rows are computed together.
//
// Legend: R rows = (token, query head) pairs that share one kv head, D head width, P positions of a tile, V vectors.
#pragma once

#include "attention_ahead.h"
#include "attention_formats.h"

namespace {

/// How vectors share registers: few rows leave room for more positions or dimensions, and need the chains.
template <int R>
constexpr int vectorsFor = R <= (lanes == 16 ? 7 : lanes == 8 ? 2 : 0) ? 4 : 2;

/// Few rows take what they multiply faster than the memory gives it.
template <class Cache, int R>
constexpr bool quick = R <= (lanes == 16 ? 2 : 1) * Cache::packed;

/// Adds the products of some neighbouring dimensions to `sum`. What the loop holds must fit the general registers too:
/// compilers keep the rest in vector registers, four cycles away.
template <class Cache, int R, int V>
__attribute__((always_inline)) inline void scoreSteps(const float* q, const float* end, const char* (&key)[V], size_t keyStep, Ahead& ahead,
                       Vector (&sum)[R][V]) {
  for (size_t at = 0; q < end; q += R * Cache::together / Cache::packed, at += keyStep) {
    ahead.ask<V * lanes * Cache::together * Cache::bytes, quick<Cache, R>>();
    typename Cache::Numbers numbers[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) numbers[v] = Cache::load(key[v] + at);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) sum[r][v] = Cache::add(R > 1 && spreads(r), sum[r][v], q + r, R, numbers[v]);
  }
}

/// scores[r][p..] of V vectors of positions from p on; q [D][R].
template <class Cache, int R, int V>
__attribute__((noinline)) void tileScores(const float* q, const Tile& tile, const CacheShape& cache, int p, float* scores, Ahead& next) {
  const char* key[V];
  Ahead ahead = next;
  Vector sum[R][V];
  for (int v = 0; v < V; v++) key[v] = tile.at(tile.keys, p + v * lanes, Cache::bytes * Cache::together);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) sum[r][v] = zero();
  const size_t keyStep = size_t(cache.blockTokens) * Cache::bytes * Cache::together;
  if constexpr (!Cache::scaled) {
    scoreSteps<Cache, R, V>(q, q + cache.width / Cache::packed * R, key, keyStep, ahead, sum);
  } else {
    const int group = cache.groupWidth();
    for (int first = 0; first < cache.width; first += group) {
      Vector part[R][V];
#pragma GCC unroll 8
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) part[r][v] = zero();
      scoreSteps<Cache, R, V>(q + first * R, q + (first + group) * R, key, keyStep, ahead, part);
      for (int v = 0; v < V; v++) key[v] += group * keyStep;
#pragma GCC unroll 8
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++)
          sum[r][v] = fma(part[r][v], Cache::keyScale(tile, cache, p + v * lanes, cache.groupOf(first)), sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) store(scores + r * tilePositions + p + v * lanes, sum[r][v]);
  next = ahead;
}

/// out[r][d..] += weights[r][p] v[p][d..] over the tile for V vectors of d, the last of `last` elements.
template <class Cache, int R, int V, bool Partial>
__attribute__((noinline)) void tileValues(const float* weights, const float* keep, const Tile& tile, const CacheShape& cache, int d,
                       int last, float* out, int outStride, Ahead& next) {
  Ahead ahead = next;
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
    const char* from = tile.values[part] + tile.head + inside * rowBytes + at;
    for (; p < stop; p += Cache::together, from += rowBytes) {
      ahead.ask<V * lanes * Cache::together * Cache::bytes, quick<Cache, R>>();
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
          sum[r][v] = Cache::add(R > 1 && spreads(r), sum[r][v], factor + r * tilePositions, 1, numbers[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(out + r * outStride + d + v * lanes, sum[r][v]);
  next = ahead;
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
  const float* query;  // as Cache::queryAt says
  const Tile& tile;
  const CacheShape& cache;
  float* scores;
  Ahead& ahead;

  template <int R>
  void run(int row) const {
    int end = tile.end - tile.base, p = (tile.first - tile.base) / (2 * lanes) * (2 * lanes);
    float* to = scores + row * tilePositions;
    const float* q = query + row * cache.width;
    if constexpr (vectorsFor<R> == 4)
      for (; p + 2 * lanes < end && p + 4 * lanes <= tilePositions; p += 4 * lanes)
        tileScores<Cache, R, 4>(q, tile, cache, p, to, ahead);
    for (; p < end; p += 2 * lanes) tileScores<Cache, R, 2>(q, tile, cache, p, to, ahead);
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
  Ahead& ahead;

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
                                     outStride, ahead);
  }
};

}  // namespace
