// Coded weights as a product reads them: the codes of a group, and what turns sums of codes into numbers.
// packed.h says where they lie. One description serves every instruction set; only the dot product differs.
//
// `most` is the largest of the codes. A format cuts a group of 32 inputs into `parts` with a scale of their own. `bias` is what its codes have too
// much, and `offset` whether something is added per group; both are multiplied by sums of activations.
// `askedTwice` where one row or two are computed so quickly that the memory's queue is full and drops what is asked for: such codes
// are asked for once more, nearer to their use. Groups that `share` a scale do so by blocks of `scaleGroups`. `stream` where one row goes by one panel after the other, every line
// asked for `streamAhead` bytes before its use; a group takes `groupBytes` of it.
#pragma once

#include "packed.h"
#include "simd.h"

namespace {

typedef uint8_t Bytes __attribute__((vector_size(lanes * 4)));
typedef uint16_t Shorts __attribute__((vector_size(lanes * 4)));
typedef int8_t LaneCodes __attribute__((vector_size(lanes)));

inline Bytes loadBytes(const char* from) {
  Bytes bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  return bytes;
}

/// Groups of activations that share a scale beside these codes.
template <class Codes>
constexpr size_t activationGroups = Codes::share ? scaleGroups : sumGroups;

/// Bits `from`.. of each byte at bits `to`..; the others hold whatever their neighbours had.
template <int from, int to>
inline Bytes moveBits(Bytes bytes) {
  if constexpr (from > to) return (Bytes)((Shorts)bytes >> (from - to));
  else return (Bytes)((Shorts)bytes << (to - from));
}

/// Vector v of the panel's bytes for inputs 4 j.. of a group: four of each output.
struct EightBits {
  static constexpr int most = 255;
  static constexpr size_t bytes = 512;
  template <int j>
  static Bytes at(const char* group, int v) {
    return loadBytes(group + 64 * j + lanes * 4 * v);
  }
};

struct FourBits {
  static constexpr int most = 15;
  static constexpr size_t bytes = 256;
  template <int j>
  static Bytes at(const char* group, int v) {
    Bytes pairs = loadBytes(group + 64 * (j % 4) + lanes * 4 * v);
    return moveBits<j < 4 ? 0 : 4, 0>(pairs) & 15;
  }
};

struct FiveBits {
  static constexpr int most = 31;
  static constexpr size_t bytes = 320;
  template <int j>
  static Bytes at(const char* group, int v) {
    return FourBits::at<j>(group + 64, v) | (moveBits<j, 4>(loadBytes(group + lanes * 4 * v)) & 16);
  }
};

struct SixBits {
  static constexpr int most = 63;
  static constexpr size_t bytes = 384;
  template <int j>
  static Bytes at(const char* group, int v) {
    Bytes upper = loadBytes(group + (j < 4 ? 0 : 320) + lanes * 4 * v);
    return FourBits::at<j>(group + 64, v) | (moveBits<j % 4 * 2, 4>(upper) & 48);
  }
};

// Where tiles take the signed codes of q8, vectors beside them still multiply codes without a sign.
#if defined(ROPEWAY_TILES)
constexpr uint8_t signBias = 128;
#else
constexpr uint8_t signBias = 0;
#endif

/// Numbers of E2M1: twice what each means, and 12 more, so that none is below zero.
inline Bytes numbersOfFour(Bytes codes) {
#if defined(__AVX512BW__)
  const __m128i table = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
  return (Bytes)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), (__m512i)codes);
#elif defined(__AVX2__)
  const __m128i table = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
  return (Bytes)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), (__m256i)codes);
#elif defined(ROPEWAY_NEON)
  const Bytes table = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
  return (Bytes)vqtbl1q_u8((uint8x16_t)table, (uint8x16_t)codes);
#else
  const Bytes magnitude = codes & 7, minus = (Bytes)((codes & 8) != 0);
  const Bytes twice = magnitude + ((Bytes)(magnitude > 4) & 1) + ((Bytes)(magnitude > 5) & 1) + ((Bytes)(magnitude > 6) & 3);
  return ((twice ^ minus) - minus) + 12;
#endif
}

struct FourBitFloats : FourBits {
  static constexpr int most = 24;
  template <int j>
  static Bytes at(const char* group, int v) {
    return numbersOfFour(FourBits::at<j>(group, v));
  }
};

