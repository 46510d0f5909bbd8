// Weights as files have them: one group of 32 inputs of a row, as codes or as floats (ggml's block layouts).
#pragma once

#include "packed.h"

namespace {

/// ggml's type numbers of what can be packed.
enum SourceType {
  sourceF32 = 0, sourceF16 = 1, sourceQ4_0 = 2, sourceQ4_1 = 3, sourceQ5_0 = 6, sourceQ5_1 = 7, sourceQ8_0 = 8,
  sourceQ4_K = 12, sourceQ5_K = 13, sourceQ6_K = 14, sourceBF16 = 30, sourceMXFP4 = 39,
};

/// A group as codes with what turns them into numbers, or as floats when the source has no codes.
struct SourceGroup {
  bool coded;
  int8_t codes[groupInputs];
  Half scale, offset;      // of the group, or of its block of groups
  uint8_t scaleCodes[2];   // of blocks: what `scale` is multiplied by; two halves of a group in Q6_K; MXFP4's exponent
  uint8_t offsetCode;      // of blocks: what `offset` is multiplied by
  float values[groupInputs];
};

inline float readNumber(const char* row, size_t index, int type) {
  if (type == sourceF32) return readAs<float>(row + index * 4);
  Half half = readAs<Half>(row + index * 2);
  return type == sourceF16 ? halfToFloat(half) : bfloatToFloat(half);
}

/// 16 bytes: elements 0..15 in the low nibbles, 16..31 in the high ones.
inline void readNibbles(const char* from, int8_t* codes) {
  for (int i = 0; i < 16; i++) {
    codes[i] = int8_t(uint8_t(from[i]) & 15);
    codes[i + 16] = int8_t(uint8_t(from[i]) >> 4);
  }
}

/// Q4_0, Q4_1, Q5_0 and Q5_1: scale, [offset], [fifth bits], nibbles.
inline void readSmall(const char* row, size_t group, bool fives, bool offset, SourceGroup* out) {
  const char* block = row + group * ((offset ? 4 : 2) + (fives ? 4 : 0) + 16);
  const char* rest = block + (offset ? 4 : 2);
  out->scale = readAs<Half>(block);
  if (offset) out->offset = readAs<Half>(block + 2);
  readNibbles(rest + (fives ? 4 : 0), out->codes);
  if (!fives) return;
  uint32_t bits = readAs<uint32_t>(rest);
  for (int i = 0; i < groupInputs; i++) out->codes[i] = int8_t(out->codes[i] | (bits >> i & 1) << 4);
}

/// Q4_K and Q5_K: block of 256 with scale, offset, 12 bytes of 6-bit scales and offsets, [fifth bits], nibbles.
inline void readSuper(const char* row, size_t group, bool fives, SourceGroup* out) {
  const char* block = row + group / 8 * (fives ? 176 : 144);
  size_t g = group % 8;
  const uint8_t* packed = reinterpret_cast<const uint8_t*>(block + 4);
  out->scale = readAs<Half>(block);
  out->offset = Half(readAs<Half>(block + 2) ^ 0x8000);  // files take it off
  out->scaleCodes[0] = g < 4 ? packed[g] & 63 : (packed[g + 4] & 15) | packed[g - 4] >> 6 << 4;
  out->offsetCode = g < 4 ? packed[g + 4] & 63 : packed[g + 4] >> 4 | packed[g] >> 6 << 4;
  const uint8_t* nibbles = reinterpret_cast<const uint8_t*>(block + (fives ? 48 : 16) + g / 2 * 32);
  for (int i = 0; i < groupInputs; i++) {
    int code = nibbles[i] >> g % 2 * 4 & 15;
    if (fives) code |= (uint8_t(block[16 + i]) >> g & 1) << 4;
    out->codes[i] = int8_t(code);
  }
}

/// Q6_K: 128 bytes of lower four bits, 64 of upper two, 16 signed scales, scale of scales.
inline void readSix(const char* row, size_t group, SourceGroup* out) {
  const char* block = row + group / 8 * 210;
  size_t g = group % 8, part = g / 4, run = g % 4;
  out->scale = readAs<Half>(block + 208);
  for (int half = 0; half < 2; half++) out->scaleCodes[half] = uint8_t(block[192 + g * 2 + half]);
  const uint8_t* lower = reinterpret_cast<const uint8_t*>(block + part * 64 + run % 2 * 32);
  const uint8_t* upper = reinterpret_cast<const uint8_t*>(block + 128 + part * 32);
  for (int i = 0; i < groupInputs; i++)
    out->codes[i] = int8_t((lower[i] >> run / 2 * 4 & 15) | (upper[i] >> run * 2 & 3) << 4);
}

inline void readGroup(const char* row, size_t inputs, size_t group, int type, SourceGroup* out) {
  out->coded = true;
  switch (type) {
    case sourceF32:
    case sourceF16:
    case sourceBF16:
      out->coded = false;
      for (size_t i = 0; i < groupInputs; i++) {
        size_t index = group * groupInputs + i;
        out->values[i] = index < inputs ? readNumber(row, index, type) : 0.0f;
      }
      return;
    case sourceQ8_0:
      out->scale = readAs<Half>(row + group * 34);
      __builtin_memcpy(out->codes, row + group * 34 + 2, 32);
      return;
    case sourceQ4_0: return readSmall(row, group, false, false, out);
    case sourceQ4_1: return readSmall(row, group, false, true, out);
    case sourceQ5_0: return readSmall(row, group, true, false, out);
    case sourceQ5_1: return readSmall(row, group, true, true, out);
    case sourceQ4_K: return readSuper(row, group, false, out);
    case sourceQ5_K: return readSuper(row, group, true, out);
    case sourceQ6_K: return readSix(row, group, out);
    case sourceMXFP4:
      out->scaleCodes[0] = uint8_t(row[group * 17]);
      return readNibbles(row + group * 17 + 1, out->codes);
  }
}

}  // namespace
