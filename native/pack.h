// How rows of a file get into a packed weight, and how single numbers are found there again.
#pragma once

#include "source.h"

namespace {

inline char* pairScaleAt(char* panel, int format, size_t group, int lane) {
  return panel + pairScalesAt(group, codeBytes(format)) + (group % 2 * panelOutputs + lane) * 2;
}

/// Up to eight groups of numbers as codes with one scale.
inline Half quantise(SourceGroup* groups, size_t count) {
  float values[scaleGroups * groupInputs], inverse;
  for (size_t g = 0; g < count; g++) __builtin_memcpy(values + g * groupInputs, groups[g].values, sizeof groups[g].values);
  Half scale = codeScale(values, int(count) * groupInputs, &inverse);
  for (size_t g = 0; g < count; g++)
    for (int i = 0; i < groupInputs; i++) groups[g].codes[i] = codeOf(values[g * groupInputs + i], inverse);
  return scale;
}

/// Rounds codes with a scale of their own to the largest of the groups' scales: at most half a step of that is added to
/// the half that they were rounded by when they were made.
inline Half shareScale(SourceGroup* groups, size_t count) {
  Half most = 0;
  for (size_t g = 0; g < count; g++)
    if ((groups[g].scale & 0x7fff) > (most & 0x7fff)) most = groups[g].scale;
  // Zeros are what they were, and by a scale that is no number all codes are none.
  if ((most & 0x7fff) == 0 || (most & 0x7fff) >= 0x7c00) return most;
  for (size_t g = 0; g < count; g++) {
    if (groups[g].scale == most) continue;
    float ratio = halfToFloat(groups[g].scale) / halfToFloat(most);
    for (int8_t& code : groups[g].codes) code = code == -128 && ratio < 0 ? 127 : codeOf(float(code), ratio);
  }
  return most;
}

/// Groups `first`.. of a lane, of which all but the panel's last are eight.
inline void packSharedGroups(char* panel, size_t first, size_t count, int lane, SourceGroup* groups) {
  Half scale = groups->coded ? shareScale(groups, count) : quantise(groups, count);
  for (size_t g = 0; g < count; g++) {
    char* codes = panel + sharedCodesAt(first + g) + lane * 4;
    for (int i = 0; i < groupInputs; i++) codes[i / 4 * 64 + i % 4] = char(uint8_t(groups[g].codes[i]) + codeBias);
  }
  __builtin_memcpy(panel + sharedScalesAt(first) + lane * 2, &scale, 2);
}

/// Upper bits stand before the nibbles; the second half of q6k's behind them.
inline size_t nibblesAt(int format) { return codeBytes(format) > codeBytes(packedQ4) ? 64 : 0; }

/// A lane of the codes of formats with four to six bits.
inline void packNibbles(char* group, int format, int lane, const int8_t* codes) {
  char *upper = group + lane * 4, *to = upper + nibblesAt(format);
  for (int i = 0; i < 16; i++) to[i / 4 * 64 + i % 4] = char((codes[i] & 15) | (codes[i + 16] & 15) << 4);
  if (codeBytes(format) == codeBytes(packedQ5))
    for (int c = 0; c < 4; c++) {
      upper[c] = 0;
      for (int j = 0; j < 8; j++) upper[c] = char(upper[c] | (codes[4 * j + c] >> 4 & 1) << j);
    }
  if (format == packedQ6K)
    for (int half = 0; half < 2; half++)
      for (int c = 0; c < 4; c++) {
        char& bits = upper[half * 320 + c];
        bits = 0;
        for (int i = 0; i < 4; i++) bits = char(bits | (codes[16 * half + 4 * i + c] >> 4 & 3) << 2 * i);
      }
}

inline void packScaledGroup(char* panel, int format, size_t group, int lane, const SourceGroup* source) {
  size_t bytes = codeBytes(format);
  char* to = panel + group * (bytes + 64);
  packNibbles(to, format, lane, source->codes);
  __builtin_memcpy(to + bytes + lane * 2, &source->scale, 2);
  __builtin_memcpy(to + bytes + 32 + lane * 2, &source->offset, 2);
}

inline void packPairGroup(char* panel, int format, size_t group, int lane, const SourceGroup* source) {
  packNibbles(panel + pairCodesAt(group, codeBytes(format)), format, lane, source->codes);
  __builtin_memcpy(pairScaleAt(panel, format, group, lane), &source->scale, 2);
}

inline void packBlockGroup(char* panel, int format, size_t group, int lane, const SourceGroup* source) {
  size_t bytes = codeBytes(format), inside = group % blockGroups;
  char *block = panel + blockAt(group, bytes), *pairs = block + pairScaleBytes;
  packNibbles(pairs + pairCodesAt(inside, bytes), format, lane, source->codes);
  char* scales = pairs + pairScalesAt(inside, bytes) + inside % 2 * 32 + lane;
  __builtin_memcpy(block + lane * 2, &source->scale, 2);
  scales[0] = char(source->scaleCodes[0]);
  scales[16] = char(format == packedQ6K ? source->scaleCodes[1] : source->offsetCode);
  if (format != packedQ6K) __builtin_memcpy(block + 32 + lane * 2, &source->offset, 2);
}

inline void packMicroGroup(char* panel, int format, size_t group, int lane, const SourceGroup* source) {
  packNibbles(panel + microCodesAt(group), format, lane, source->codes);
  panel[microScalesAt(group) + lane] = char(source->scaleCodes[0]);
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

inline void packGroup(char* panel, int format, size_t group, int lane, SourceGroup* source) {
  switch (format) {
    case packedQ4S:
    case packedQ5S: return packPairGroup(panel, format, group, lane, source);
    case packedQ4:
    case packedQ5: return packScaledGroup(panel, format, group, lane, source);
    case packedQ4K:
    case packedQ5K:
    case packedQ6K: return packBlockGroup(panel, format, group, lane, source);
    case packedMX4: return packMicroGroup(panel, format, group, lane, source);
    default: return packFloatGroup(panel, group, lane, format, source->values);
  }
}

/// Puts `rows` rows of a weight, [rows, inputs] of a source type, at `firstRow` of a packed weight.
/// Lanes behind the last row keep what was there: nothing reads their sums.
inline void packRows(int format, char* packed, int64_t inputs, int64_t firstRow, int64_t rows, int type,
                     const char* source, int64_t sourceRowBytes, int interleave) {
  size_t padded = wholeGroups(inputs);
  for (int64_t r = 0; r < rows; r++) {
    size_t row = packedRow(size_t(firstRow + r), interleave);
    char* panel = packed + panelAt(format, row / panelOutputs, padded);
    const size_t step = format == packedQ8 ? scaleGroups : 1;
    for (size_t first = 0; first < padded / groupInputs; first += step) {
      SourceGroup groups[scaleGroups];
      size_t left = padded / groupInputs - first, count = left < step ? left : step;
      for (size_t g = 0; g < count; g++) readGroup(source + r * sourceRowBytes, inputs, first + g, type, groups + g);
      if (format == packedQ8) packSharedGroups(panel, first, count, int(row % panelOutputs), groups);
      else packGroup(panel, format, first, int(row % panelOutputs), groups);
    }
  }
}

/// Code of input i of a group, of formats with four to six bits.
inline int smallCode(int format, const char* group, size_t i, int lane) {
  const char* at = group + lane * 4 + i % 4;
  uint8_t pair = uint8_t(at[nibblesAt(format) + i % 16 / 4 * 64]);
  int code = i < 16 ? pair & 15 : pair >> 4;
  if (codeBytes(format) == codeBytes(packedQ5)) code |= (uint8_t(at[0]) >> i / 4 & 1) << 4;
  if (format == packedQ6K) code |= (uint8_t(at[i / 16 * 320]) >> i % 16 / 4 * 2 & 3) << 4;
  return code;
}

inline float blockNumber(int format, const char* panel, size_t k, int lane) {
  size_t bytes = codeBytes(format), group = k / groupInputs, inside = group % blockGroups, i = k % groupInputs;
  const char *block = panel + blockAt(group, bytes), *pairs = block + pairScaleBytes;
  const char* scales = pairs + pairScalesAt(inside, bytes) + inside % 2 * 32 + lane;
  float code = float(smallCode(format, pairs + pairCodesAt(inside, bytes), i, lane));
  float scale = halfToFloat(readAs<Half>(block + lane * 2));
  if (format == packedQ6K) return (code - 32) * (float(int8_t(scales[i / 16 * 16])) * scale);
  float offset = halfToFloat(readAs<Half>(block + 32 + lane * 2)) * float(uint8_t(scales[16]));
  return fma(code, float(uint8_t(scales[0])) * scale, offset);
}

inline float pairScale(const char* panel, int format, size_t group, int lane) {
  return halfToFloat(readAs<Half>(panel + pairScalesAt(group, codeBytes(format)) + (group % 2 * panelOutputs + lane) * 2));
}

inline float microNumber(const char* panel, size_t group, size_t i, int lane) {
  constexpr float twice[] = {0, 1, 2, 3, 4, 6, 8, 12};
  const int code = smallCode(packedMX4, panel + microCodesAt(group), i, lane);
  const uint32_t exponent = uint8_t(panel[microScalesAt(group) + lane]), bits = exponent ? exponent << 23 : 0x400000;
  float scale;
  __builtin_memcpy(&scale, &bits, 4);
  return (code & 8 ? -twice[code & 7] : twice[code & 7]) * (scale * 0.5f);
}

/// One number of a packed weight, for looking rows up; products never come here.
inline float packedNumber(int format, const char* panel, size_t k, int lane) {
  size_t group = k / groupInputs, i = k % groupInputs;
  switch (format) {
    case packedQ8: {
      const char* from = panel + sharedCodesAt(group);
      int code = int8_t(uint8_t(from[i / 4 * 64 + lane * 4 + i % 4]) - codeBias);
      return float(code) * halfToFloat(readAs<Half>(panel + sharedScalesAt(group) + lane * 2));
    }
    case packedQ4S:
    case packedQ5S: {
      int code = smallCode(format, panel + pairCodesAt(group, codeBytes(format)), i, lane);
      return float(code - (format == packedQ4S ? 8 : 16)) * pairScale(panel, format, group, lane);
    }
    case packedQ4:
    case packedQ5: {
      size_t bytes = codeBytes(format);
      const char* from = panel + group * (bytes + 64);
      const char* scale = from + bytes + lane * 2;
      return fma(float(smallCode(format, from, i, lane)), halfToFloat(readAs<Half>(scale)),
                 halfToFloat(readAs<Half>(scale + 32)));
    }
    case packedQ4K:
    case packedQ5K:
    case packedQ6K: return blockNumber(format, panel, k, lane);
    case packedMX4: return microNumber(panel, group, i, lane);
    case packedF32: return readAs<float>(panel + floatAt(format, k, lane) * 4);
    case packedF16: return halfToFloat(readAs<Half>(panel + floatAt(format, k, lane) * 2));
    default: return bfloatToFloat(readAs<Half>(panel + floatAt(format, k, lane) * 2));
  }
}

}  // namespace
