// Causal attention over whole sequences for training, forward and backward, without a matrix of all scores: one kv
// head of one sequence at a time, a few rows of scores at a time. The backward pass computes them again.
//
// Here over pairs of bfloat16, by the tiles of matmul.h; softmax is in floats. Over floats: train_attention_float.h.
//
// Legend: B sequences of J tokens, N = B J, H heads, G kv heads, D head width, T rows of a tile, S outputs of a strip,
// R rows of a block. "along": a strip's inputs are those of a row; "across": they are rows.
#pragma once

#include "train_attention_float.h"

namespace {

/// Keys that some row of a tile or block sees, counted within the sequence.
struct Keys {
  size_t from, end;

  size_t firstStrip(size_t width) const { return from / width; }
  size_t endStrip(size_t width) const { return quotientUp(end, width); }
};

/// What one thread keeps of a head of a sequence, and its products.
template <class Tiles>
struct HeadWork {
  static constexpr size_t T = Tiles::rows, S = Tiles::width, in = Tiles::inputs;
  const TrainShape& shape;
  const float* sink = nullptr;                   // of the head, as TrainShape has it
  float sinkValue = 0;
  size_t blockRows;                              // R
  size_t wide, padded, widthSteps, keySteps;     // J and D in whole strips; lanes along D, along all keys
  float *keysAlong, *valuesAlong;                // [J / S][D lanes][S]
  float *keysAcross, *valuesAcross;              // [D / S][J lanes][S]
  float *queries, *slopes;                       // [R / T][D lanes][T]
  float *queriesAcross, *slopesAcross;           // [D / S][R lanes][S]
  float *shares, *shareSlopes;                   // [R][J]
  float *rowLanes, *shareLanes, *slopeLanes;     // [R][J lanes]; [R lanes][J] twice
  float *keySlopes, *valueSlopes, *mixed;        // [J][D], [J][D], [T][D]
  float factor[T];                               // what makes shares of a tile's row
  float sinkShares[T], sinkSlopes[T];            // what the sink has of each row, and what that adds to its gradient

  HeadWork(const TrainShape& shape, bool back) : shape(shape) {
    // Rows of a block are the inputs of the keys' gradients: many are quicker, while their scores stay in a cache.
    blockRows = T * (!back ? 1 : T * 4 <= 48 && shape.tokens <= 1024 ? 4 : 2);
    wide = padTo(padTo(shape.tokens, T), S), padded = padTo(shape.width, S);
    widthSteps = quotientUp(shape.width, in), keySteps = wide / in;
    size_t bytes = place(back, nullptr);
    place(back, rw_thread_scratch(bytes));
  }

  size_t place(bool back, char* memory) {
    size_t at = 0;
    auto take = [&](size_t floats) {
      float* part = reinterpret_cast<float*>(memory + at);
      at += alignUp(floats * 4);
      return part;
    };
    keysAlong = take(wide * widthSteps);
    (back ? keysAcross : valuesAcross) = take(padded * keySteps);
    queries = take(blockRows * widthSteps);
    shares = take(blockRows * wide);
    rowLanes = take(blockRows * keySteps);
    mixed = take(T * padded);
    if (!back) return at;
    valuesAlong = take(wide * widthSteps);
    slopes = take(blockRows * widthSteps);
    queriesAcross = take(padded * blockRows / in), slopesAcross = take(padded * blockRows / in);
    shareSlopes = take(blockRows * wide);
    shareLanes = take(blockRows / in * wide), slopeLanes = take(blockRows / in * wide);
    keySlopes = take(wide * padded), valueSlopes = take(wide * padded);
    return at;
  }

  /// Right sides whose strips are tokens, or dimensions.
  void packRight(const Head& rows, size_t steps, float* to) const { rows.pack<Tiles, S>(steps, to); }

  void packLeft(const Head& rows, float* to) const { rows.pack<Tiles, T>(widthSteps, to); }

  /// Products of a tile's rows with keys or values: [T][J].
  void alongKeys(const float* left, const float* right, const Keys& keys, float* to) const {
    for (size_t strip = keys.firstStrip(S); strip < keys.endStrip(S); strip++)
      Tiles::template tile<false>(left, T, right + strip * widthSteps * S, widthSteps, nullptr, to + strip * S, wide);
  }

