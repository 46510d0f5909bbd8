// Causal attention for training over floats. Scores lie turned, [keys][rows]: the softmax runs down the columns with a lane
// for each row, without sums across lanes, and all products but the scores read what it gives as it stands.
//
// Legend: J tokens, D head width, T rows of a tile, S outputs of a strip, R rows of a block.
#pragma once

#include "train_attention_heads.h"

namespace {

/// What one thread keeps of a head of a sequence, and its products.
struct FloatHeadWork {
  using Tiles = FloatTiles<FloatLanes>;
  static constexpr size_t T = Tiles::rows, S = Tiles::width;
  static constexpr size_t mostRows = T == 12 ? 96 : 48;  // of whole tiles and whole strips
  static_assert(mostRows % T == 0 && mostRows % S == 0 && S % lanes == 0, "blocks of rows");

  const TrainShape& shape;
  const float* sink = nullptr;              // of the head, as TrainShape has it
  float sinkValue = 0;
  size_t tokens, width, padded, blockRows;  // J, D; D in whole strips; R
  float *keys, *values;                     // [J / T][D][T]
  float *keysAcross, *valuesAcross;         // [D / S][J][S]
  float *queries, *slopes;                  // of a block, [R / S][D][S]
  float *queriesAcross, *slopesAcross;      // of a block, [D / S][R][S]
  float *shares, *shareSlopes;              // [J][R]
  float *keySlopes, *valueSlopes, *mixed;   // [J][D], [J][D], [T][D]
  float factor[mostRows];                   // what makes shares of a row's weights
  float sinkSlopes[mostRows];               // what each row adds to the gradient of the sink

  FloatHeadWork(const TrainShape& shape, bool back) : shape(shape), tokens(shape.tokens), width(shape.width) {
    padded = padTo(width, S);
    blockRows = mostRows;
    size_t bytes = place(back, nullptr);
    place(back, rw_thread_scratch(bytes));
  }

  size_t place(bool back, char* memory) {
    size_t at = 0, wide = padTo(tokens, T);
    auto take = [&](size_t floats) {
      float* part = reinterpret_cast<float*>(memory + at);
      at += alignUp(floats * 4);
      return part;
    };
    keys = take(wide * width);
    queries = take(blockRows * width);
    shares = take(wide * blockRows);
    (back ? keysAcross : valuesAcross) = take(padded * tokens);
    mixed = take(T * padded);
    if (!back) return at;
    values = take(wide * width), slopes = take(blockRows * width);
    queriesAcross = take(padded * blockRows), slopesAcross = take(padded * blockRows);
    shareSlopes = take(wide * blockRows);
    keySlopes = take(wide * padded), valueSlopes = take(wide * padded);
    return at;
  }

  void packTiles(const Head& rows, float* to) const { rows.pack<FloatLanes, T>(width, to); }
  void packStrips(const Head& rows, float* to) const { rows.pack<FloatLanes, S>(width, to); }
  void packAcross(const Head& rows, float* to) const { rows.other().pack<FloatLanes, S>(rows.rows, to); }

  /// Keys from which row `token` of the sequence that begins at `row` sees.
  static size_t firstSeen(const int32_t* firsts, size_t row, size_t token) { return size_t(firsts[row + token]) - row; }

  /// Products of keys or values with `count` rows of a block, as far as the rows of a strip see them: [J][R].
  void along(const float* left, const float* right, const int32_t* firsts, size_t row, size_t token, size_t count, float* to) const {
    for (size_t at = 0; at < count; at += S) {
      size_t end = token + at + S < tokens ? token + at + S : tokens;
      for (size_t key = firstSeen(firsts, row, token + at) / T * T; key < end; key += T)
        Tiles::tile<false>(left + key * width, T, right + at * width, width, nullptr, to + key * blockRows + at, blockRows);
    }
  }

