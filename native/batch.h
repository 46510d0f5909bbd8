// The iteration's batch as the ops of attention see it: a table of I32 words, written by
// `writeBatchTable` in src/runtime/kernels.ts and the same for every layer.
//
//   words 0..3        sequences, tokens per block, rows (tokens of all sequences), 0
//   words 4+4i..7+4i  sequence i: first row, count of rows, position of its first row, word of its blocks
//   then              block ids, one list per sequence, in order of position
//
// The cache of one layer is two arrays of Half with the same number of elements, cut into blocks. Inside a
// block, keys are stored [kv head][dimension][token] so that neighbouring positions lie side by side, as
// the product of queries and keys wants them; values are stored [kv head][token][dimension].
// Tokens per block must be a multiple of 16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd.h"

namespace {

struct Sequence {
  int32_t row, count, start;
  const int32_t* blocks;
};

struct Batch {
  const int32_t* words;

  int sequences() const { return words[0]; }
  int blockTokens() const { return words[1]; }
  int rows() const { return words[2]; }
  Sequence sequence(int index) const {
    const int32_t* entry = words + 4 + 4 * index;
    return {entry[0], entry[1], entry[2], words + entry[3]};
  }
  /// The sequence that owns `row`; first rows ascend.
  Sequence sequenceOf(int row) const {
    int low = 0, high = sequences() - 1;
    while (low < high) {
      int middle = (low + high + 1) / 2;
      if (words[4 + 4 * middle] <= row) low = middle;
      else high = middle - 1;
    }
    return sequence(low);
  }
};

struct CacheShape {
  int kvHeads, width, blockTokens;

  size_t block(int id) const { return size_t(id) * kvHeads * width * blockTokens; }
  size_t head(int index) const { return size_t(index) * width * blockTokens; }
};

}  // namespace
