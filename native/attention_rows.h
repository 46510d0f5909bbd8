// The arithmetic of attention for each format of the cache: scores of a tile's positions, and the sum of its values.
//
// Every sum has one order, by dimension or by position, whichever rows are computed together. Products of bfloat16
// pairs round queries and weights to bfloat16 too, where the CPU has the instruction.
//
// Legend: R rows = (token, query head) pairs that share one kv head, D head width, P positions of a tile, V vectors.
#pragma once

#include "batch.h"
#include "packed.h"
#include "simd.h"

namespace {

constexpr int tilePositions = 64;
constexpr int subPositions = 16;  // positions that always lie in one block
constexpr int registerRows = lanes == 16 ? 8 : lanes == 8 ? 5 : 4;

/// 64 positions of one kv head, 16 by 16, because blocks lie anywhere.
struct Tile {
  const char* keys[tilePositions / subPositions];         // at dimension 0
  const char* keyScales[tilePositions / subPositions];    // of coded caches
  const char* values[tilePositions / subPositions];       // at dimension 0
  const char* valueScales[tilePositions / subPositions];
  int base, first, end;                                   // positions: of lane 0; some row sees [first, end)
};

/// How vectors share registers: few rows leave room for more positions or dimensions, and need the chains.
template <int R>
constexpr int vectorsFor = lanes == 16 && R <= 4 ? 4 : 2;

/// Position p of a tile, of a cache whose positions lie `bytes` apart.
inline const char* positionAt(const char* const* from, int p, size_t bytes) {
  return from[p / subPositions] + p % subPositions * bytes;
}

/// IEEE halves: keys [D][block], values [block][D].
struct HalfCache {
  static constexpr int format = cacheF16;

  static void query(const float* from, float factor, int width, int stride, float* to) {
    for (int d = 0; d < width; d++) to[d * stride] = from[d] * factor;
  }
  static void weights(float*) {}

