// How weights lie in memory for the products, and how rows get there.
//
// Outputs are grouped in panels of 16, one SIMD lane each; inputs in groups of 32 that share a scale, as in
// GGUF's Q8_0 and Q4_0. One panel is all its codes, then all its scales:
//
//   q8  codes [K/32 groups][8][16 outputs][4 inputs] int8, scales [K/32][16] half     17 K bytes
//   q4  codes [K/32 groups][4][16 outputs][4 inputs] two nibbles each: inputs 4 j + c in the low one,
//       4 j + 16 + c in the high one; scales [K/32][16], offsets [K/32][16] half      10 K bytes
//       value = code * scale + offset
//   f16, f32  [K][16 outputs]                                                         32 K or 64 K bytes
//   bf16      [K/2][16 outputs][2 inputs]                                             32 K bytes
//
// K is the number of inputs up to a whole group; a weight's own tail is packed as zeros.
// The AVX-512 kernels multiply unsigned weights by signed activations, so their q8 codes are biased by 128; tiles take both signed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd.h"

namespace {

constexpr int panelOutputs = 16;
constexpr int groupInputs = 32;

#if defined(__AVX512VNNI__) && !defined(ROPEWAY_TILES)
constexpr uint8_t codeBias = 128;
#else
constexpr uint8_t codeBias = 0;
#endif

enum PackedFormat { packedQ8 = 0, packedQ4 = 1, packedF16 = 2, packedBF16 = 3, packedF32 = 4 };

/// ggml's type numbers of what can be packed.
enum SourceType { sourceF32 = 0, sourceF16 = 1, sourceQ4_0 = 2, sourceQ4_1 = 3, sourceQ8_0 = 8, sourceBF16 = 30 };

inline size_t wholeGroups(size_t inputs) { return (inputs + groupInputs - 1) / groupInputs * groupInputs; }

/// `inputs` is a multiple of 32.
inline size_t panelBytes(int format, size_t inputs) {
  switch (format) {
    case packedQ8: return inputs * 17;
    case packedQ4: return inputs * 10;
    case packedF32: return inputs * 64;
    default: return inputs * 32;
  }
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

inline float bfloatToFloat(Half half) {
  uint32_t bits = uint32_t(half) << 16;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

/// 32 numbers as int8 codes and a scale: GGUF's Q8_0. Rounds half away from zero, as ggml does.
inline Half quantiseGroup(const float* x, int8_t* codes) {
  float highest = 0;
  for (int i = 0; i < groupInputs; i++) {
    float magnitude = x[i] < 0 ? -x[i] : x[i];
    if (magnitude > highest) highest = magnitude;
  }
  float scale = highest / 127.0f, inverse = scale > 0 ? 1.0f / scale : 0.0f;
  for (int i = 0; i < groupInputs; i++) {
    float scaled = x[i] * inverse;
    codes[i] = int8_t(scaled < 0 ? scaled - 0.5f : scaled + 0.5f);
  }
  return floatToHalf(scale);
}

/// One group of a row as codes, scale and offset, or as floats when the source has no codes.
struct SourceGroup {
  bool coded;
  int8_t codes[groupInputs];
  Half scale, offset;
  float values[groupInputs];
};

template <class T>
inline T readAs(const char* from) {
  T value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

inline float readNumber(const char* row, size_t index, int type) {
  if (type == sourceF32) return readAs<float>(row + index * 4);
  Half half = readAs<Half>(row + index * 2);
  return type == sourceF16 ? halfToFloat(half) : bfloatToFloat(half);
}

inline void readGroup(const char* row, size_t inputs, size_t group, int type, SourceGroup* out) {
  out->coded = false;
  switch (type) {
    case sourceF32:
    case sourceF16:
    case sourceBF16:
      for (size_t i = 0; i < groupInputs; i++) {
        size_t index = group * groupInputs + i;
        out->values[i] = index < inputs ? readNumber(row, index, type) : 0.0f;
      }
      return;
    case sourceQ8_0: {
      const char* block = row + group * 34;
      out->coded = true;
      out->scale = readAs<Half>(block);
      __builtin_memcpy(out->codes, block + 2, 32);
      return;
    }
    case sourceQ4_0:
    case sourceQ4_1: {
      bool offset = type == sourceQ4_1;
      const char* block = row + group * (offset ? 20 : 18);
      out->coded = true;
      out->scale = readAs<Half>(block);
      out->offset = offset ? readAs<Half>(block + 2) : floatToHalf(-8.0f * halfToFloat(out->scale));
      for (int i = 0; i < 16; i++) {
        uint8_t pair = uint8_t(block[(offset ? 4 : 2) + i]);
        out->codes[i] = int8_t(pair & 15);
        out->codes[i + 16] = int8_t(pair >> 4);
      }
      return;
    }
  }
}

inline void packQ8Group(char* panel, size_t inputs, size_t group, int lane, SourceGroup* source) {
  if (!source->coded) source->scale = quantiseGroup(source->values, source->codes);
  char* codes = panel + group * 512 + lane * 4;
  for (int i = 0; i < groupInputs; i++) codes[i / 4 * 64 + i % 4] = char(uint8_t(source->codes[i]) + codeBias);
  __builtin_memcpy(panel + inputs * 16 + (group * 16 + lane) * 2, &source->scale, 2);
}

inline void packQ4Group(char* panel, size_t inputs, size_t group, int lane, const SourceGroup* source) {
  char* codes = panel + group * 256 + lane * 4;
  for (int i = 0; i < 16; i++) codes[i / 4 * 64 + i % 4] = char(source->codes[i] | source->codes[i + 16] << 4);
  char* scales = panel + inputs * 8;
  __builtin_memcpy(scales + (group * 16 + lane) * 2, &source->scale, 2);
  __builtin_memcpy(scales + inputs + (group * 16 + lane) * 2, &source->offset, 2);
}

/// Index of input k of output `lane` in a panel of a float format.
inline size_t floatAt(int format, size_t k, int lane) {
  return format == packedBF16 ? (k / 2 * panelOutputs + lane) * 2 + k % 2 : k * panelOutputs + lane;
}

inline void packFloatGroup(char* panel, size_t group, int lane, int format, const float* values) {
  for (int i = 0; i < groupInputs; i++) {
    size_t at = floatAt(format, group * groupInputs + i, lane);
    if (format == packedF32) __builtin_memcpy(panel + at * 4, &values[i], 4);
    else {
      Half half = format == packedF16 ? floatToHalf(values[i]) : bfloatOf(values[i]);
      __builtin_memcpy(panel + at * 2, &half, 2);
    }
  }
}

/// Puts `rows` rows of a weight, [rows, inputs] of a source type, at `firstRow` of a packed weight.
/// Lanes behind the last row keep what was there: nothing reads their sums.
inline void packRows(int format, char* packed, int64_t inputs, int64_t firstRow, int64_t rows, int type,
                     const char* source, int64_t sourceRowBytes, int interleave) {
  size_t padded = wholeGroups(inputs);
  for (int64_t r = 0; r < rows; r++) {
    size_t row = packedRow(size_t(firstRow + r), interleave);
    char* panel = packed + row / panelOutputs * panelBytes(format, padded);
    int lane = int(row % panelOutputs);
    for (size_t g = 0; g < padded / groupInputs; g++) {
      SourceGroup group;
      readGroup(source + r * sourceRowBytes, inputs, g, type, &group);
      if (format == packedQ8) packQ8Group(panel, padded, g, lane, &group);
      else if (format == packedQ4) packQ4Group(panel, padded, g, lane, &group);
      else packFloatGroup(panel, g, lane, format, group.values);
    }
  }
}

/// One number of a packed weight, for looking rows up; products never come here.
inline float packedNumber(int format, const char* panel, size_t padded, size_t k, int lane) {
  size_t group = k / groupInputs, i = k % groupInputs;
  switch (format) {
    case packedQ8: {
      int code = int8_t(uint8_t(panel[group * 512 + i / 4 * 64 + lane * 4 + i % 4]) - codeBias);
      return float(code) * halfToFloat(readAs<Half>(panel + padded * 16 + (group * 16 + lane) * 2));
    }
    case packedQ4: {
      uint8_t pair = uint8_t(panel[group * 256 + i % 16 / 4 * 64 + lane * 4 + i % 4]);
      const char* scale = panel + padded * 8 + (group * 16 + lane) * 2;
      return fma(float(i < 16 ? pair & 15 : pair >> 4), halfToFloat(readAs<Half>(scale)),
                 halfToFloat(readAs<Half>(scale + padded)));
    }
    case packedF32: return readAs<float>(panel + floatAt(format, k, lane) * 4);
    case packedF16: return halfToFloat(readAs<Half>(panel + floatAt(format, k, lane) * 2));
    default: return bfloatToFloat(readAs<Half>(panel + floatAt(format, k, lane) * 2));
  }
}

}  // namespace
