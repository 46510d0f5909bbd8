// Causal attention for training by AMX tiles, of bfloat16: 32 rows at a time by 32 keys at a time, in four tiles of sums.
//
// Scores lie turned, [keys][rows]: then the softmax runs down the columns, with a lane for each row, and what it gives is
// what tiles want of the gradients of keys and values as it stands, and of those of queries after pairs of keys are
// interleaved. Within the lanes of a 128-bit part that is one instruction; the order of rows that comes of it is kept until
// rows are stored. Everything lies in whole tiles of 1 KiB, so that a load touches every set of the nearest cache alike.
//
// Legend: J tokens, D head width, both padded to 32; a block is 32 rows or keys, a step 32 of a row's inputs, a column 16.
// Tiles "of rows" hold 16 rows of 32 inputs; "of pairs" 16 pairs of rows, 16 inputs of each; "turned": transposed, by
// lanes of two numbers.
#pragma once

#include "kernels.h"
#include "matmul_amx.h"
#include "train_attention.h"

namespace {

constexpr size_t tileFloats = 256, attentionBlock = 32;

/// Where a block's tiles go; what is null is not made.
struct BlockTiles {
  float *rows, *rowsTurned;    // [2 halves][steps]
  float *pairs, *pairsTurned;  // [columns]
};

template <class From>
inline void packBlockTiles(const From& from, size_t first, size_t steps, const BlockTiles& to) {
  for (size_t step = 0; step < steps; step++) {
    Vector lines[2][16];
    for (size_t r = 0; r < attentionBlock; r++)
      lines[r / 16][r % 16] = first + r < from.rows ? PairLanes::along(from, first + r, step * 32) : zero();
    auto storeTiles = [](const Vector* tile, float* at) {
      for (int i = 0; i < 16; i++) store(at + i * lanes, tile[i]);
    };
    for (size_t half = 0; half < 2 && to.rows; half++) storeTiles(lines[half], to.rows + (half * steps + step) * tileFloats);
    for (size_t column = 0; column < 2 && (to.pairs || to.pairsTurned); column++) {
      alignas(64) static constexpr uint16_t alternating[2][32] = {
          {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
           8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
          {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
           24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
      __m512i order = _mm512_load_si512(alternating[column]);
      Vector pairs[16];
      for (int i = 0; i < 16; i++) {
        const Vector* two = &lines[i / 8][i % 8 * 2];
        pairs[i] = (Vector)_mm512_permutex2var_epi16((__m512i)two[0], order, (__m512i)two[1]);
      }
      size_t at = (2 * step + column) * tileFloats;
      if (to.pairs) storeTiles(pairs, to.pairs + at);
      if (to.pairsTurned) turn(pairs), storeTiles(pairs, to.pairsTurned + at);
    }
    for (size_t half = 0; half < 2 && to.rowsTurned; half++) {
      turn(lines[half]);
      storeTiles(lines[half], to.rowsTurned + (half * steps + step) * tileFloats);
    }
  }
}

/// One side of a product: two tiles, and how far on they lie at its next step.
struct TileSide {
  const float* tiles;
  size_t apart, step;
};

/// sums [32][32] = left by right, behind what they hold if `grows`.
inline void multiplyTiles(const TileSide& left, const TileSide& right, size_t steps, bool grows, float* sums, size_t stride) {
  if (grows) {
    loadTile<0>(sums, stride * 4), loadTile<1>(sums + 16, stride * 4);
    loadTile<2>(sums + 16 * stride, stride * 4), loadTile<3>(sums + 16 * stride + 16, stride * 4);
  } else zeroTile<0>(), zeroTile<1>(), zeroTile<2>(), zeroTile<3>();
  for (size_t step = 0; step < steps; step++) {
    const float *a = left.tiles + step * left.step, *b = right.tiles + step * right.step;
    loadTile<4>(a, 64), loadTile<6>(b, 64);
    multiplyPairs<0, 4, 6>();
    loadTile<7>(b + right.apart, 64);
    multiplyPairs<1, 4, 7>();
    loadTile<5>(a + left.apart, 64);
    multiplyPairs<2, 5, 6>();
    multiplyPairs<3, 5, 7>();
  }
  storeTile<0>(sums, stride * 4), storeTile<1>(sums + 16, stride * 4);
  storeTile<2>(sums + 16 * stride, stride * 4), storeTile<3>(sums + 16 * stride + 16, stride * 4);
}

/// What the rows of a block see, within their sequence; rows behind its end like its last.
struct SeenBlock {
  size_t begin, end;            // blocks of keys that some row sees
  size_t wholeBegin, wholeEnd;  // those that every row sees whole
  VectorInt first[2], last[2];  // keys of each row

  SeenBlock() = default;
  SeenBlock(const int32_t* firsts, size_t row, size_t token, size_t tokens) {
    alignas(64) int32_t from[32], to[32];
    for (size_t r = 0; r < attentionBlock; r++) {
      size_t real = token + r < tokens ? token + r : tokens - 1;
      from[r] = firsts[row + real] - int32_t(row), to[r] = int32_t(token + r);
    }
    begin = size_t(from[0]) / attentionBlock, end = token / attentionBlock + 1;
    wholeBegin = quotientUp(size_t(from[31]), attentionBlock), wholeEnd = token / attentionBlock;
    for (int half = 0; half < 2; half++) {
      first[half] = (VectorInt)_mm512_load_si512(from + half * 16);
      last[half] = (VectorInt)_mm512_load_si512(to + half * 16);
    }
  }

  bool whole(size_t block) const { return block >= wholeBegin && block < wholeEnd; }

  Vector keep(Vector value, int half, size_t key) const {
    __m512i at = _mm512_set1_epi32(int(key));
    __mmask16 seen = _mm512_cmple_epi32_mask((__m512i)first[half], at) & _mm512_cmple_epi32_mask(at, (__m512i)last[half]);
    return (Vector)_mm512_mask_mov_ps(splat(-__builtin_inff()), seen, value);
  }
};

/// What one thread keeps of a head of a sequence, and its products.
struct TileHeadWork {
  static constexpr size_t sharesBytes = size_t(1) << 19;
  const TrainShape& shape;
  const float* sink = nullptr;                     // of the head, as TrainShape has it
  float sinkValue = 0;
  size_t blocks, steps, columns, padded, stretch;  // of tokens, of a row; D; blocks whose shares are kept at once
  float *keys, *values, *keyPairs, *valuePairs;    // of rows; of pairs turned: by block
  float *queries, *slopes;                         // of a block, turned
  float *queryPairs, *slopePairs;                  // of a stretch's blocks
  float *scores, *shareSlopes;                     // [J][32 rows] of a block
  float *weights;                                  // of pairs of keys [J / 32][2]
  float *shareRows, *slopeRows;                    // of keys, [stretch][J / 32][2]
  float *keySlopes, *valueSlopes;                  // [J][D]
  float *mixed;                                    // [32 inputs][32 rows]
  SeenBlock seen;
  Vector best[2], factor[2], mean[2];
  float sinkSlopes[attentionBlock];                // what each row adds to the gradient of the sink

  TileHeadWork(const TrainShape& shape, bool back) : shape(shape) {
    blocks = quotientUp(shape.tokens, attentionBlock), steps = quotientUp(shape.width, attentionBlock);
    columns = 2 * steps, padded = steps * attentionBlock;
    stretch = sharesBytes / (blocks * 4 * tileFloats * 4);
    stretch = stretch < 2 ? 2 : stretch > 8 ? 8 : stretch;
    size_t bytes = place(back, nullptr);
    place(back, rw_thread_scratch(bytes));
  }

  size_t place(bool back, char* memory) {
    size_t at = 0;
    auto take = [&](size_t tiles) {
      float* part = reinterpret_cast<float*>(memory + at);
      at += tiles * tileFloats * 4;
      return part;
    };
    keys = take(blocks * columns);
    (back ? keyPairs : valuePairs) = take(blocks * columns);
    queries = take(columns);
    scores = take(blocks * 4), weights = take(blocks * 2), mixed = take(4);
    if (!back) return at;
    values = take(blocks * columns), slopes = take(columns);
    shareSlopes = take(blocks * 4);
    queryPairs = take(stretch * columns), slopePairs = take(stretch * columns);
    shareRows = take(stretch * blocks * 2), slopeRows = take(stretch * blocks * 2);
    keySlopes = take(blocks * 2 * columns), valueSlopes = take(blocks * 2 * columns);
    return at;
  }

  void pack(const Head& head, size_t block, const BlockTiles& to) const {
    head.as([&](const auto& matrix) { packBlockTiles(matrix, block * attentionBlock, steps, to); });
  }

  /// Keys or values of a whole sequence: tiles of rows and of pairs turned.
  void packRight(const Head& head, float* rows, float* pairsTurned) const {
    for (size_t block = 0; block < blocks; block++) {
      size_t at = block * columns * tileFloats;
      pack(head, block, {rows ? rows + at : nullptr, nullptr, nullptr, pairsTurned ? pairsTurned + at : nullptr});
    }
  }

  /// Products of a block of keys or values with those rows: [32][32 rows].
  void along(const float* left, const float* right, size_t block, float* to) const {
    size_t half = steps * tileFloats;
    multiplyTiles({left + block * columns * tileFloats, half, tileFloats}, {right, half, tileFloats}, steps, false,
                  to + block * 4 * tileFloats, attentionBlock);
  }

  /// The highest score of each row over a block of keys; what a row does not see becomes none.
  void highest(size_t block) {
    float* at = scores + block * 4 * tileFloats;
    if (seen.whole(block)) {
      Vector other[2] = {best[0], best[1]};
      for (size_t key = 0; key < attentionBlock; key += 2)
        for (int half = 0; half < 2; half++) {
          best[half] = maximum(load(at + key * 32 + half * 16), best[half]);
          other[half] = maximum(load(at + key * 32 + 32 + half * 16), other[half]);
        }
      for (int half = 0; half < 2; half++) best[half] = maximum(best[half], other[half]);
      return;
    }
    for (size_t key = 0; key < attentionBlock; key++)
      for (int half = 0; half < 2; half++) {
        float* own = at + key * 32 + half * 16;
        Vector value = seen.keep(load(own), half, block * attentionBlock + key);
        store(own, value);
        best[half] = maximum(value, best[half]);
      }
  }

  /// Scores of a block with all keys that it sees, and their gradients; the vectors follow the tiles by a block.
  void score(bool back) {
    best[0] = best[1] = splat(sink && *sink > -1e30f ? *sink : -1e30f);
    for (size_t block = seen.begin; block < seen.end; block++) {
      along(keys, queries, block, scores);
      if (back) along(values, slopes, block, shareSlopes);
      if (block > seen.begin) highest(block - 1);
    }
    highest(seen.end - 1);
  }

  /// Scores become weights of which `factor` makes shares: exponentials over what a row sees, zero elsewhere.
  template <bool back>
  void weigh(size_t token) {
    float scale = shape.scale * log2e;
    Vector sum[2] = {zero(), zero()}, over[2] = {zero(), zero()};
    Vector shift[2] = {best[0] * -scale, best[1] * -scale};
    if (sink)
      for (int half = 0; half < 2; half++) sum[half] = exp2(fma(splat(*sink), splat(scale), shift[half]));
    const Vector sinkWeight[2] = {sum[0], sum[1]};
    float *score = scores + seen.begin * 4 * tileFloats, *slope = shareSlopes + seen.begin * 4 * tileFloats;
    for (size_t key = seen.begin * attentionBlock; key < seen.end * attentionBlock; key += 2, score += 64, slope += 64) {
      Vector weight[2][2];
      for (int i = 0; i < 2; i++)
        for (int half = 0; half < 2; half++) {
          Vector own = exp2(fma(load(score + i * 32 + half * 16), splat(scale), shift[half]));
          sum[half] = sum[half] + own;
          if (back) {
            store(score + i * 32 + half * 16, own);
            over[half] = fma(own, load(slope + i * 32 + half * 16), over[half]);
          } else weight[i][half] = own;
        }
      if (!back) storePairs(key, PairLanes::along(weight[0][0], weight[0][1]), PairLanes::along(weight[1][0], weight[1][1]));
    }
    for (int half = 0; half < 2; half++) {
      int real = int(shape.tokens - token) - half * 16;
      __mmask16 some = real >= 16 ? 0xffff : real <= 0 ? 0 : __mmask16((1u << real) - 1);
      factor[half] = (Vector)_mm512_maskz_div_ps(some, splat(1.0f), sum[half]);
      mean[half] = over[half] * factor[half];
      if (back) store(sinkSlopes + half * 16, sinkWeight[half] * factor[half] * mean[half] * -1.0f);
    }
  }

  /// Two keys of all rows, interleaved.
  void storePairs(size_t key, Vector even, Vector odd) const {
    float* at = weights + key / attentionBlock * 2 * tileFloats + key % attentionBlock / 2 * lanes;
    store(at, (Vector)_mm512_unpacklo_epi16((__m512i)even, (__m512i)odd));
    store(at + tileFloats, (Vector)_mm512_unpackhi_epi16((__m512i)even, (__m512i)odd));
  }

  /// Weights and their gradients become tiles: shares, and dS = share (gradient - mean gradient) scale.
  void slope(size_t nth) const {
    const float *own = scores, *gradient = shareSlopes;
    size_t base = nth * blocks * 2 * tileFloats;
    const Vector share[2] = {factor[0], factor[1]}, middle[2] = {mean[0], mean[1]};
    const Vector scaled[2] = {share[0] * shape.scale, share[1] * shape.scale};
    for (size_t key = seen.begin * attentionBlock; key < seen.end * attentionBlock; key += 2) {
      Vector narrow[2];
      for (int i = 0; i < 2; i++) {
        size_t at = (key + i) * 32;
        Vector low = load(own + at), high = load(own + at + 16);
        store(shareRows + base + (key + i) * lanes, PairLanes::along(low * share[0], high * share[1]));
        narrow[i] = PairLanes::along(low * scaled[0] * (load(gradient + at) - middle[0]),
                                     high * scaled[1] * (load(gradient + at + 16) - middle[1]));
        store(slopeRows + base + (key + i) * lanes, narrow[i]);
      }
      storePairs(key, narrow[0], narrow[1]);
    }
  }

  /// Sums over keys, [D][32 rows], go to their rows of `to`, each `stride` numbers on, times `times`.
  void overKeys(const float* right, const Vector (&times)[2], size_t count, const Numbers& to, size_t index, size_t stride) const {
    for (size_t step = 0; step < steps; step++) {
      multiplyTiles({right + (seen.begin * columns + 2 * step) * tileFloats, tileFloats, columns * tileFloats},
                    {weights + seen.begin * 2 * tileFloats, tileFloats, 2 * tileFloats}, seen.end - seen.begin, false, mixed,
                    attentionBlock);
      size_t from = step * attentionBlock;
      for (int part = 0; part < 2; part++) {
        auto input = [&](int i) { return load(mixed + i * 32 + part * 16) * times[part]; };
        // Lanes of a part are rows that interleaving has brought together.
        auto rowOf = [&](int lane) { return size_t(lane / 4 * 8 + part * 4 + lane % 4); };
        Vector first[16], second[16];
        for (int i = 0; i < 16; i++)
          first[i] = to.narrow ? PairLanes::across(input(2 * i), input(2 * i + 1)) : input(i);
        turn(first);
        if (!to.narrow) {
          for (int i = 0; i < 16; i++) second[i] = input(16 + i);
          turn(second);
        }
        size_t wide = shape.width - from < attentionBlock ? shape.width - from : attentionBlock;
        __mmask32 some = wide == 32 ? 0xffffffff : __mmask32((1ull << wide) - 1);
        for (int i = 0; i < 16; i++) {
          size_t row = rowOf(i), at = index + row * stride + from;
          if (row >= count) continue;
          if (to.narrow) _mm512_mask_storeu_epi16(to.at(at), some, (__m512i)first[i]);
          else to.store(at, first[i], second[i], int(wide));
        }
      }
    }
  }

  /// Sums over the rows of a stretch, for each key: `begins` has the first block of keys that each of its blocks sees.
  void overRows(const float* left, const float* right, size_t firstBlock, size_t count, const size_t* begins, bool grows, float* to) const {
    for (size_t block = begins[0]; block < firstBlock + count; block++) {
      size_t from = block > firstBlock ? block - firstBlock : 0, end = from;
      while (end < count && begins[end] <= block) end++;
      for (size_t step = 0; step < steps; step++)
        multiplyTiles({left + (from * blocks + block) * 2 * tileFloats, tileFloats, blocks * 2 * tileFloats},
                      {right + (from * columns + 2 * step) * tileFloats, tileFloats, columns * tileFloats}, end - from,
                      grows || block < firstBlock, to + block * attentionBlock * padded + step * attentionBlock, padded);
    }
  }
};

/// Factors of rows in the order in which interleaving leaves them.
inline void interleaved(const Vector (&rows)[2], Vector (&to)[2]) {
  for (int part = 0; part < 2; part++) {
    alignas(64) int32_t from[16];
    for (int lane = 0; lane < 16; lane++) from[lane] = lane / 4 * 8 + part * 4 + lane % 4;
    to[part] = (Vector)_mm512_permutex2var_ps(rows[0], _mm512_load_si512(from), rows[1]);
  }
}

inline void attendTileHead(TileHeadWork& work, ggml_tensor* dst, size_t row, size_t head) {
  const TrainShape& shape = work.shape;
  const int32_t* firsts = static_cast<const int32_t*>(dst->src[3]->data);
  Head queries = Head::of(dst->src[0], head, row, shape.tokens);
  work.sink = shape.sink(head, &work.sinkValue);
  for (size_t block = 0; block < work.blocks; block++) {
    size_t token = block * attentionBlock, count = shape.tokens - token;
    work.seen = SeenBlock(firsts, row, token, shape.tokens);
    work.pack(queries, block, {nullptr, work.queries, nullptr, nullptr});
    work.score(false);
    work.weigh<false>(token);
    Vector times[2];
    interleaved(work.factor, times);
    work.overKeys(work.valuePairs, times, count, Numbers(dst), ((row + token) * shape.heads + head) * shape.width,
                  shape.heads * shape.width);
  }
}

inline void attendBackTileHead(TileHeadWork& work, ggml_tensor* dst, const ggml_tensor* slope, size_t row, size_t head) {
  const TrainShape& shape = work.shape;
  const int32_t* firsts = static_cast<const int32_t*>(dst->src[3]->data);
  Head queries = Head::of(dst->src[0], head, row, shape.tokens), slopes = Head::of(slope, head, row, shape.tokens);
  size_t stride = shape.slopeStride();
  const Vector once[2] = {splat(1.0f), splat(1.0f)};
  work.sink = shape.sink(head, &work.sinkValue);
  for (size_t first = 0; first < work.blocks; first += work.stretch) {
    size_t count = work.blocks - first < work.stretch ? work.blocks - first : work.stretch, begins[8];
    for (size_t nth = 0; nth < count; nth++) {
      size_t token = (first + nth) * attentionBlock, pairs = nth * work.columns * tileFloats, left = shape.tokens - token;
      work.seen = SeenBlock(firsts, row, token, shape.tokens);
      begins[nth] = work.seen.begin;
      work.pack(queries, first + nth, {nullptr, work.queries, work.queryPairs + pairs, nullptr});
      work.pack(slopes, first + nth, {nullptr, work.slopes, work.slopePairs + pairs, nullptr});
      work.score(true);
      work.weigh<true>(token);
      size_t rows = left < attentionBlock ? left : attentionBlock;
      if (work.sink) storeSinkSlopes(Numbers(dst), shape, row + token, head, work.sinkSlopes, rows);
      work.slope(nth);
      work.overKeys(work.keyPairs, once, left, Numbers(dst), (row + token) * stride + head * shape.width, stride);
    }
    bool grows = head % shape.perKv() > 0;
    work.overRows(work.shareRows, work.slopePairs, first, count, begins, grows, work.valueSlopes);
    work.overRows(work.slopeRows, work.queryPairs, first, count, begins, grows, work.keySlopes);
  }
}

/// causal_attention where it is asked to multiply in bfloat16.
inline void attendTiles(ggml_tensor* dst, Call* call, int nth) {
  const ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2];
  TrainShape shape = trainShape(call, q, k, dst->src[4]);
  TileHeadWork work(shape, false);
  MatmulTiles::enter();
  for (size_t piece; (piece = size_t(takePiece(call))) < shape.sequences * shape.kvHeads;) {
    size_t row = piece / shape.kvHeads * shape.tokens, group = piece % shape.kvHeads;
    work.packRight(Head::of(k, group, row, shape.tokens), work.keys, nullptr);
    work.packRight(Head::of(v, group, row, shape.tokens), nullptr, work.valuePairs);
    for (size_t head = group * shape.perKv(); head < (group + 1) * shape.perKv(); head++) attendTileHead(work, dst, row, head);
  }
  MatmulTiles::exit();
  leave(call, nth);
}

inline void attendBackTiles(ggml_tensor* dst, Call* call, int nth) {
  const ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2];
  TrainShape shape = trainShape(call, q, k, sinksOfBack(dst));
  ggml_tensor slope = asHeads(*slopeOfBack(dst), shape.width);
  size_t stride = shape.slopeStride();
  TileHeadWork work(shape, true);
  Numbers to(dst);
  MatmulTiles::enter();
  for (size_t piece; (piece = size_t(takePiece(call))) < shape.sequences * shape.kvHeads;) {
    size_t row = piece / shape.kvHeads * shape.tokens, group = piece % shape.kvHeads;
    work.packRight(Head::of(k, group, row, shape.tokens), work.keys, work.keyPairs);
    work.packRight(Head::of(v, group, row, shape.tokens), work.values, nullptr);
    for (size_t head = group * shape.perKv(); head < (group + 1) * shape.perKv(); head++)
      attendBackTileHead(work, dst, &slope, row, head);
    for (size_t t = 0; t < shape.tokens; t++) {
      size_t at = (row + t) * stride + (shape.heads + group) * shape.width;
      to.storeRow(at, work.keySlopes + t * work.padded, shape.width);
      to.storeRow(at + shape.kvHeads * shape.width, work.valueSlopes + t * work.padded, shape.width);
    }
  }
  MatmulTiles::exit();
  leave(call, nth);
}

inline void causalAttentionTiles(ggml_tensor* dst, int ith, int nth, void* userdata) {
  static const CustomOp floats = opNamed(kernelsAvx512, "causal_attention");
  Call* call = static_cast<Call*>(userdata);
  if (call->params[2]) attendTiles(dst, call, nth);
  else floats(dst, ith, nth, userdata);
}

inline void causalAttentionBackTiles(ggml_tensor* dst, int ith, int nth, void* userdata) {
  static const CustomOp floats = opNamed(kernelsAvx512, "causal_attention_back");
  Call* call = static_cast<Call*>(userdata);
  if (call->params[2]) attendBackTiles(dst, call, nth);
  else floats(dst, ith, nth, userdata);
}

}  // namespace