  /// scores[r][p] of V vectors of positions from p on.
  template <int R, int V>
  static void scores(const float* q, int stride, const Tile& tile, const CacheShape& cache, int p, float* scores) {
    const Half* k[V];
    Vector sum[R][V];
    for (int v = 0; v < V; v++) k[v] = reinterpret_cast<const Half*>(positionAt(tile.keys, p + v * lanes, 2));
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) sum[r][v] = zero();
    for (int d = 0; d < cache.width; d++) {
      Vector key[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) key[v] = loadHalf(k[v] + size_t(d) * cache.blockTokens);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        Vector query = splat(q[d * stride + r]);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sum[r][v] = fma(query, key[v], sum[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) store(scores + r * tilePositions + p + v * lanes, sum[r][v]);
  }

  /// out[r][d..] += weights[r][p] v[p][d..] over the tile for V vectors of d, the last of `last` elements.
  template <int R, int V, bool Partial>
  static void values(const float* weights, const float* keep, const Tile& tile, const CacheShape& cache, int d,
                     int last, float* out, int outStride) {
    Vector sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) sum[r][v] = load(out + r * outStride + d + v * lanes) * keep[r];
    int end = tile.end - tile.base;
    for (int p = tile.first - tile.base; p < end;) {
      int stop = p / subPositions * subPositions + subPositions < end ? p / subPositions * subPositions + subPositions : end;
      const Half* from = reinterpret_cast<const Half*>(positionAt(tile.values, p, size_t(cache.width) * 2)) + d;
      for (; p < stop; p++, from += cache.width) {
        Vector value[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++)
          value[v] = Partial && v == V - 1 ? loadHalf(from + v * lanes, last) : loadHalf(from + v * lanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          Vector weight = splat(weights[r * tilePositions + p]);
#pragma GCC unroll 4
          for (int v = 0; v < V; v++) sum[r][v] = fma(weight, value[v], sum[r][v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) store(out + r * outStride + d + v * lanes, sum[r][v]);
  }
};

/// A vector of pairs of bfloat16 and its two vectors of floats.
inline Vector evenOf(VectorInt pairs) { return (Vector)(pairs << 16); }
inline Vector oddOf(VectorInt pairs) { return (Vector)(pairs & int32_t(0xffff0000)); }
inline VectorInt loadPairs(const char* from) { return (VectorInt)load(reinterpret_cast<const float*>(from)); }
inline VectorInt loadPairs(const char* from, int count) { return (VectorInt)load(reinterpret_cast<const float*>(from), count); }

/// bfloat16: keys [D/2][block][2], values [block/2][D][2].
struct BfloatCache {
  static constexpr int format = cacheBF16;

  static void query(const float* from, float factor, int width, int stride, float* to) {
    HalfCache::query(from, factor, width, stride, to);
  }
  static void weights(float*) {}

  template <int R, int V>
  static void scores(const float* q, int stride, const Tile& tile, const CacheShape& cache, int p, float* scores) {
    const char* k[V];
    Vector sum[R][V];
    for (int v = 0; v < V; v++) k[v] = positionAt(tile.keys, p + v * lanes, 4);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) sum[r][v] = zero();
    for (int d = 0; d < cache.width; d += 2) {
      VectorInt pairs[V];
      for (int v = 0; v < V; v++) pairs[v] = loadPairs(k[v] + size_t(d) * cache.blockTokens * 2);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        Vector even = splat(q[d * stride + r]), odd = splat(q[(d + 1) * stride + r]);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sum[r][v] = fma(odd, oddOf(pairs[v]), fma(even, evenOf(pairs[v]), sum[r][v]));
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) store(scores + r * tilePositions + p + v * lanes, sum[r][v]);
  }

  template <int R, int V, bool Partial>
  static void values(const float* weights, const float* keep, const Tile& tile, const CacheShape& cache, int d,
                     int last, float* out, int outStride) {
    Vector sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) sum[r][v] = load(out + r * outStride + d + v * lanes) * keep[r];
    int end = tile.end - tile.base;
    for (int p = (tile.first - tile.base) / 2 * 2; p < end; p += 2) {
      const char* from = positionAt(tile.values, p, size_t(cache.width) * 2) + d * 4;
      // What stands behind the last position may be no number.
      int32_t mask = p + 1 < end ? -1 : 0xffff;
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) {
        VectorInt pairs = Partial && v == V - 1 ? loadPairs(from + v * lanes * 4, last) : loadPairs(from + v * lanes * 4);
        pairs = pairs & mask;
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          const float* weight = weights + r * tilePositions + p;
          sum[r][v] = fma(splat(weight[1]), oddOf(pairs), fma(splat(weight[0]), evenOf(pairs), sum[r][v]));
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) store(out + r * outStride + d + v * lanes, sum[r][v]);
  }
};

#if defined(__AVX512F__)

/// The same memory, for CPUs that multiply pairs of bfloat16.
struct PairCache {
  static constexpr int format = cacheBF16;
  // Wherever a query or weight stands, it stands as a pair of bfloat16 in place of a float.

  static void query(const float* from, float factor, int width, int stride, float* to) {
    for (int d = 0; d < width; d += 2) {
      uint32_t pair = bfloatOf(from[d] * factor) | uint32_t(bfloatOf(from[d + 1] * factor)) << 16;
      __builtin_memcpy(to + d / 2 * stride, &pair, 4);
    }
  }

  /// The weights of a tile as pairs, in the first half of their memory.
  __attribute__((target("avx512bf16"))) static void weights(float* row) {
    for (int p = 0; p < tilePositions; p += 32) {
      __m512bh pairs = _mm512_cvtne2ps_pbh((__m512)load(row + p + 16), (__m512)load(row + p));
      __builtin_memcpy(row + p / 2, &pairs, 64);
    }
  }

  template <int R, int V>
  __attribute__((target("avx512bf16"))) static void scores(const float* q, int stride, const Tile& tile,
                                                           const CacheShape& cache, int p, float* scores) {
    const char* k[V];
    __m512 sum[R][V];
    for (int v = 0; v < V; v++) k[v] = positionAt(tile.keys, p + v * lanes, 4);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) sum[r][v] = _mm512_setzero_ps();
    for (int d = 0; d < cache.width / 2; d++) {
      __m512bh pairs[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) pairs[v] = (__m512bh)_mm512_loadu_si512(k[v] + size_t(d) * cache.blockTokens * 4);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        __m512bh query = (__m512bh)_mm512_set1_ps(q[d * stride + r]);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], pairs[v], query);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) _mm512_storeu_ps(scores + r * tilePositions + p + v * lanes, sum[r][v]);
  }