  /// Scores of a vector of rows become weights of which `factor` makes shares, zero where a row does not see; where
  /// there are gradients, these become dS = share (gradient - mean gradient) scale, and weights shares.
  template <bool back>
  void weigh(const int32_t* firsts, size_t row, size_t token, size_t at, size_t begin, size_t end) {
    alignas(64) int32_t from[lanes], to[lanes];
    for (int l = 0; l < lanes; l++) {
      size_t own = token + at + l < tokens ? token + at + l : tokens - 1;
      from[l] = int32_t(firstSeen(firsts, row, own)), to[l] = int32_t(own);
    }
    VectorInt first, last;
    __builtin_memcpy(&first, from, sizeof first), __builtin_memcpy(&last, to, sizeof last);
    size_t seenFrom = size_t(from[0]), seenEnd = size_t(to[lanes - 1]) + 1;
    float *score = shares + at, *slope = back ? shareSlopes + at : nullptr;
    Vector best = splat(-1e30f);
    for (size_t key = seenFrom; key < seenEnd; key++) {
      float* own = score + key * blockRows;
      Vector value = load(own);
      if (key > size_t(to[0]) || key < size_t(from[lanes - 1])) {
        VectorInt here = first - first + int32_t(key);
        value = ((here >= first) & (here <= last)) ? value : splat(-__builtin_inff());
        store(own, value);
      }
      best = maximum(value, best);
    }
    float scale = shape.scale * log2e;
    if (sink) best = maximum(best, splat(*sink));
    Vector over = zero(), highest = best * -scale;
    Vector sinkWeight = sink ? exp2(fma(splat(*sink), splat(scale), highest)) : zero(), sum = sinkWeight;
    for (size_t key = seenFrom; key < seenEnd; key++) {
      float* own = score + key * blockRows;
      Vector weight = exp2(fma(load(own), splat(scale), highest));
      store(own, weight);
      sum = sum + weight;
      if (back) over = fma(weight, load(slope + key * blockRows), over);
    }
    Vector times = splat(1.0f) / sum;
    store(factor + at, times);
    if (back) {
      Vector mean = over * times;
      store(sinkSlopes + at, sinkWeight * times * mean * -1.0f);
      for (size_t key = seenFrom; key < seenEnd; key++) {
        float *own = score + key * blockRows, *gradient = slope + key * blockRows;
        Vector share = load(own) * times;
        store(own, share);
        store(gradient, share * (load(gradient) - mean) * shape.scale);
      }
    }
    blank<back>(at, begin, seenFrom);
    blank<back>(at, seenEnd, end);
  }

  template <bool back>
  void blank(size_t at, size_t begin, size_t end) const {
    for (size_t key = begin; key < end; key++) {
      store(shares + key * blockRows + at, zero());
      if (back) store(shareSlopes + key * blockRows + at, zero());
    }
  }

  template <bool back>
  void weighBlock(const int32_t* firsts, size_t row, size_t token, size_t count) {
    size_t begin = firstSeen(firsts, row, token) / T * T, end = padTo(token + count, T), at = 0;
    for (; at < count; at += lanes) weigh<back>(firsts, row, token, at, begin, end);
    // A last tile reads beyond.
    for (; at < padTo(count, T); at += lanes) blank<back>(at, begin, end);
  }

  /// Sums over keys of a tile's rows: mixed [T][D].
  void overKeys(const float* left, const float* right, size_t from, size_t end) const {
    for (size_t column = 0; column < padded; column += S)
      Tiles::tile<false>(left + from * blockRows, blockRows, right + column * tokens + from * S, end - from, nullptr,
                         mixed + column, padded);
  }

