// The iteration's batch as the ops of attention see it: a table of I32 words, written by
// `writeBatchTable` in src/runtime/kernels.ts and the same for every layer.
//
//   words 0..3        sequences, tokens per block, rows (tokens of all sequences), 0
//   words 4+4i..7+4i  sequence i: first row, count of rows, position of its first row, word of its blocks
//   then              block ids, one list per sequence, in order of position
//
// The cache of one layer is an array of bytes, cut into blocks. A block has its keys, by kv head, and behind them its
// values, by kv head: what is read together shares pages, and what leads to them. Tokens per block must be a multiple of
// 16. What a head's part of a block's keys or values holds, by format:
//
//   f16    keys [dimension][token], so that neighbouring positions lie side by side as the product of queries and
//          keys wants them; values [token][dimension]
//   bf16   the same in pairs: keys [dimension/2][token][2], values [token/2][dimension][2]
//   q8     int8 codes, keys [dimension][token], values [token][dimension], and behind them a half for each group
//          of dimensions: keys [group][token], values [token][group]. A group is 32 dimensions, or a head of fewer
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

enum CacheFormat { cacheF16 = 0, cacheBF16 = 1, cacheQ8 = 2 };

struct CacheShape {
  int kvHeads, width, blockTokens, format;

  /// A head's groups of dimensions, each with a scale, and where dimension d has its own. In loops of compilers that do not
  /// move a division out of them, one by the width took half of the time.
  int groupWidth() const { return width < 32 ? width : 32; }
  int groups() const { return width < 32 ? 1 : width / 32; }
  int groupOf(int d) const { return int(unsigned(d) / 32); }
  /// Bytes of one head's codes in a block, and of all that it has there.
  size_t codeBytes() const { return size_t(width) * blockTokens * (format == cacheQ8 ? 1 : 2); }
  size_t headBytes() const {
    return codeBytes() + (format == cacheQ8 ? size_t(groups()) * blockTokens * 2 : 0);
  }
  /// Where the keys of a head in a block lie, and how far behind them its values.
  size_t at(int block, int head) const { return (size_t(block) * 2 * kvHeads + head) * headBytes(); }
  size_t valuesBehind() const { return kvHeads * headBytes(); }
};

}  // namespace
