// How weights lie in memory for the products.
//
// Outputs are grouped in panels of 16, one SIMD lane each; inputs in groups of 32 that share a scale, as in
// GGUF, in q8 eight groups. One panel is:
//
//   q8   per sixteen groups: scales [2][16] half, each of eight groups, codes [16][8][16 outputs][4 inputs] int8
//                                                                                     16.125 K bytes
//   q4   per group: codes [4][16][4] two nibbles each, inputs 4 j + c in the low one, 4 j + 16 + c in
//        the high one; scales [16], offsets [16] half; value = code * scale + offset       10 K bytes
//   q5   as q4, with [16][4] bytes before the nibbles: bit j is the fifth of input 4 j + c  12 K bytes
//   q4s, q5s  per two groups: scales [2][16] half, codes of both as in q4, q5; value = (code - 8 or 16) * scale
//                                                                                     9 K, 11 K bytes
//   q4k, q5k  per block of 8 groups: [16] half that scales are multiplied by, [16] half that offsets are; then per two
//        groups: [2][scales [16], offsets [16]] bytes, codes of both as in q4, q5       9.25 K, 11.25 K bytes
//   q6k  per block of 8 groups: [16] half that scales are multiplied by, 32 bytes of nothing; then per two groups: scales
//        [2][2 halves][16] int8, codes of both: nibbles as in q4 between [16][4] bytes for either half, of which bits
//        2 i.. are the upper two of input 16 h + 4 i + c; value = (code - 32) * scale      13.25 K bytes
//   mx4  per four groups: scales [4][16] bytes, of which value 2^(byte - 127) is; codes of all as in q4, each a number
//        of E2M1 (OCP Microscaling Formats 1.0)                                            8.5 K bytes
//   f32       [K][16 outputs]                                                         64 K bytes
//   f16       per two panels: [K][2 panels][16 outputs]                               32 K bytes a panel
//   bf16      per two panels: [K/2][2 panels][16 outputs][2 inputs]                   32 K bytes a panel
//
// A last panel of f16 or bf16 has an empty one beside it. One such panel has too few sums for a core to keep up with its
// memory, as each waits for the one before it; two at once were two streams, and 0.83 to 0.9 of a plain read (now 0.98 and more).
// So products read a panel line by line, from its first byte to its last, which is what the hardware follows by itself.
// Where scales lay in a stretch of their own behind the codes, one row of q8 got 0.7 of a plain read on AVX2, now 0.95.
// K is the number of inputs up to a whole group; a weight's own tail is packed as zeros.
// VNNI multiplies unsigned weights by signed activations, so its q8 codes are biased by 128; tiles take both signed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd.h"