  template <int R, int V, bool Partial>
  __attribute__((target("avx512bf16"))) static void values(const float* weights, const float* keep, const Tile& tile,
                                                           const CacheShape& cache, int d, int last, float* out,
                                                           int outStride) {
    __m512 sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++)
        sum[r][v] = _mm512_mul_ps(_mm512_loadu_ps(out + r * outStride + d + v * lanes), _mm512_set1_ps(keep[r]));
    int end = tile.end - tile.base;
    __mmask16 most = Partial ? __mmask16((1u << last) - 1) : __mmask16(0xffff);
    for (int p = (tile.first - tile.base) / 2 * 2; p < end; p += 2) {
      const char* from = positionAt(tile.values, p, size_t(cache.width) * 2) + d * 4;
      __m512i mask = _mm512_set1_epi32(p + 1 < end ? -1 : 0xffff);
      __m512bh value[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) {
        __m512i pairs = Partial && v == V - 1 ? _mm512_maskz_loadu_epi32(most, from + v * 64)
                                              : _mm512_loadu_si512(from + v * 64);
        value[v] = (__m512bh)_mm512_and_si512(pairs, mask);
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        __m512bh weight = (__m512bh)_mm512_set1_ps(weights[r * tilePositions + p / 2]);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], value[v], weight);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) _mm512_storeu_ps(out + r * outStride + d + v * lanes, sum[r][v]);
  }
};

#endif

/// int8 codes and a half for each group of a head's dimensions: keys [D][block], scales [D/group][block]; values
/// [block][D], scales [block][D/group].
struct CodedCache {
  static constexpr int format = cacheQ8;

  static void query(const float* from, float factor, int width, int stride, float* to) {
    HalfCache::query(from, factor, width, stride, to);
  }
  static void weights(float*) {}

  template <int R, int V>
  static void scores(const float* q, int stride, const Tile& tile, const CacheShape& cache, int p, float* scores) {
    const char* k[V];
    const Half* scale[V];
    Vector sum[R][V];
    for (int v = 0; v < V; v++) {
      k[v] = positionAt(tile.keys, p + v * lanes, 1);
      scale[v] = reinterpret_cast<const Half*>(positionAt(tile.keyScales, p + v * lanes, 2));
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) sum[r][v] = zero();
    int group = cache.groupWidth();
    for (int g = 0; g < cache.width / group; g++) {
      Vector part[R][V];
#pragma GCC unroll 8
      for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) part[r][v] = zero();
      for (int d = g * group; d < (g + 1) * group; d++) {
        Vector key[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) key[v] = loadSigned(k[v] + size_t(d) * cache.blockTokens);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          Vector query = splat(q[d * stride + r]);
#pragma GCC unroll 4
          for (int v = 0; v < V; v++) part[r][v] = fma(query, key[v], part[r][v]);
        }
      }
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) {
        Vector of = loadHalf(scale[v] + size_t(g) * cache.blockTokens);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) sum[r][v] = fma(part[r][v], of, sum[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) store(scores + r * tilePositions + p + v * lanes, sum[r][v]);
  }

  template <int R, int V, bool Partial>
  static void values(const float* weights, const float* keep, const Tile& tile, const CacheShape& cache, int d,
                     int last, float* out, int outStride) {
    Vector sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) sum[r][v] = load(out + r * outStride + d + v * lanes) * keep[r];
    int end = tile.end - tile.base, group = cache.groupWidth(), groups = cache.width / group;
    for (int p = tile.first - tile.base; p < end; p++) {
      const char* from = positionAt(tile.values, p, cache.width) + d;
      const Half* scales = reinterpret_cast<const Half*>(positionAt(tile.valueScales, p, size_t(groups) * 2));
      Vector value[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) {
        Vector codes = Partial && v == V - 1 ? loadSigned(from + v * lanes, last) : loadSigned(from + v * lanes);
        value[v] = codes * splat(halfToFloat(scales[(d + v * lanes) / group]));
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        Vector weight = splat(weights[r * tilePositions + p]);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sum[r][v] = fma(weight, value[v], sum[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) store(out + r * outStride + d + v * lanes, sum[r][v]);
  }
};

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
        Cache::template scores<R, 4>(query + row, stride, tile, cache, p, to);
    for (; p < end; p += 2 * lanes) Cache::template scores<R, 2>(query + row, stride, tile, cache, p, to);
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
    Cache::template values<R, V, Partial>(weights + row * tilePositions, keep + row, tile, cache, d, last,
                                          out + row * outStride, outStride);
  }
};

}  // namespace
