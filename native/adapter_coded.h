// Factors of adapters in codes of 8 bits, for weights that are codes themselves: what an adapter adds is lowered from the
// codes that the product makes of activations, and what comes out of that becomes codes once more, with a scale per row
// and member. Sums of codes are exact, and scales are applied in one order.
//
// A [ranks / 16] panels as of q8 (packed.h), ranks for outputs; B per two panels: scales [2][16], codes [2][rank / 4][16][4].
// Codes are signed; scales are bfloat16, so small as factors may be, and NaN where a factor is no number.
#pragma once

#include "codes.h"

namespace {

/// One row of activations: its codes, and a scale for each block of 128 of them.
struct RowCodes {
  const int8_t* codes = nullptr;
  const float* scales = nullptr;
  size_t apart = 0;  // from one scale to the next

  float scale(size_t block) const { return scales[block * apart]; }
};

/// What is added to signed codes where one side of byte products has no sign.
#if defined(ROPEWAY_SUMS_OF_BYTES)
constexpr uint8_t unsignedBias = 128;
#else
constexpr uint8_t unsignedBias = 0;
#endif

/// sum[o] += codes[4 o + c] * activations[c], both signed and above -128, and with `unsignedBias` times the activations more.
inline VectorInt dotSigned(VectorInt sum, Bytes codes, VectorInt activations) {
#if defined(__AVX2__) && !defined(ROPEWAY_SUMS_OF_BYTES)
  // The sign moves to the code: then magnitudes of activations serve several vectors.
  __m256i a = (__m256i)activations;
  __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8((__m256i)codes, a));
  return sum + (VectorInt)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
  return dotBytes<unsignedBias == 0>(sum, codes ^ unsignedBias, activations);
#endif
}

inline VectorInt fourCodes(const int8_t* codes) { return readAs<int32_t>(reinterpret_cast<const char*>(codes)) - VectorInt{}; }

/// to[r] = sum over inputs of A[r] and the row: one chain over blocks of inputs.
inline void lowerCodes(const char* a, size_t inputs, size_t ranks, const RowCodes& row, float* to) {
  const size_t groups = inputs / groupInputs;
  for (size_t first = 0; first < ranks; first += panelOutputs, a += panelBytes(packedQ8, inputs)) {
    Vector sum[panelVectors] = {};
    for (size_t g = 0; g < groups; g += scaleGroups) {
      const size_t steps = (groups - g < scaleGroups ? groups - g : scaleGroups) * groupInputs / 4;
      const int8_t* codes = row.codes + g * groupInputs;
      const char* from = a + sharedCodesAt(g);
      VectorInt dot[panelVectors] = {};
      for (size_t j = 0; j < steps; j++) {
        VectorInt four = fourCodes(codes + 4 * j);
        for (int v = 0; v < panelVectors; v++) dot[v] = dotSigned(dot[v], loadBytes(from + 64 * j + lanes * 4 * v), four);
      }
      if (unsignedBias) {
        VectorInt all = {};
        for (size_t j = 0; j < steps * 4; j += lanes) {
          LaneCodes some;
          __builtin_memcpy(&some, codes + j, sizeof some);
          all += __builtin_convertvector(some, VectorInt);
        }
        int32_t bias = -int32_t(unsignedBias) * sumLanes(all);
        for (int v = 0; v < panelVectors; v++) dot[v] += bias;
      }
      const Half* scales = reinterpret_cast<const Half*>(a + sharedScalesAt(g));
      for (int v = 0; v < panelVectors; v++)
        sum[v] = fma(__builtin_convertvector(dot[v], Vector), loadBfloat(scales + v * lanes) * splat(row.scale(g / scaleGroups)), sum[v]);
    }
    for (int v = 0; v < panelVectors; v++) store(to + first + v * lanes, sum[v]);
  }
}

/// Lowered sums of one member as codes, with their scale; `count` is a multiple of 4. What is no number leaves a scale by
/// which every code is none.
inline float codesOfLowered(const float* x, int count, int8_t* codes, int32_t* bias) {
  VectorInt highest = {};
  for (int r = 0; r < count; r += lanes) highest = maximum(magnitudeBits(load(x + r, count - r)), highest);
  int32_t most = maximumLane(highest);
  float scale;
  __builtin_memcpy(&scale, &most, 4);
  scale /= 127.0f;
  const float inverse = scale >= 0x1p-126f ? 1.0f / scale : 0.0f;
  VectorInt all = {};
  for (int r = 0; r < count; r += lanes) {
    VectorInt rounded = inverse == 0 ? VectorInt{} : toNearest(load(x + r, count - r) * inverse);
    LaneCodes narrow = __builtin_convertvector(rounded, LaneCodes);
    __builtin_memcpy(codes + r, &narrow, count - r < lanes ? size_t(count - r) : sizeof narrow);
    all += rounded;
  }
  *bias = -int32_t(unsignedBias) * sumLanes(all);
  return scale;
}

/// Lowered rows of one adapter, `stride` floats apart. A row holds its codes [ranks], then a scale for each member, then
/// what it adds to a member's sums of codes.
struct LoweredCodes {
  float* rows;
  size_t stride, ranks, members;

  int8_t* codes(size_t row) const { return reinterpret_cast<int8_t*>(rows + row * stride); }
  float* scale(size_t row, size_t member) const { return rows + row * stride + ranks / 4 + member; }
  int32_t* bias(size_t row, size_t member) const { return reinterpret_cast<int32_t*>(scale(row, members + member)); }
};

/// Where panel `index` of a member's B begins: its scales, and its codes.
struct PanelCodes {
  const char *scales, *codes;

  PanelCodes(const char* b, int rank, int64_t index) {
    const char* pair = b + index / 2 * pairBytes(rank);
    scales = pair + index % 2 * panelOutputs * 2;
    codes = pair + pairScaleBytes + index % 2 * rank * panelOutputs;
  }
  static int64_t pairBytes(int rank) { return int64_t(pairScaleBytes) + 2 * rank * panelOutputs; }
};

/// sums[t] += B by T rows from `row` on, one panel.
template <int T>
inline void raiseCodes(const PanelCodes& b, int rank, int firstRank, const LoweredCodes& lowered, size_t member, size_t row,
                       float* sums, int sumsStride) {
  VectorInt dot[T][panelVectors];
  const int8_t* own[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; t++) {
    own[t] = lowered.codes(row + t) + firstRank;
    for (int v = 0; v < panelVectors; v++) dot[t][v] = VectorInt{} + *lowered.bias(row + t, member);
  }
  for (int r = 0; r < rank; r += 4) {
    Bytes w[panelVectors];
    for (int v = 0; v < panelVectors; v++) w[v] = loadBytes(b.codes + r * panelOutputs + lanes * 4 * v);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
      VectorInt four = fourCodes(own[t] + r);
      for (int v = 0; v < panelVectors; v++) dot[t][v] = dotSigned(dot[t][v], w[v], four);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; t++)
    for (int v = 0; v < panelVectors; v++) {
      float* to = sums + t * sumsStride + v * lanes;
      Vector scale = loadBfloat(reinterpret_cast<const Half*>(b.scales) + v * lanes) * splat(*lowered.scale(row + t, member));
      store(to, fma(__builtin_convertvector(dot[t][v], Vector), scale, load(to)));
    }
}

}  // namespace