  /// Sums over keys of a tile's rows: mixed [T][D].
  void overKeys(size_t tile, const float* right, const Keys& keys) const {
    size_t begin = keys.from / in, end = quotientUp(keys.end, in);
    for (size_t column = 0; column < padded; column += S)
      Tiles::template tile<true>(rowLanes + tile * T * keySteps + begin, keySteps,
                                 right + column * keySteps + begin * S, end - begin, nullptr, mixed + column, padded);
  }

  /// Sums over the first `rows` of a block, for each of its keys; `lanes` [R lanes][J].
  void overRows(const float* lanes, const float* right, size_t first, size_t rows, const Keys& keys, float* to) const {
    size_t steps = blockRows / in, end = quotientUp(rows, in);
    for (size_t key = keys.from / T * T; key < keys.end; key += T) {
      // Rows before a key do not see it.
      size_t begin = key > first ? (key - first) / in : 0;
      for (size_t column = 0; column < padded; column += S) {
        float* sums = to + key * padded + column;
        Tiles::template tile<false>(lanes + begin * wide + key, wide, right + column * steps + begin * S, end - begin, sums,
                                    sums, padded);
      }
    }
  }

  /// Scores of a tile become weights of which `factor` makes shares: exponentials over what a row sees, zero elsewhere.
  void weigh(const int32_t* firsts, size_t row, size_t token, const Keys& keys, float* scores) {
    for (size_t t = 0; t < T; t++) {
      float* own = scores + t * wide;
      bool real = token + t < shape.tokens;
      size_t first = real ? size_t(firsts[row + token + t]) - row : 0, end = real ? token + t + 1 : 0;
      size_t from = keys.firstStrip(S) * S, to = keys.endStrip(S) * S;
      auto seen = [&](size_t j) {
        Vector value = load(own + j);
        if (j >= first && j + lanes <= end) return value;
        return keepRange(value, int(j), int(first), int(end), -__builtin_inff());
      };
      Vector best = splat(-1e30f);
      for (size_t j = from; j < to; j += lanes) best = maximum(seen(j), best);
      float scale = shape.scale * log2e;
      float most = maximumLane(best);
      if (sink && *sink > most) most = *sink;
      Vector sum = zero(), highest = splat(-most * scale);
      for (size_t j = from; j < to; j += lanes) {
        Vector weight = exp2(fma(seen(j), splat(scale), highest));
        store(own + j, weight);
        sum = sum + weight;
      }
      float all = sumLanes(sum);
      float sinkWeight = sink ? exp2(fma(*sink, scale, -most * scale)) : 0.0f;
      if (sink) all += sinkWeight;
      factor[t] = real ? 1.0f / all : 0.0f;
      sinkShares[t] = sinkWeight * factor[t];
    }
  }

  /// Shares of a tile and their gradients, in place: dS = share (gradient - mean gradient) scale. Zero where the block
  /// sees something and the tile does not.
  void slope(const Keys& keys, const Keys& block, float* ownShares, float* ownSlopes) {
    size_t from = keys.firstStrip(S) * S, to = keys.endStrip(S) * S, all = block.endStrip(S) * S;
    size_t start = block.from / T * T < block.firstStrip(S) * S ? block.from / T * T : block.firstStrip(S) * S;
    for (size_t t = 0; t < T; t++) {
      float *share = ownShares + t * wide, *slope = ownSlopes + t * wide;
      Vector sum = zero();
      for (size_t j = from; j < to; j += lanes) {
        Vector value = load(share + j) * factor[t];
        store(share + j, value);
        sum = fma(value, load(slope + j), sum);
      }
      float mean = sumLanes(sum);
      sinkSlopes[t] = -sinkShares[t] * mean;
      for (size_t j = from; j < to; j += lanes) store(slope + j, load(share + j) * (load(slope + j) - mean) * shape.scale);
      for (size_t j = start; j < from; j++) share[j] = slope[j] = 0;
      for (size_t j = to; j < all; j++) share[j] = slope[j] = 0;
    }
  }