/// A power of two per group, those of four groups before the codes of all.
struct MX4Codes : FourBitFloats {
  static constexpr size_t groupBytes = pairScaleBytes / 4 + FourBitFloats::bytes, streamAhead = 8192;
  static constexpr int format = packedMX4, parts = 1, bias = 12;
  static constexpr bool share = false, offset = false, negative = false, askedTwice = false, stream = true;
  static const char* group(const char* panel, size_t g) { return panel + microCodesAt(g); }
  static Vector scale(const char* panel, size_t g, int, int v) {
    typedef uint8_t Exponents __attribute__((vector_size(lanes)));
    Exponents bytes;
    __builtin_memcpy(&bytes, panel + microScalesAt(g) + v * lanes, sizeof bytes);
    // 2^-127 is below what an exponent alone can say.
    VectorInt bits = maximum(__builtin_convertvector(bytes, VectorInt) << 23, VectorInt{} + 0x400000);
    return (Vector)bits * splat(0.5f);
  }
  static Vector shift(const char*, size_t, int) { return zero(); }
};

/// A scale per eight groups, whose sums of codes are added up before they are scaled.
struct Q8Codes : EightBits {
  // Whole bytes are asked for mostly within the page, so that the hardware takes it for the stream that it follows itself; from
  // 4 KiB on the two got in each other's way (0.6 of a plain read instead of 0.9).
  // Intel's cores with tiles get 0.72 of a plain read so, and 0.87 with what asks 8 KiB ahead (q4s).
  static constexpr size_t groupBytes = pairScaleBytes / sharedGroups + EightBits::bytes, streamAhead = signBias ? 8192 : 1024;
  static constexpr int format = packedQ8, parts = 1, bias = codeBias + signBias;
  static constexpr bool share = true, offset = false, negative = bias == 0, askedTwice = false, stream = true;
  template <int j>
  static Bytes at(const char* group, int v) {
    return EightBits::at<j>(group, v) ^ signBias;
  }
  static const char* group(const char* panel, size_t g) { return panel + sharedCodesAt(g); }
  static Vector scale(const char* panel, size_t g, int, int v) {
    return loadHalf(reinterpret_cast<const Half*>(panel + sharedScalesAt(g)) + v * lanes);
  }
  static Vector shift(const char*, size_t, int) { return zero(); }
};

/// A scale per group, those of two groups before the codes of both.
template <class Bits, int packed, int tooMuch>
struct PairScaled : Bits {
  static constexpr size_t groupBytes = pairScaleBytes / 2 + Bits::bytes, streamAhead = 8192;
  static constexpr int format = packed, parts = 1, bias = tooMuch;
  static constexpr bool share = false, offset = false, negative = false, askedTwice = false, stream = true;
  static const char* group(const char* panel, size_t g) { return panel + pairCodesAt(g, Bits::bytes); }
  static Vector scale(const char* panel, size_t g, int, int v) {
    return loadHalf(reinterpret_cast<const Half*>(panel + pairScalesAt(g, Bits::bytes)) + g % 2 * panelOutputs + v * lanes);
  }
  static Vector shift(const char*, size_t, int) { return zero(); }
};

using Q4SCodes = PairScaled<FourBits, packedQ4S, 8>;
using Q5SCodes = PairScaled<FiveBits, packedQ5S, 16>;

/// A scale and an offset per group, right behind its codes.
template <class Bits, int packed>
struct GroupScaled : Bits {
  static constexpr int format = packed, parts = 1, bias = 0;
  static constexpr bool share = false, offset = true, negative = false, askedTwice = false, stream = false;
  static const char* group(const char* panel, size_t g) { return panel + g * (Bits::bytes + 64); }
  static Vector scale(const char* panel, size_t g, int, int v) {
    return loadHalf(reinterpret_cast<const Half*>(group(panel, g) + Bits::bytes) + v * lanes);
  }
  static Vector shift(const char* panel, size_t g, int v) {
    return loadHalf(reinterpret_cast<const Half*>(group(panel, g) + Bits::bytes + 32) + v * lanes);
  }
};

using Q4Codes = GroupScaled<FourBits, packedQ4>;
using Q5Codes = GroupScaled<FiveBits, packedQ5>;

/// Blocks of eight groups, whose scales are bytes that a number of the block is multiplied by.
template <class Bits>
struct InBlocks : Bits {
  static constexpr size_t groupBytes = pairScaleBytes / blockGroups + pairScaleBytes / 2 + Bits::bytes, streamAhead = 8192;
  static const char* group(const char* panel, size_t g) {
    return panel + blockAt(g, Bits::bytes) + pairScaleBytes + pairCodesAt(g % blockGroups, Bits::bytes);
  }
  /// The 32 bytes of a group.
  static const char* scales(const char* panel, size_t g) {
    return panel + blockAt(g, Bits::bytes) + pairScaleBytes + pairScalesAt(g % blockGroups, Bits::bytes) + g % 2 * 32;
  }
  static Vector ofBlock(const char* panel, size_t g, int v) {
    return loadHalf(reinterpret_cast<const Half*>(panel + blockAt(g, Bits::bytes)) + v * lanes);
  }
};