  /// Sums over the rows of a block, for each key that they see, added where earlier blocks or heads have been.
  void overRows(const float* left, const float* right, size_t begin, size_t token, size_t count, bool grows, float* to) const {
    for (size_t key = begin / T * T; key < token + count; key += T) {
      size_t first = key > token ? key - token : 0;  // rows before a key do not see it
      for (size_t column = 0; column < padded; column += S) {
        float* sums = to + key * padded + column;
        Tiles::tile<true>(left + key * blockRows + first, blockRows, right + column * count + first * S, count - first,
                          grows || key < token ? sums : nullptr, sums, padded);
      }
    }
  }
};

/// Rows of results lie apart, and further away than the nearer caches.
inline void askToWriteRows(const Numbers& to, size_t index, size_t width, size_t rows, size_t stride) {
  constexpr size_t line = 64;
  for (size_t r = 0; r < rows; r++)
    for (size_t byte = 0; byte < width * to.bytes(); byte += line) askToWrite(to.at(index + r * stride) + byte);
}

inline void attendFloatBlock(FloatHeadWork& work, ggml_tensor* dst, size_t row, size_t head, size_t token) {
  constexpr size_t T = FloatHeadWork::T;
  const TrainShape& shape = work.shape;
  const int32_t* firsts = static_cast<const int32_t*>(dst->src[3]->data);
  size_t count = shape.tokens - token < work.blockRows ? shape.tokens - token : work.blockRows;
  work.sink = shape.sink(head, &work.sinkValue);
  work.packStrips(Head::of(dst->src[0], head, row + token, count), work.queries);
  work.along(work.keys, work.queries, firsts, row, token, count, work.shares);
  work.weighBlock<false>(firsts, row, token, count);
  for (size_t at = 0; at < count; at += T) {
    size_t rows = count - at < T ? count - at : T;
    work.overKeys(work.shares + at, work.valuesAcross, work.firstSeen(firsts, row, token + at), token + at + rows);
    for (size_t t = 0; t < rows; t++) {
      size_t to = ((row + token + at + t) * shape.heads + head) * shape.width;
      for (size_t d = 0; d < shape.width; d += lanes) {
        int left = shape.width - d < size_t(lanes) ? int(shape.width - d) : lanes;
        Numbers(dst).store(to + d, load(work.mixed + t * work.padded + d) * work.factor[at + t], left);
      }
    }
  }
}

inline void attendBackFloatBlock(FloatHeadWork& work, ggml_tensor* dst, const ggml_tensor* slope, size_t row, size_t head,
                                 size_t token) {
  constexpr size_t T = FloatHeadWork::T;
  const TrainShape& shape = work.shape;
  const int32_t* firsts = static_cast<const int32_t*>(dst->src[3]->data);
  size_t count = shape.tokens - token < work.blockRows ? shape.tokens - token : work.blockRows;
  Head queries = Head::of(dst->src[0], head, row + token, count), slopes = Head::of(slope, head, row + token, count);
  work.sink = shape.sink(head, &work.sinkValue);
  work.packStrips(queries, work.queries), work.packStrips(slopes, work.slopes);
  work.along(work.keys, work.queries, firsts, row, token, count, work.shares);
  work.along(work.values, work.slopes, firsts, row, token, count, work.shareSlopes);
  size_t stride = shape.slopeStride();
  askToWriteRows(Numbers(dst), (row + token) * stride + head * shape.width, shape.width, count, stride);
  work.weighBlock<true>(firsts, row, token, count);
  if (work.sink) storeSinkSlopes(Numbers(dst), shape, row + token, head, work.sinkSlopes, count);
  for (size_t at = 0; at < count; at += T) {
    size_t rows = count - at < T ? count - at : T;
    work.overKeys(work.shareSlopes + at, work.keysAcross, work.firstSeen(firsts, row, token + at), token + at + rows);
    for (size_t t = 0; t < rows; t++)
      Numbers(dst).storeRow((row + token + at + t) * stride + head * shape.width, work.mixed + t * work.padded, shape.width);
  }
  bool grows = head % shape.perKv() > 0, last = (head + 1) % shape.perKv() == 0 && token + count == shape.tokens;
  for (size_t group = shape.heads + head / shape.perKv(); last && group < shape.heads + 2 * shape.kvHeads; group += shape.kvHeads)
    askToWriteRows(Numbers(dst), row * stride + group * shape.width, shape.width, shape.tokens, stride);
  work.packAcross(queries, work.queriesAcross), work.packAcross(slopes, work.slopesAcross);
  size_t begin = work.firstSeen(firsts, row, token);
  work.overRows(work.shares, work.slopesAcross, begin, token, count, grows, work.valueSlopes);
  work.overRows(work.shareSlopes, work.queriesAcross, begin, token, count, grows, work.keySlopes);
}

/// causal_attention over floats.
inline void attendFloats(ggml_tensor* dst, Call* call, int nth) {
  const ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2];
  TrainShape shape = trainShape(call, q, k, dst->src[4]);
  FloatHeadWork work(shape, false);
  for (size_t piece; (piece = size_t(takePiece(call))) < shape.sequences * shape.kvHeads;) {
    size_t row = piece / shape.kvHeads * shape.tokens, group = piece % shape.kvHeads;
    work.packTiles(Head::of(k, group, row, shape.tokens), work.keys);
    work.packAcross(Head::of(v, group, row, shape.tokens), work.valuesAcross);
    for (size_t head = group * shape.perKv(); head < (group + 1) * shape.perKv(); head++)
      for (size_t token = 0; token < shape.tokens; token += work.blockRows) attendFloatBlock(work, dst, row, head, token);
  }
  leave(call, nth);
}

/// causal_attention_back over floats.
inline void attendBackFloats(ggml_tensor* dst, Call* call, int nth) {
  const ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2];
  TrainShape shape = trainShape(call, q, k, sinksOfBack(dst));
  ggml_tensor slope = asHeads(*slopeOfBack(dst), shape.width);
  size_t stride = shape.slopeStride();
  FloatHeadWork work(shape, true);
  Numbers to(dst);
  for (size_t piece; (piece = size_t(takePiece(call))) < shape.sequences * shape.kvHeads;) {
    size_t row = piece / shape.kvHeads * shape.tokens, group = piece % shape.kvHeads;
    Head keys = Head::of(k, group, row, shape.tokens), values = Head::of(v, group, row, shape.tokens);
    work.packTiles(keys, work.keys), work.packTiles(values, work.values);
    work.packAcross(keys, work.keysAcross);
    for (size_t head = group * shape.perKv(); head < (group + 1) * shape.perKv(); head++)
      for (size_t token = 0; token < shape.tokens; token += work.blockRows)
        attendBackFloatBlock(work, dst, &slope, row, head, token);
    for (size_t t = 0; t < shape.tokens; t++) {
      size_t at = (row + t) * stride + (shape.heads + group) * shape.width;
      to.storeRow(at, work.keySlopes + t * work.padded, shape.width);
      to.storeRow(at + shape.kvHeads * shape.width, work.valueSlopes + t * work.padded, shape.width);
    }
  }
  leave(call, nth);
}

}  // namespace