  /// Rows [T][J] as lanes along the keys that they see.
  void laneRows(const float* rows, size_t tile, const Keys& keys) const {
    for (size_t t = tile * T; t < (tile + 1) * T; t++)
      for (size_t j = keys.firstStrip(S) * S; j < keys.endStrip(S) * S; j += in * lanes)
        store(rowLanes + t * keySteps + j / in, Tiles::along(load(rows + t * wide + j), load(rows + t * wide + j + lanes)));
  }

  /// The first `count` rows of a block as lanes of two rows each.
  void laneColumns(const float* rows, size_t count, const Keys& block, float* to) const {
    for (size_t r = 0; r < count; r += in)
      for (size_t j = block.from / T * T / lanes * lanes; j < block.endStrip(S) * S; j += lanes)
        store(to + r / in * wide + j, Tiles::across(load(rows + r * wide + j), load(rows + (r + 1) * wide + j)));
  }
};

/// Keys that rows [token, token + count) see; firsts never fall from one token to the next.
inline Keys keysOf(const TrainShape& shape, const int32_t* firsts, size_t row, size_t token, size_t count) {
  return {size_t(firsts[row + token]) - row, token + count < shape.tokens ? token + count : shape.tokens};
}

template <class Tiles>
inline void attendHead(HeadWork<Tiles>& work, ggml_tensor* dst, size_t row, size_t head) {
  constexpr size_t T = Tiles::rows;
  const TrainShape& shape = work.shape;
  const int32_t* firsts = static_cast<const int32_t*>(dst->src[3]->data);
  work.sink = shape.sink(head, &work.sinkValue);
  for (size_t token = 0; token < shape.tokens; token += T) {
    size_t count = shape.tokens - token < T ? shape.tokens - token : T;
    Keys keys = keysOf(shape, firsts, row, token, count);
    work.packLeft(Head::of(dst->src[0], head, row + token, count), work.queries);
    work.alongKeys(work.queries, work.keysAlong, keys, work.shares);
    work.weigh(firsts, row, token, keys, work.shares);
    work.laneRows(work.shares, 0, keys);
    work.overKeys(0, work.valuesAcross, keys);
    for (size_t t = 0; t < count; t++) {
      size_t to = ((row + token + t) * shape.heads + head) * shape.width;
      for (size_t d = 0; d < shape.width; d += lanes) {
        int left = shape.width - d < size_t(lanes) ? int(shape.width - d) : lanes;
        Numbers(dst).store(to + d, load(work.mixed + t * work.padded + d) * work.factor[t], left);
      }
    }
  }
}

template <class Tiles>
inline void attendBackBlock(HeadWork<Tiles>& work, ggml_tensor* dst, const ggml_tensor* slope, size_t row, size_t head,
                            size_t first) {
  constexpr size_t T = Tiles::rows;
  const TrainShape& shape = work.shape;
  const int32_t* firsts = static_cast<const int32_t*>(dst->src[3]->data);
  size_t count = shape.tokens - first < work.blockRows ? shape.tokens - first : work.blockRows;
  Keys block = keysOf(shape, firsts, row, first, count);
  work.sink = shape.sink(head, &work.sinkValue);
  Head queries = Head::of(dst->src[0], head, row + first, count), slopes = Head::of(slope, head, row + first, count);
  work.packLeft(queries, work.queries), work.packLeft(slopes, work.slopes);
  size_t stride = shape.slopeStride();
  for (size_t tile = 0; tile * T < count; tile++) {
    size_t at = tile * T, rows = count - at < T ? count - at : T;
    float *shares = work.shares + at * work.wide, *shareSlopes = work.shareSlopes + at * work.wide;
    Keys keys = keysOf(shape, firsts, row, first + at, rows);
    work.alongKeys(work.queries + at * work.widthSteps, work.keysAlong, keys, shares);
    work.alongKeys(work.slopes + at * work.widthSteps, work.valuesAlong, keys, shareSlopes);
    work.weigh(firsts, row, first + at, keys, shares);
    work.slope(keys, block, shares, shareSlopes);
    if (work.sink) storeSinkSlopes(Numbers(dst), shape, row + first + at, head, work.sinkSlopes, rows);
    work.laneRows(work.shareSlopes, tile, keys);
    work.overKeys(tile, work.keysAcross, keys);
    for (size_t t = 0; t < rows; t++)
      Numbers(dst).storeRow((row + first + at + t) * stride + head * shape.width, work.mixed + t * work.padded, shape.width);
  }
  work.packRight(queries.other(), work.blockRows / Tiles::inputs, work.queriesAcross);
  work.packRight(slopes.other(), work.blockRows / Tiles::inputs, work.slopesAcross);
  work.laneColumns(work.shares, count, block, work.shareLanes);
  work.laneColumns(work.shareSlopes, count, block, work.slopeLanes);
  work.overRows(work.shareLanes, work.slopesAcross, first, count, block, work.valueSlopes);
  work.overRows(work.slopeLanes, work.queriesAcross, first, count, block, work.keySlopes);
}

template <class Tiles>
inline void attend(ggml_tensor* dst, Call* call, int nth) {
  const ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2];
  TrainShape shape = trainShape(call, q, k, dst->src[4]);
  HeadWork<Tiles> work(shape, false);
  for (size_t piece; (piece = size_t(takePiece(call))) < shape.sequences * shape.kvHeads;) {
    size_t row = piece / shape.kvHeads * shape.tokens, group = piece % shape.kvHeads;
    work.packRight(Head::of(k, group, row, shape.tokens), work.widthSteps, work.keysAlong);
    work.packRight(Head::of(v, group, row, shape.tokens).other(), work.keySteps, work.valuesAcross);
    for (size_t head = group * shape.perKv(); head < (group + 1) * shape.perKv(); head++) attendHead(work, dst, row, head);
  }
  leave(call, nth);
}