/// A group's scale and offset, multiplied by two numbers of the block.
template <class Bits, int packed>
struct BlockScaled : InBlocks<Bits> {
  using Blocks = InBlocks<Bits>;
  static constexpr int format = packed, parts = 1, bias = 0;
  static constexpr bool share = false, offset = true, negative = false, askedTwice = Bits::most > 15, stream = true;
  static Vector scale(const char* panel, size_t g, int, int v) {
    return loadUnsigned(Blocks::scales(panel, g) + v * lanes) * Blocks::ofBlock(panel, g, v);
  }
  static Vector shift(const char* panel, size_t g, int v) {
    return loadUnsigned(Blocks::scales(panel, g) + 16 + v * lanes) * Blocks::ofBlock(panel, g, panelVectors + v);
  }
};

using Q4KCodes = BlockScaled<FourBits, packedQ4K>;
using Q5KCodes = BlockScaled<FiveBits, packedQ5K>;

/// Two signed scales a group, multiplied by a number of the block; codes have 32 too much.
struct Q6KCodes : InBlocks<SixBits> {
  static constexpr int format = packedQ6K, parts = 2, bias = 32;
  static constexpr bool share = false, offset = false, negative = false, askedTwice = true, stream = true;
  static Vector scale(const char* panel, size_t g, int part, int v) {
    return loadSigned(scales(panel, g) + part * 16 + v * lanes) * ofBlock(panel, g, v);
  }
  static Vector shift(const char*, size_t, int) { return zero(); }
};

#if defined(__AVX2__) && !defined(ROPEWAY_SUMS_OF_BYTES)

/// Products of codes and activations, summed by two in 16 bits.
template <bool negative>
inline __m256i pairsOfBytes(Bytes codes, VectorInt activations) {
  __m256i w = (__m256i)codes, a = (__m256i)activations;
  // The first factor of the byte product is unsigned: a weight's sign moves to the activation.
  return negative ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w)) : _mm256_maddubs_epi16(w, a);
}

#endif

/// sum[o] += codes[4 o + c] * activations[c], c in 0..3; `negative` codes have a sign.
template <bool negative>
inline VectorInt dotBytes(VectorInt sum, Bytes codes, VectorInt activations) {
#if defined(__AVX512VNNI__)
  return (VectorInt)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, (__m512i)activations);
#elif defined(__AVXVNNI__)
  return (VectorInt)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)codes, (__m256i)activations);
#elif defined(__AVX2__)
  return sum + (VectorInt)_mm256_madd_epi16(pairsOfBytes<negative>(codes, activations), _mm256_set1_epi16(1));
#elif defined(ROPEWAY_NEON)
  // Codes without a sign are below 64, so that a signed product serves all.
  int8x16_t w = (int8x16_t)codes, a = (int8x16_t)activations;
#if defined(__ARM_FEATURE_DOTPROD)
  return (VectorInt)vdotq_s32((int32x4_t)sum, w, a);
#else
  int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(a))), high = vpaddlq_s16(vmull_high_s8(w, a));
  return sum + (VectorInt)vpaddq_s32(low, high);
#endif
#elif defined(__SSE2__)
  // Bytes at even places and at odd ones as 16 bits each: the products of an output stay in its lane.
  typedef int16_t Signed __attribute__((vector_size(lanes * 4)));
  Signed a = (Signed)activations, even = (Signed)((Shorts)codes & 255), odd = (Signed)((Shorts)codes >> 8);
  if constexpr (negative) even = (Signed)((Shorts)codes << 8) >> 8, odd = (Signed)codes >> 8;
  sum += (VectorInt)_mm_madd_epi16((__m128i)even, (__m128i)((Signed)((Shorts)a << 8) >> 8));
  return sum + (VectorInt)_mm_madd_epi16((__m128i)odd, (__m128i)(a >> 8));
#else
  int8_t a[lanes * 4];
  __builtin_memcpy(a, &activations, sizeof a);
  for (int o = 0; o < lanes; o++)
    for (int c = 0; c < 4; c++) {
      int32_t code = negative ? int32_t(int8_t(codes[4 * o + c])) : int32_t(codes[4 * o + c]);
      sum[o] += code * a[4 * o + c];
    }
  return sum;
#endif
}

}  // namespace