namespace {

constexpr int panelOutputs = 16;
constexpr int groupInputs = 32;
/// Groups of q8 weights that share a scale, and of activations beside them. With a scale per group every ninth of their products was
/// by scales.
constexpr size_t scaleGroups = 8;
/// Groups of activations that share a scale beside weights whose groups have their own: those are multiplied group by group, so
/// that longer blocks would save next to nothing. By eight, a mix of K-quants lost a seventh of its accuracy.
constexpr size_t sumGroups = 4;
constexpr int panelVectors = panelOutputs / lanes;

#if defined(ROPEWAY_SUMS_OF_BYTES) && !defined(ROPEWAY_TILES)
constexpr uint8_t codeBias = 128;
#else
constexpr uint8_t codeBias = 0;
#endif

enum PackedFormat {
  packedQ8 = 0, packedQ4 = 1, packedF16 = 2, packedBF16 = 3, packedF32 = 4,
  packedQ5 = 5, packedQ4K = 6, packedQ5K = 7, packedQ6K = 8, packedQ4S = 9, packedQ5S = 10, packedMX4 = 11,
};

/// What one group of a panel keeps of its codes.
inline size_t codeBytes(int format) {
  switch (format) {
    case packedQ8: return 512;
    case packedQ5:
    case packedQ5S:
    case packedQ5K: return 320;
    case packedQ6K: return 384;
    default: return 256;
  }
}

constexpr size_t blockGroups = 8;
/// What stands before the codes of two groups, and once more before a block of eight.
constexpr size_t pairScaleBytes = 64;

/// Where the scales of group g and its neighbour stand, from the panel's first byte, and its codes behind them; for blocks
/// of groups from that of the block.
constexpr size_t pairScalesAt(size_t g, size_t codes) { return g / 2 * (pairScaleBytes + 2 * codes); }
constexpr size_t pairCodesAt(size_t g, size_t codes) { return pairScalesAt(g, codes) + pairScaleBytes + g % 2 * codes; }
constexpr size_t blockAt(size_t g, size_t codes) {
  return g / blockGroups * (pairScaleBytes + pairScalesAt(blockGroups, codes));
}

/// The same of q8, whose scales stand before two blocks of groups.
constexpr size_t sharedGroups = 2 * scaleGroups;
constexpr size_t sharedAt(size_t g) { return g / sharedGroups * (pairScaleBytes + sharedGroups * 512); }
constexpr size_t sharedScalesAt(size_t g) { return sharedAt(g) + g % sharedGroups / scaleGroups * panelOutputs * 2; }
constexpr size_t sharedCodesAt(size_t g) { return sharedAt(g) + pairScaleBytes + g % sharedGroups * 512; }

/// The same of mx4, whose scales of a byte stand before four groups.
constexpr size_t microScalesAt(size_t g) { return g / 4 * (pairScaleBytes + 4 * 256) + g % 4 * panelOutputs; }
constexpr size_t microCodesAt(size_t g) { return g / 4 * (pairScaleBytes + 4 * 256) + pairScaleBytes + g % 4 * 256; }

inline size_t wholeGroups(size_t inputs) { return (inputs + groupInputs - 1) / groupInputs * groupInputs; }

/// `inputs` is a multiple of 32, and for blocks of groups of 256.
inline size_t panelBytes(int format, size_t inputs) {
  switch (format) {
    case packedQ8: return (inputs / groupInputs + sharedGroups - 1) / sharedGroups * pairScaleBytes + inputs / groupInputs * codeBytes(format);
    case packedQ4S:
    case packedQ5S: return pairScalesAt(inputs / groupInputs + inputs / groupInputs % 2, codeBytes(format));
    case packedQ4:
    case packedQ5: return inputs / groupInputs * (codeBytes(format) + 64);
    case packedQ4K:
    case packedQ5K:
    case packedQ6K: return blockAt(inputs / groupInputs, codeBytes(format));
    case packedMX4: return (inputs / groupInputs + 3) / 4 * pairScaleBytes + inputs / groupInputs * codeBytes(format);
    case packedF32: return inputs * 64;
    default: return inputs * 32;
  }
}

/// Whether panels lie in pairs, step by step.
constexpr bool isZipped(int format) { return format == packedF16 || format == packedBF16; }

/// What a step of a panel of floats takes, one input or with bf16 two; so far behind the first of a pair the second begins.
constexpr size_t floatStepBytes(int format) { return format == packedF16 ? 32 : 64; }

/// Where a panel begins, from the packed weight's first byte.
inline size_t panelAt(int format, size_t panel, size_t inputs) {
  size_t bytes = panelBytes(format, inputs);
  return isZipped(format) ? panel / 2 * 2 * bytes + panel % 2 * floatStepBytes(format) : panel * bytes;
}

/// A whole packed weight.
inline size_t packedBytes(int format, size_t panels, size_t inputs) {
  return (isZipped(format) ? panels + panels % 2 : panels) * panelBytes(format, inputs);
}

/// Where gate and up of a gated layer alternate by panel, so that one thread has both: whole 0, gate 1, up 2.
inline size_t packedRow(size_t row, int interleave) {
  if (interleave == 0) return row;
  return row / panelOutputs * 2 * panelOutputs + row % panelOutputs + (interleave == 2 ? panelOutputs : 0);
}

inline Half bfloatOf(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return Half(bits >> 16 | 64);
  return Half((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// The same for a vector; the bfloat16 stand in the upper halves, above whatever is left.
inline VectorInt bfloatBits(Vector value) {
  VectorUnsigned bits = (VectorUnsigned)value;
  VectorUnsigned rounded = bits + 0x7fff + (bits >> 16 & 1);
  return (VectorInt)(value == value ? rounded : bits | 0x400000);
}

/// Numbers as bfloat16, each as bfloatOf gives it.
inline Halves bfloatsOf(Vector x) { return __builtin_convertvector((VectorUnsigned)bfloatBits(x) >> 16, Halves); }

#if defined(__AVX512F__)

/// Rounds to bfloat16; reads and writes up to a whole vector.
inline void roundToPairs(const float* from, size_t count, Half* to) {
  for (size_t k = 0; k < count; k += lanes) {
    const Halves halves = bfloatsOf(load(from + k));
    __builtin_memcpy(to + k, &halves, sizeof halves);
  }
}

#endif

inline float bfloatToFloat(Half half) {
  uint32_t bits = uint32_t(half) << 16;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

/// The code of a number whose group has this inverse scale; half away from zero, as in GGUF's Q8_0.
inline int8_t codeOf(float x, float inverse) {
  float scaled = x * inverse;
  return int8_t(scaled < 0 ? scaled - 0.5f : scaled + 0.5f);
}

/// Scale of a group of numbers as int8 codes, and its inverse. Infinity and NaN leave a scale by which every code is NaN.
inline Half codeScale(const float* x, int count, float* inverse) {
  int32_t most = 0;
  for (int i = 0; i < count; i++) {
    int32_t bits;
    __builtin_memcpy(&bits, x + i, 4);
    bits &= 0x7fffffff;
    if (bits > most) most = bits;
  }
  float highest;
  __builtin_memcpy(&highest, &most, 4);
  float scale = highest / 127.0f;
  *inverse = scale >= 0x1p-126f ? 1.0f / scale : 0.0f;
  return floatToHalf(scale);
}

template <class T>
inline T readAs(const char* from) {
  T value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

/// Index of input k of output `lane` in a panel of a float format, from where the panel begins.
inline size_t floatAt(int format, size_t k, int lane) {
  if (format == packedBF16) return (k / 2 * 2 * panelOutputs + lane) * 2 + k % 2;
  return (format == packedF16 ? k * 2 : k) * panelOutputs + lane;
}

}  // namespace
