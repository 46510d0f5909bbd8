// Attention over the paged cache, in place, for any mixture of prompt chunks and decodes.
//
// The bits of a row depend on its own query, its position and the cache only. Positions are cut into tiles
// of 64 and chunks of 512, both counted from position 0. Inside a chunk the softmax runs online over the
// tiles (Milakov and Gimelshein 2018); chunks start afresh and are merged in order. So a long context can
// be split between threads at chunk borders, a prompt can come in pieces, and rows can be computed
// together or alone: the sequence of roundings stays the same. Masked positions take part as exact zeros.
//
// Legend: R rows = (kv head, token, query head) triples of a unit, D head width, P positions of a tile.
#pragma once

#include "attention_plan.h"
#include "attention_rows.h"
#include "tensor.h"

namespace {

constexpr float nothingYet = -1e30f;  // a maximum below every score, finite so that differences stay numbers

/// The rows of one unit and their running softmax.
struct Rows {
  int count;
  int perHead;     // rows of one kv head
  int32_t* token;  // [R], within the unit
  float* query;    // by kv head, as queryAt says, multiplied by scale * log2(e)
  float* scores;   // [R][P], then the weights
  float* keep;     // [R] up to whole vectors, what the new maximum leaves of the old sum
  float* best;     // [R], largest score so far in the chunk
  float* weight;   // [R][lanes], sums of weights in the chunk
  float* out;      // [R][D padded], weighted sum of values in the chunk
  float* total;    // the same three over all chunks so far, as [R] best, [R] weight, [R][D padded] out
  float* pairs;    // [P/2][D][2] bfloat16: values of a tile, where tiles multiply them
};

/// Masks a row's scores and raises its maximum; `keep` becomes the logarithm of what that leaves of sums.
inline void maximumOfRow(Rows& rows, int row, int base, int first, int end) {
  float* scores = rows.scores + row * tilePositions;
  Vector best = splat(nothingYet);
  if (first <= base && end >= base + tilePositions) {
    for (int p = 0; p < tilePositions; p += lanes) best = maximum(load(scores + p), best);
  } else {
    for (int p = 0; p < tilePositions; p += lanes) {
      Vector seen = keepRange(load(scores + p), base + p, first, end, -__builtin_inff());
      store(scores + p, seen);
      best = maximum(seen, best);
    }
  }
  float highest = maximumLane(best), old = rows.best[row];
  if (highest < old) highest = old;
  rows.keep[row] = old - highest;
  rows.best[row] = highest;
}

/// Turns scores into weights 2^(score - best) and moves the running sums; all rows of a unit.
template <class Cache>
inline void softmaxRows(Rows& rows) {
  for (int r = 0; r < rows.count; r += lanes) store(rows.keep + r, exp2(load(rows.keep + r)));
  for (int r = 0; r < rows.count; r++) {
    float* scores = rows.scores + r * tilePositions;
    Vector weight[tileVectors];
    for (int v = 0; v < tileVectors; v++) weight[v] = exp2(load(scores + v * lanes) - rows.best[r]);
    Vector sum = load(rows.weight + r * lanes) * rows.keep[r];
    for (int v = 0; v < tileVectors; v++) sum = sum + weight[v];
    store(rows.weight + r * lanes, sum);
    Cache::storeWeights(scores, weight);
  }
}

/// What one op works on.
struct Attention {
  AttentionShape shape;
  Batch batch;
  const char* keys;
  const char* values;
  const float* sinks;  // [H], or null
  Plan plan;
};

/// Positions that some row of a unit sees.
struct Span {
  int first, end;
};

inline Span spanOf(const AttentionShape& shape, const Sequence& sequence, const Unit& unit) {
  int position = sequence.start + unit.token;
  int first = shape.window > 0 && position >= shape.window ? position - shape.window + 1 : 0;
  return {first, position + unit.tokens};
}

/// A tile of the kv head `head`. Outside of what some row sees there may be no block: those positions are masked, so any
/// others do in their place.
inline Tile tileAt(const Attention& op, const Sequence& sequence, int head, int base, Span span) {
  const CacheShape& cache = op.shape.cache;
  const size_t element = cache.format == cacheQ8 ? 1 : 2, groups = cache.groups();
  // Pairs of dimensions lie together in the keys of bfloat16.
  const size_t keyBytes = cache.format == cacheBF16 ? 4 : element, codeBytes = cache.codeBytes();
  constexpr int parts = tilePositions / subPositions;
  Tile tile;
  tile.head = 0;
  tile.base = base;
  tile.first = span.first > base ? span.first : base;
  tile.end = span.end < base + tilePositions ? span.end : base + tilePositions;
  int first = (tile.first - base) / subPositions, last = (tile.end - 1 - base) / subPositions;
  int block = (base + first * subPositions) / cache.blockTokens;
  int inside = base + first * subPositions - block * cache.blockTokens;
  for (int s = first; s <= last; s++) {
    size_t at = cache.at(sequence.blocks[block], head), scales = at + codeBytes;
    tile.keys[s] = op.keys + at + inside * keyBytes;
    tile.keyScales[s] = op.keys + scales + inside * 2;
    tile.values[s] = op.values + at + inside * cache.width * element;
    tile.valueScales[s] = op.values + scales + inside * groups * 2;
    inside += subPositions;
    if (inside == cache.blockTokens) block++, inside = 0;
  }
  for (int s = 0; s < parts; s++) {
    int from = s < first ? first : s > last ? last : s;
    if (from == s) continue;
    tile.keys[s] = tile.keys[from];
    tile.keyScales[s] = tile.keyScales[from];
    tile.values[s] = tile.values[from];
    tile.valueScales[s] = tile.valueScales[from];
  }
  return tile;
}

inline int firstTileBase(Span span, int chunk) {
  int base = chunk * chunkPositions;
  return span.first > base ? span.first / tilePositions * tilePositions : base;
}

typedef Phases<unitRowsAim * tilePositions / subPositions> Asked;

/// A tile of a unit, and what the unit sees; no unit where nothing follows.
struct Place {
  const Unit* unit;
  int base;
  Span span;
};

inline Place firstPlace(const Attention& op, const Unit* unit) {
  if (!unit) return {nullptr, 0, {0, 0}};
  Span span = spanOf(op.shape, op.batch.sequence(unit->sequence), *unit);
  return {unit, firstTileBase(span, unit->chunk), span};
}

/// Calls `visit(from, bytes)` for what the heads of a unit have in `memory`, keys or values, at the positions of a tile:
/// head by head, as it is used. Of a block that several tiles share, as much as is due to each of them.
template <class Visit>
inline void forEachStretch(const Attention& op, const char* memory, const Place& place, Visit visit) {
  if (!place.unit) return;
  const CacheShape& cache = op.shape.cache;
  const int32_t* blocks = op.batch.sequence(place.unit->sequence).blocks;
  const int base = place.base, end = place.span.end < base + tilePositions ? place.span.end : base + tilePositions;
  size_t bytes = cache.headBytes(), share = bytes / cache.blockTokens;
  const char* from[tilePositions / subPositions];
  int count = 0;
  for (int position = base > place.span.first ? base : place.span.first; position < end; count++) {
    int block = position / cache.blockTokens;
    from[count] = memory + cache.at(blocks[block], place.unit->head);
    if (cache.blockTokens > tilePositions) from[count] += base % cache.blockTokens * share;
    position = (block + 1) * cache.blockTokens;
  }
  size_t each = cache.blockTokens > tilePositions ? tilePositions * share : bytes;
  for (int h = 0; h < place.unit->heads; h++)
    for (int i = 0; i < count; i++) visit(from[i] + h * bytes, each);
}

inline void askFor(Asked& asked, const Attention& op, const char* memory, const Place& place) {
  forEachStretch(op, memory, place, [&](const char* from, size_t bytes) { asked.add(from, bytes); });
}

inline void findPages(const Attention& op, const char* memory, const Place& place) {
  forEachStretch(op, memory, place, [](const char* from, size_t bytes) { findPages(from, bytes); });
}

/// One tile for all rows of a unit; `then` is the tile that this thread takes up behind it.
template <class Cache>
inline void attendTile(const Attention& op, const Sequence& sequence, const Place& here, const Place& then, Rows& rows,
                       Asked& asked) {
  const AttentionShape& shape = op.shape;
  const Unit& unit = *here.unit;
  Tile tile = tileAt(op, sequence, unit.head, here.base, here.span);
  // A head goes by several blocks at once, so less than all that it uses would come too late for most of them.
  const size_t headTile = shape.cache.headBytes() / shape.cache.blockTokens * tilePositions;
  asked.begin(headTile);
  askFor(asked, op, op.values, here);
  findPages(op, op.keys, then);
  for (int h = 0; h < unit.heads; h++) {
    int row = h * rows.perHead;
    tile.head = h * shape.cache.headBytes();
    const ScoreBody<Cache> body{rows.query + row * shape.cache.width, tile, shape.cache, rows.scores + row * tilePositions,
                                asked.ahead};
    if constexpr (Cache::tiled) Cache::scores(body, rows.perHead);
    else byRegisterRows(rows.perHead, body);
  }
  asked.finish();
  for (int r = 0; r < rows.count; r++) {
    int own = sequence.start + unit.token + rows.token[r];
    int seen = shape.window > 0 && own >= shape.window ? own - shape.window + 1 : 0;
    maximumOfRow(rows, r, here.base, seen, own + 1);
  }
  softmaxRows<Cache>(rows);
  asked.begin(headTile);
  askFor(asked, op, op.keys, then);
  findPages(op, op.values, then);
  for (int h = 0; h < unit.heads; h++) {
    int row = h * rows.perHead;
    tile.head = h * shape.cache.headBytes();
    const ValueBody<Cache> body{rows.scores + row * tilePositions, rows.keep + row, tile, shape.cache,
                                rows.out + row * shape.widthPadded, shape.widthPadded, asked.ahead};
    if constexpr (Cache::tiled) Cache::values(body, rows.perHead, rows.pairs);
    else byRegisterRows(rows.perHead, body);
  }
  asked.finish();
}

/// One chunk for all rows of a unit, from an empty softmax.
template <class Cache>
inline void attendChunk(const Attention& op, const Sequence& sequence, const Unit& unit, int chunk, const Unit* next,
                        Rows& rows, Asked& asked) {
  const AttentionShape& shape = op.shape;
  Span span = spanOf(shape, sequence, unit);
  for (int r = 0; r < rows.count; r++) {
    rows.best[r] = nothingYet;
    store(rows.weight + r * lanes, zero());
  }
  for (int i = 0; i < rows.count * shape.widthPadded; i += lanes) store(rows.out + i, zero());
  int end = (chunk + 1) * chunkPositions < span.end ? (chunk + 1) * chunkPositions : span.end;
  for (int base = firstTileBase(span, chunk); base < end; base += tilePositions) {
    bool more = base + tilePositions < end || (chunk + 1 < unit.chunk + unit.chunks && end < span.end);
    Place then = more ? Place{&unit, base + tilePositions, span} : firstPlace(op, next);
    attendTile<Cache>(op, sequence, {&unit, base, span}, then, rows, asked);
  }
}

/// Merges a chunk's (best, weight, out) of one row into the total so far; called in the order of chunks.
inline void mergeRow(const AttentionShape& shape, float* totalBest, float* totalWeight, float* totalOut,
                     float best, float weight, const float* out) {
  float highest = best > *totalBest ? best : *totalBest;
  float keep = exp2(*totalBest - highest), add = exp2(best - highest);
  *totalBest = highest;
  *totalWeight = fma(weight, add, *totalWeight * keep);
  for (int d = 0; d < shape.widthPadded; d += lanes)
    store(totalOut + d, fma(load(out + d), splat(add), load(totalOut + d) * keep));
}

inline Rows rowsIn(const AttentionShape& shape, char* memory, size_t* bytes) {
  size_t r = shape.rowsMax, at = 0;
  auto take = [&](size_t floats) {
    float* part = reinterpret_cast<float*>(memory + at);
    at += alignUp(floats * 4);
    return part;
  };
  Rows rows;
  rows.count = rows.perHead = 0;
  rows.token = reinterpret_cast<int32_t*>(take(r));
  rows.query = take(r * shape.cache.width);
  rows.scores = take(r * tilePositions);
  rows.keep = take(r);
  rows.best = take(r);
  rows.weight = take(r * lanes);
  rows.out = take(r * shape.widthPadded);
  rows.total = take(r * partialFloats(shape));
  rows.pairs = take(tilePositions / 2 * shape.cache.width);
  *bytes = at;
  return rows;
}

inline const float* queryRow(const ggml_tensor* q, int token, int head) {
  return reinterpret_cast<const float*>(static_cast<const char*>(q->data) + token * q->nb[2] + head * q->nb[1]);
}

/// By what a row's sum of values is multiplied: one over the sum of weights, which a sink joins as a score without a value.
inline float overAll(float best, float weight, const float* sink) {
  if (!sink) return 1.0f / weight;
  float score = *sink * log2e, highest = best > score ? best : score;
  float keep = exp2(best - highest);
  return keep / fma(weight, keep, exp2(score - highest));
}

inline void writeRow(const AttentionShape& shape, ggml_tensor* dst, int token, int head, float inverse, const float* out) {
  float* to = static_cast<float*>(dst->data) + (size_t(token) * shape.heads + head) * shape.cache.width;
  for (int d = 0; d < shape.cache.width; d += lanes) store(to + d, load(out + d) * inverse, shape.cache.width - d);
}

/// Calls `visit(row, kv head, token, query head)` for the rows of a unit, all counted from its first.
template <class Visit>
inline void forEachRow(const AttentionShape& shape, const Unit& unit, Visit visit) {
  int row = 0;
  for (int h = 0; h < unit.heads; h++)
    for (int t = 0; t < unit.tokens; t++)
      for (int i = 0; i < shape.perKv; i++) visit(row++, h, t, h * shape.perKv + i);
}

/// One chunk of one unit is all that its rows see.
inline bool isWhole(const Unit& unit) { return unit.group < 0 && unit.chunks == 1; }

/// The queries of a unit, and nothing attended to yet.
template <class Cache>
inline void startRows(const AttentionShape& shape, const ggml_tensor* q, const Unit& unit, int token, Rows& rows) {
  rows.perHead = unit.tokens * shape.perKv;
  rows.count = unit.heads * rows.perHead;
  Cache::begin(rows.perHead);
  const int width = shape.cache.width, first = unit.head * shape.perKv;
  forEachRow(shape, unit, [&](int r, int h, int t, int head) {
    int stride;
    rows.token[r] = t;
    float* to = Cache::queryAt(rows.query + h * rows.perHead * width, r - h * rows.perHead, rows.perHead, width, &stride);
    Cache::query(queryRow(q, token + t, first + head), shape.scale * log2e, width, stride, to);
    if (isWhole(unit)) return;
    float* total = rows.total + r * partialFloats(shape);
    total[0] = nothingYet;
    total[1] = 0;
    for (int d = 0; d < shape.widthPadded; d += lanes) store(total + 2 + d, zero());
  });
}

/// A chunk's results, merged into the totals or, when others merge them, kept.
inline void endChunk(const Attention& op, const Unit& unit, int chunk, Rows& rows) {
  const AttentionShape& shape = op.shape;
  size_t floats = partialFloats(shape);
  for (int r = 0; r < rows.count; r++) {
    const float* out = rows.out + r * shape.widthPadded;
    float weight = sumLanes(load(rows.weight + r * lanes));
    if (unit.group < 0) {
      float* total = rows.total + r * floats;
      mergeRow(shape, total, total + 1, total + 2, rows.best[r], weight, out);
    } else {
      const Group& group = op.plan.group[unit.group];
      float* part = op.plan.partials + group.partials + (size_t(chunk - group.chunk) * rows.count + r) * floats;
      part[0] = rows.best[r];
      part[1] = weight;
      for (int d = 0; d < shape.widthPadded; d += lanes) store(part + 2 + d, load(out + d));
    }
  }
}

template <class Cache>
inline void runUnit(const Attention& op, const Unit& unit, const Unit* next, ggml_tensor* dst, Rows& rows,
                    Asked& asked) {
  const AttentionShape& shape = op.shape;
  Sequence sequence = op.batch.sequence(unit.sequence);
  int token = sequence.row + unit.token;
  size_t floats = partialFloats(shape);
  startRows<Cache>(shape, dst->src[0], unit, token, rows);
  for (int c = unit.chunk; c < unit.chunk + unit.chunks; c++) {
    attendChunk<Cache>(op, sequence, unit, c, next, rows, asked);
    if (!isWhole(unit)) endChunk(op, unit, c, rows);
  }
  if (unit.group >= 0) {
    Group& group = op.plan.group[unit.group];
    if (__atomic_sub_fetch(&group.unitsLeft, 1, __ATOMIC_ACQ_REL) > 0) return;
    for (int c = 0; c < group.chunks; c++)
      for (int r = 0; r < rows.count; r++) {
        float* total = rows.total + r * floats;
        const float* part = op.plan.partials + group.partials + (size_t(c) * rows.count + r) * floats;
        mergeRow(shape, total, total + 1, total + 2, part[0], part[1], part + 2);
      }
  }
  forEachRow(shape, unit, [&](int r, int, int t, int head) {
    const float* total = rows.total + r * floats;
    const bool whole = isWhole(unit);
    const float weight = whole ? sumLanes(load(rows.weight + r * lanes)) : total[1];
    const int own = unit.head * shape.perKv + head;
    float inverse = overAll(whole ? rows.best[r] : total[0], weight, op.sinks ? op.sinks + own : nullptr);
    writeRow(shape, dst, token + t, own, inverse, whole ? rows.out + r * shape.widthPadded : total + 2);
  });
}

template <class Cache>
inline void attendUnits(Call* call, const Attention& op, ggml_tensor* dst) {
  size_t bytes;
  rowsIn(op.shape, nullptr, &bytes);
  Rows rows = rowsIn(op.shape, rw_thread_scratch(bytes), &bytes);
  Asked asked;
  int piece = takePiece(call);
  if (piece < op.plan.units) askFor(asked, op, op.keys, firstPlace(op, op.plan.unit + piece));
  asked.finish();
  // The next piece is taken before the present one is computed, to ask for its first keys in time.
  while (piece < op.plan.units) {
    int next = takePiece(call);
    const Unit* following = next < op.plan.units ? op.plan.unit + next : nullptr;
    runUnit<Cache>(op, op.plan.unit[piece], following, dst, rows, asked);
    piece = next;
  }
}

inline void attendPairs(Call* call, const Attention& op, ggml_tensor* dst) {
#if defined(__AVX512F__)
  if (multipliesPairs()) return attendUnits<PairCache>(call, op, dst);
#endif
  attendUnits<BfloatCache>(call, op, dst);
}

/// Attends by `attend(op)`, up to `rowsAim` rows at a time.
template <class Attend>
inline void pagedAttentionBy(ggml_tensor* dst, int nth, Call* call, int rowsAim, Attend attend) {
  const ggml_tensor* q = dst->src[0];
  Attention op;
  op.batch = {static_cast<const int32_t*>(dst->src[2]->data)};
  op.sinks = call->params[4] ? static_cast<const float*>(dst->src[3]->data) : nullptr;
  AttentionShape& shape = op.shape;
  int width = int(q->ne[0]);
  shape.heads = int(q->ne[1]);
  shape.cache = {call->params[0], width, op.batch.blockTokens(), call->params[3]};
  op.keys = static_cast<const char*>(dst->src[1]->data);
  op.values = op.keys + shape.cache.valuesBehind();
  shape.perKv = shape.heads / shape.cache.kvHeads;
  shape.widthPadded = (width + 4 * lanes - 1) / (4 * lanes) * (4 * lanes);
  shape.tileTokens = shape.perKv < rowsAim ? rowsAim / shape.perKv : 1;
  shape.rowsMax = (shape.tileTokens * shape.perKv + 15) / 16 * 16;
  shape.window = call->params[1];
  shape.scale = floatParam(call, 2);
  if (arriveFirst(call)) {
    makePlan(shape, op.batch, call->workspace);
    publish(call);
  }
  op.plan = *reinterpret_cast<const Plan*>(call->workspace->memory);
  attend(op);
  leave(call, nth);
}

/// dst F32 [N, heads, D]. Sources: q F32 [N, heads, D] (rows may be strided), cache, batch table, sinks [heads] where there
/// are some. Params: kv heads, window (0: none), scale as float bits, format of the cache, sinks (0/1).
inline void pagedAttention(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  pagedAttentionBy(dst, nth, call, tileRowsAim, [&](const Attention& op) {
    switch (op.shape.cache.format) {
      case cacheF16: return attendUnits<HalfCache>(call, op, dst);
      case cacheBF16: return attendPairs(call, op, dst);
      case cacheQ8: return attendUnits<CodedCache>(call, op, dst);
    }
  });
}

}  // namespace
