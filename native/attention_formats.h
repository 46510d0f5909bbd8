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
constexpr int tileVectors = tilePositions / lanes;

/// 64 positions, 16 by 16, because blocks lie anywhere, of the first kv head of a unit and of one that lies behind it.
struct Tile {
  const char* keys[tilePositions / subPositions];         // at dimension 0
  const char* keyScales[tilePositions / subPositions];    // of coded caches
  const char* values[tilePositions / subPositions];       // at dimension 0
  const char* valueScales[tilePositions / subPositions];
  size_t head;                                            // bytes by which all of these are to be moved
  int base, first, end;                                   // positions: of lane 0; some row sees [first, end)

  /// Position p, where positions lie `bytes` apart.
  const char* at(const char* const* from, int p, size_t bytes) const {
    return from[unsigned(p) / subPositions] + head + unsigned(p) % subPositions * bytes;
  }
};

constexpr int registerRows = lanes == 16 ? 8 : lanes == 8 ? 5 : 4;

/// Where dimension 0 of a row's query stands among those of its kv head, and how far apart its dimensions are: rows
/// that are computed together lie together.
struct QueriesTurned {
  /// Before the rows of a unit, so many a head.
  static void begin(int) {}

  static float* queryAt(float* query, int row, int rows, int width, int* stride) {
    int group = row / registerRows * registerRows;
    *stride = rows - group < registerRows ? rows - group : registerRows;
    return query + group * width + row - group;
  }
};

/// Numbers that are converted to floats on their way, and multiplied by floats.
struct FloatFactors : QueriesTurned {
  static constexpr bool tiled = false;
  static constexpr int together = 1, packed = 1;
  using Numbers = Vector;

  static void query(const float* from, float factor, int width, int stride, float* to) {
    for (int d = 0; d < width; d++) to[d * stride] = from[d] * factor;
  }
  static void storeWeights(float* to, const Vector (&weight)[tileVectors]) {
    for (int v = 0; v < tileVectors; v++) store(to + v * lanes, weight[v]);
  }

  /// sum + factor * numbers; `spread` where the factor is read within the product.
  __attribute__((always_inline)) static Vector add(bool spread, Vector sum, const float* factor, int, Vector numbers) {
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
    return loadHalf(reinterpret_cast<const Half*>(tile.at(tile.keyScales, p, 2)) + size_t(group) * cache.blockTokens);
  }
  static Vector value(Vector codes, const Tile& tile, const CacheShape& cache, int p, int d, bool) {
    const char* scales = tile.at(tile.valueScales, p, size_t(cache.groups()) * 2);
    return codes * splat(halfToFloat(reinterpret_cast<const Half*>(scales)[cache.groupOf(d)]));
  }
};

/// A vector of pairs of bfloat16 and its two vectors of floats.
inline Vector evenOf(VectorInt pairs) { return (Vector)(pairs << 16); }
inline Vector oddOf(VectorInt pairs) { return (Vector)(pairs & int32_t(0xffff0000)); }

/// bfloat16: keys [D/2][block][2], values [block/2][D][2].
struct BfloatCache : QueriesTurned {
  static constexpr bool tiled = false;
  static constexpr int bytes = 2, together = 2, packed = 1;
  static constexpr bool scaled = false;
  using Numbers = VectorInt;

  static void query(const float* from, float factor, int width, int stride, float* to) {
    FloatFactors::query(from, factor, width, stride, to);
  }
  static void storeWeights(float* to, const Vector (&weight)[tileVectors]) { FloatFactors::storeWeights(to, weight); }
  static VectorInt load(const char* from) { return (VectorInt)::load(reinterpret_cast<const float*>(from)); }
  static VectorInt load(const char* from, int count) {
    return (VectorInt)::load(reinterpret_cast<const float*>(from), count);
  }
  static Vector keyScale(const Tile&, const CacheShape&, int, int) { return zero(); }
  /// What stands behind the last position may be no number.
  static VectorInt value(VectorInt pairs, const Tile&, const CacheShape&, int, int, bool both) {
    return pairs & (both ? -1 : 0xffff);
  }

  __attribute__((always_inline)) static Vector add(bool spread, Vector sum, const float* factor, int stride, VectorInt pairs) {
    sum = FloatFactors::add(spread, sum, factor, stride, evenOf(pairs));
    return FloatFactors::add(spread, sum, factor + stride, stride, oddOf(pairs));
  }
};

#if defined(__AVX512F__)

/// The same memory, for CPUs that multiply pairs of bfloat16. Wherever a query or weight stands, it stands as a pair
/// of bfloat16 in place of a float.
struct PairCache : BfloatCache {
  static constexpr int packed = 2;

  static void query(const float* from, float factor, int width, int stride, float* to) {
    typedef uint64_t Pairs __attribute__((vector_size(lanes * 4)));
    for (int d = 0; d < width; d += lanes) {
      Pairs bits = (Pairs)bfloatBits(::load(from + d, width - d) * factor);
      Pairs pairs = (bits >> 16 & 0xffff) | (bits >> 32 & 0xffff0000);
      for (int i = 0; i < lanes / 2 && d + 2 * i < width; i++) {
        uint32_t pair = uint32_t(pairs[i]);
        __builtin_memcpy(to + (d / 2 + i) * stride, &pair, 4);
      }
    }
  }

  /// The weights of a tile as pairs, in the first half of their memory.
  static void storeWeights(float* to, const Vector (&weight)[tileVectors]) {
    for (int v = 0; v < tileVectors; v += 2) store(to + v / 2 * lanes, pairsOf(weight[v], weight[v + 1]));
  }

  __attribute__((always_inline)) static Vector add(bool spread, Vector sum, const float* factor, int, VectorInt pairs) {
    return spread ? pairsSpread(factor, pairs, sum) : pairsSplat(factor, pairs, sum);
  }
};

#endif

}  // namespace
