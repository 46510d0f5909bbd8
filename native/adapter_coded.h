// Factors of adapters in codes of 8 bits, for weights that are codes themselves: what an adapter adds is lowered from the
// codes that the product makes of activations, and what comes out of that becomes codes once more, with a scale per row
// and member. Sums of codes are exact, and scales are applied in one order.
//
// A [ranks / 16] panels as of q8 (packed.h), ranks for outputs; B per two panels: scales [2][16], codes [2][rank / 4][16][4].
// Codes are signed; scales are bfloat16, so small as factors may be, and NaN where a factor is no number.
#pragma once

#include "codes.h"

namespace {

/// Neighbouring rows of activations: their codes, and a scale for each block of `together` groups.
struct RowCodes {
  const int8_t* codes = nullptr;  // [rows][inputs]
  const float* scales = nullptr;  // [blocks][apart]
  size_t inputs = 0, apart = 0, together = scaleGroups;

  float scale(size_t block, size_t row) const { return scales[block * apart + row]; }
  RowCodes from(size_t row) const { return {codes + row * inputs, scales + row, inputs, apart, together}; }
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

/// What takes from sums over `count` codes what `unsignedBias` adds to them; a multiple of 32.
inline int32_t biasOf(const int8_t* codes, size_t count) {
  if (unsignedBias == 0) return 0;
  VectorInt all = {};
  for (size_t j = 0; j < count; j += sizeof all) {
    VectorInt some = {};
    if (count - j >= sizeof some) __builtin_memcpy(&some, codes + j, sizeof some);
    else __builtin_memcpy(&some, codes + j, 32 < sizeof some ? 32 : sizeof some);
    all = dotBytes<false>(all, Bytes{} + 1, some);
  }
  return -int32_t(unsignedBias) * sumLanes(all);
}

/// to[t][r] = sum over inputs of A[r] and row t: one chain over blocks of inputs. Each load of A serves T rows. `to` holds the
/// sums of the blocks before. Where registers allow, codes of a row alone are summed in four chains, which is the same sum.
template <int T>
__attribute__((noinline)) inline void lowerCodes(const char* a, size_t ranks, const RowCodes& rows, float* to, size_t stride) {
  const size_t groups = rows.inputs / groupInputs, panelStride = panelBytes(packedQ8, rows.inputs);
  const size_t together = rows.together;
  for (size_t g = 0; g < groups; g += together) {
    const size_t steps = (groups - g < together ? groups - g : together) * groupInputs / 4;
    const int8_t* codes = rows.codes + g * groupInputs;
    int32_t bias[T];
    for (int t = 0; t < T; t++) bias[t] = biasOf(codes + t * rows.inputs, steps * 4);
    const char* panel = a;
    for (size_t first = 0; first < ranks; first += panelOutputs, panel += panelStride) {
      const char* from = panel + sharedCodesAt(g);
      constexpr int chains = T == 1 && panelVectors <= 2 ? 4 : 1;
      VectorInt dots[chains][T][panelVectors];
#pragma GCC unroll 4
      for (int c = 0; c < chains; c++)
#pragma GCC unroll 8
        for (int t = 0; t < T; t++)
          for (int v = 0; v < panelVectors; v++) dots[c][t][v] = VectorInt{} + (c == 0 ? bias[t] : 0);
      for (size_t j = 0; j < steps; j += chains)
#pragma GCC unroll 4
        for (int c = 0; c < chains; c++) {
          Bytes w[panelVectors];
          for (int v = 0; v < panelVectors; v++) w[v] = loadBytes(from + 64 * (j + c) + lanes * 4 * v);
#pragma GCC unroll 8
          for (int t = 0; t < T; t++) {
            VectorInt four = fourCodes(codes + t * rows.inputs + 4 * (j + c));
            for (int v = 0; v < panelVectors; v++) dots[c][t][v] = dotSigned(dots[c][t][v], w[v], four);
          }
        }
      VectorInt (&dot)[T][panelVectors] = dots[0];
#pragma GCC unroll 4
      for (int c = 1; c < chains; c++)
        for (int v = 0; v < panelVectors; v++) dot[0][v] = dot[0][v] + dots[c][0][v];
      const Half* scales = reinterpret_cast<const Half*>(panel + sharedScalesAt(g));
      for (int v = 0; v < panelVectors; v++) {
        Vector scale = loadBfloat(scales + v * lanes);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) {
          float* sum = to + t * stride + first + v * lanes;
          Vector before = g == 0 ? zero() : load(sum);
          store(sum, fma(__builtin_convertvector(dot[t][v], Vector), scale * splat(rows.scale(g / together, t)), before));
        }
      }
    }
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

/// A row lowered to one member.
struct MemberCodes {
  const int8_t* codes;
  const float* scale;
  const int32_t* bias;
};

/// Lowered rows of one adapter, `stride` floats apart. A row holds its codes [ranks], then a scale for each member, then
/// what it adds to a member's sums of codes.
struct LoweredCodes {
  float* rows;
  size_t stride, ranks, members;

  int8_t* codes(size_t row) const { return reinterpret_cast<int8_t*>(rows + row * stride); }
  float* scale(size_t row, size_t member) const { return rows + row * stride + ranks / 4 + member; }
  int32_t* bias(size_t row, size_t member) const { return reinterpret_cast<int32_t*>(scale(row, members + member)); }
  MemberCodes of(size_t row, size_t member, int firstRank) const {
    return {codes(row) + firstRank, scale(row, member), bias(row, member)};
  }
};

/// Where panel `index` of a member's B begins: its scales, and its codes.
struct PanelCodes {
  const char *scales, *codes;

  PanelCodes(const char* b, int rank, int64_t index) {
    const char* pair = b + (index >> 1) * pairBytes(rank);
    scales = pair + (index & 1) * panelOutputs * 2;
    codes = pair + pairScaleBytes + (index & 1) * rank * panelOutputs;
  }
  static int64_t pairBytes(int rank) { return int64_t(pairScaleBytes) + 2 * rank * panelOutputs; }
};

}  // namespace