template <class Tiles>
inline void attendBack(ggml_tensor* dst, Call* call, int nth) {
  const ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2];
  TrainShape shape = trainShape(call, q, k, sinksOfBack(dst));
  ggml_tensor slope = asHeads(*slopeOfBack(dst), shape.width);
  size_t stride = shape.slopeStride();
  HeadWork<Tiles> work(shape, true);
  for (size_t piece; (piece = size_t(takePiece(call))) < shape.sequences * shape.kvHeads;) {
    size_t row = piece / shape.kvHeads * shape.tokens, group = piece % shape.kvHeads;
    Head keys = Head::of(k, group, row, shape.tokens), values = Head::of(v, group, row, shape.tokens);
    work.packRight(keys, work.widthSteps, work.keysAlong), work.packRight(values, work.widthSteps, work.valuesAlong);
    work.packRight(keys.other(), work.keySteps, work.keysAcross);
    for (size_t i = 0; i < work.wide * work.padded; i++) work.keySlopes[i] = work.valueSlopes[i] = 0;
    for (size_t head = group * shape.perKv(); head < (group + 1) * shape.perKv(); head++)
      for (size_t first = 0; first < shape.tokens; first += work.blockRows)
        attendBackBlock(work, dst, &slope, row, head, first);
    for (size_t t = 0; t < shape.tokens; t++) {
      size_t to = (row + t) * stride + (shape.heads + group) * shape.width;
      Numbers(dst).storeRow(to, work.keySlopes + t * work.padded, shape.width);
      Numbers(dst).storeRow(to + shape.kvHeads * shape.width, work.valueSlopes + t * work.padded, shape.width);
    }
  }
  leave(call, nth);
}

/// dst [N, H D]. Sources: q [N, H, D], k and v [N, G, D] (rows may be strided), all in F32 or BF16, I32 [N] first row that each
/// sees, never falling within a sequence; sinks [H] where there are some. Params: B, scale as float bits, multiplied in bfloat16 where the machine can.
inline void causalAttention(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
#if defined(__AVX512F__)
  if (call->params[2] && multipliesPairs()) return attend<PairTiles>(dst, call, nth);
#endif
  attendFloats(dst, call, nth);
}

/// dst [N, (H + 2 G) D]: gradients of q, k and v side by side; with sinks [N, (H + 2 G) D + H], behind them what each row
/// adds to those of sinks. Sources: those of causal_attention, then the gradient of its result [N, H D]. Params: the same.
inline void causalAttentionBack(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
#if defined(__AVX512F__)
  if (call->params[2] && multipliesPairs()) return attendBack<PairTiles>(dst, call, nth);
#endif
  attendBackFloats(dst, call, nth);
}

}  // namespace
