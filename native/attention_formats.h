// The formats of the cache as attention reads them: some numbers at once, and what a product adds to a sum.
//
// A format has `together` neighbouring dimensions (keys) or positions (values) side by side, and `packed` of them in
// one factor. Products of bfloat16 pairs round queries and weights to bfloat16 too, where the CPU has the instruction.
#pragma once

#include "batch.h"
#include "packed.h"
#include "simd.h"

namespace {

constexpr int tilePositions = 64;
constexpr int subPositions = 16;  // positions that always lie in one block

/// 64 positions of one kv head, 16 by 16, because blocks lie anywhere.
struct Tile {
  const char* keys[tilePositions / subPositions];         // at dimension 0
  const char* keyScales[tilePositions / subPositions];    // of coded caches
  const char* values[tilePositions / subPositions];       // at dimension 0
  const char* valueScales[tilePositions / subPositions];
  int base, first, end;                                   // positions: of lane 0; some row sees [first, end)

  /// The same positions of the head that lies `bytes` further on.
  Tile ofHead(size_t bytes) const {
    Tile tile = *this;
    for (int s = 0; s < tilePositions / subPositions; s++) {
      tile.keys[s] += bytes;
      tile.keyScales[s] += bytes;
      tile.values[s] += bytes;
      tile.valueScales[s] += bytes;
    }
    return tile;
  }
};

/// Position p of a tile, of a cache whose positions lie `bytes` apart.
inline const char* positionAt(const char* const* from, int p, size_t bytes) {
  return from[p / subPositions] + p % subPositions * bytes;
}

/// Numbers that are converted to floats on their way, and multiplied by floats.
struct FloatFactors {
  static constexpr int together = 1, packed = 1;
  using Numbers = Vector;

  static void query(const float* from, float factor, int width, int stride, float* to) {
    for (int d = 0; d < width; d++) to[d * stride] = from[d] * factor;
  }
  static void weights(float*) {}

  /// sum + factor * numbers; a factor is worth a register of its own only when there are no others (`spread` false).
  template <bool spread>
  static Vector add(Vector sum, const float* factor, int, Vector numbers) {
    return spread ? fmaSpread(factor, numbers, sum) : fma(splat(*factor), numbers, sum);
  }
};

/// IEEE halves: keys [D][block], values [block][D].
struct HalfCache : FloatFactors {
  static constexpr int bytes = 2;
  static constexpr bool scaled = false;

  static Vector load(const char* from) { return loadHalf(reinterpret_cast<const Half*>(from)); }
  static Vector load(const char* from, int count) { return loadHalf(reinterpret_cast<const Half*>(from), count); }
  static Vector keyScale(const Tile&, const CacheShape&, int, int) { return zero(); }
  static Vector value(Vector numbers, const Tile&, const CacheShape&, int, int, bool) { return numbers; }
};

/// int8 codes and a half for each group of a head's dimensions: keys [D][block], scales [D/group][block]; values
/// [block][D], scales [block][D/group].
struct CodedCache : FloatFactors {
  static constexpr int bytes = 1;
  static constexpr bool scaled = true;

  static Vector load(const char* from) { return loadSigned(from); }
  static Vector load(const char* from, int count) { return loadSigned(from, count); }
  static Vector keyScale(const Tile& tile, const CacheShape& cache, int p, int group) {
    return loadHalf(reinterpret_cast<const Half*>(positionAt(tile.keyScales, p, 2)) + size_t(group) * cache.blockTokens);
  }
  static Vector value(Vector codes, const Tile& tile, const CacheShape& cache, int p, int d, bool) {
    int group = cache.groupWidth();
    const char* scales = positionAt(tile.valueScales, p, size_t(cache.width / group) * 2);
    return codes * splat(halfToFloat(reinterpret_cast<const Half*>(scales)[d / group]));
  }
};

/// A vector of pairs of bfloat16 and its two vectors of floats.
inline Vector evenOf(VectorInt pairs) { return (Vector)(pairs << 16); }
inline Vector oddOf(VectorInt pairs) { return (Vector)(pairs & int32_t(0xffff0000)); }

/// bfloat16: keys [D/2][block][2], values [block/2][D][2].
struct BfloatCache {
  static constexpr int bytes = 2, together = 2, packed = 1;
  static constexpr bool scaled = false;
  using Numbers = VectorInt;

  static void query(const float* from, float factor, int width, int stride, float* to) {
    FloatFactors::query(from, factor, width, stride, to);
  }
  static void weights(float*) {}
  static VectorInt load(const char* from) { return (VectorInt)::load(reinterpret_cast<const float*>(from)); }
  static VectorInt load(const char* from, int count) {
    return (VectorInt)::load(reinterpret_cast<const float*>(from), count);
  }
  static Vector keyScale(const Tile&, const CacheShape&, int, int) { return zero(); }
  /// What stands behind the last position may be no number.
  static VectorInt value(VectorInt pairs, const Tile&, const CacheShape&, int, int, bool both) {
    return pairs & (both ? -1 : 0xffff);
  }

  template <bool spread>
  static Vector add(Vector sum, const float* factor, int stride, VectorInt pairs) {
    sum = FloatFactors::add<spread>(sum, factor, stride, evenOf(pairs));
    return FloatFactors::add<spread>(sum, factor + stride, stride, oddOf(pairs));
  }
};

#if defined(__AVX512F__)

/// The same memory, for CPUs that multiply pairs of bfloat16. Wherever a query or weight stands, it stands as a pair
/// of bfloat16 in place of a float.
struct PairCache : BfloatCache {
  static constexpr int packed = 2;

  static void query(const float* from, float factor, int width, int stride, float* to) {
    for (int d = 0; d < width; d += 2) {
      uint32_t pair = bfloatOf(from[d] * factor) | uint32_t(bfloatOf(from[d + 1] * factor)) << 16;
      __builtin_memcpy(to + d / 2 * stride, &pair, 4);
    }
  }

  /// The weights of a tile as pairs, in the first half of their memory.
  __attribute__((target("avx512bf16"))) static void weights(float* row) {
    for (int p = 0; p < tilePositions; p += 32) {
      __m512bh pairs = _mm512_cvtne2ps_pbh((__m512)::load(row + p + 16), (__m512)::load(row + p));
      __builtin_memcpy(row + p / 2, &pairs, 64);
    }
  }

  template <bool>
  static Vector add(Vector sum, const float* factor, int, VectorInt pairs) {
    return pairsSpread(factor, pairs, sum);
  }
};

#endif

}  // namespace
