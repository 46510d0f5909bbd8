// Attention over the paged cache, in place, for any mixture of prompt chunks and decodes.
//
// The bits of a row depend on its own query, its position and the cache only. Positions are cut into tiles
// of 64 and chunks of 512, both counted from position 0. Inside a chunk the softmax runs online over the
// tiles (Milakov and Gimelshein 2018); chunks start afresh and are merged in order. So a long context can
// be split between threads at chunk borders, a prompt can come in pieces, and rows can be computed
// together or alone: the sequence of roundings stays the same. Masked positions take part as exact zeros.
//
// Legend: R rows = (token, query head) pairs that share one kv head, D head width, P positions of a tile.
#pragma once

#include "batch.h"
#include "call.h"
#include "simd.h"
#include "tensor.h"

namespace {

constexpr int tilePositions = 64;
constexpr int chunkPositions = 512;
constexpr int subPositions = 16;  // positions that always lie in one block
constexpr int tileRowsAim = 32;   // rows that share one pass over a tile of the cache
constexpr int registerRows = lanes == 16 ? 8 : lanes == 8 ? 5 : 4;
constexpr float nothingYet = -1e30f;  // a maximum below every score, finite so that differences stay numbers

/// One kv head of some neighbouring tokens of one sequence, over some of its chunks.
struct Unit {
  int32_t sequence, token, tokens, head, chunk, chunks;
  int32_t group;  // units of one group are merged by the last of them to finish; -1 when alone
};

/// Units that cover one set of rows; their results wait in `partials`, chunk by chunk.
struct Group {
  int32_t unitsLeft, chunk, chunks;
  int32_t padding;
  size_t partials;
};

struct Plan {
  int32_t units, groups;
  Unit* unit;
  Group* group;
  float* partials;
};

struct AttentionShape {
  int heads, perKv, width, widthPadded, tileTokens, rowsMax, window;
  float scale;
  CacheShape cache;
};

/// R x P scores of one kv head, two vectors of positions: scores[r][p] = sum over d of q[d][r] k[d][p],
/// summed in the order of d. Asks for the same rows at `ahead0` and `ahead1` meanwhile.
template <int R>
inline void scoreRows(const float* q, int qStride, const Half* k0, const Half* k1, size_t kStride, int width,
                      const Half* ahead0, const Half* ahead1, float* scores) {
  Vector sum0[R], sum1[R];
  for (int r = 0; r < R; r++) sum0[r] = sum1[r] = zero();
  for (int d = 0; d < width; d++) {
    Vector a = loadHalf(k0), b = loadHalf(k1);
    __builtin_prefetch(ahead0);
    __builtin_prefetch(ahead1);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      Vector query = splat(q[r]);
      sum0[r] = fma(query, a, sum0[r]);
      sum1[r] = fma(query, b, sum1[r]);
    }
    k0 += kStride, k1 += kStride, ahead0 += kStride, ahead1 += kStride;
    q += qStride;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    store(scores + r * tilePositions, sum0[r]);
    store(scores + r * tilePositions + lanes, sum1[r]);
  }
}

/// out[r][d] = out[r][d] * keep[r] + sum over p of weights[r][p] v[p][d] for V vectors of d, the last of
/// `last` elements when Partial; summed in the order of p. `v[s]` points to position 16 s of the tile.
template <int R, int V, bool Partial>
inline void valueRows(const float* weights, const float* keep, const Half* const* v, const Half* const* ahead,
                      int first, int end, size_t width, int d, int last, float* out, int outStride) {
  Vector sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
    for (int i = 0; i < V; i++) sum[r][i] = load(out + r * outStride + d + i * lanes) * keep[r];
  for (int p = first; p < end;) {
    int s = p / subPositions, stop = (s + 1) * subPositions < end ? (s + 1) * subPositions : end;
    size_t at = size_t(p % subPositions) * width + d;
    const Half* from = v[s] + at;
    const Half* next = ahead[s] + at;
    for (; p < stop; p++, from += width, next += width) {
      Vector value[V];
      for (int i = 0; i < V - 1; i++) value[i] = loadHalf(from + i * lanes);
      value[V - 1] = Partial ? loadHalf(from + (V - 1) * lanes, last) : loadHalf(from + (V - 1) * lanes);
      __builtin_prefetch(next);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        Vector weight = splat(weights[r * tilePositions + p]);
        for (int i = 0; i < V; i++) sum[r][i] = fma(weight, value[i], sum[r][i]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
    for (int i = 0; i < V; i++) store(out + r * outStride + d + i * lanes, sum[r][i]);
}

/// Calls `body` with R = registerRows while so many rows are left, then once with the rest.
template <int R = registerRows, class Body>
inline void byRegisterRows(int rows, Body body) {
  int row = 0;
  for (; row + registerRows <= rows; row += registerRows) body.template run<registerRows>(row);
  switch (rows - row) {
    case 1: return body.template run<1>(row);
    case 2: return body.template run<2>(row);
    case 3: return body.template run<3>(row);
    case 4: if constexpr (registerRows > 4) return body.template run<4>(row); return;
    case 5: if constexpr (registerRows > 5) return body.template run<5>(row); return;
    case 6: if constexpr (registerRows > 6) return body.template run<6>(row); return;
    case 7: if constexpr (registerRows > 7) return body.template run<7>(row); return;
  }
}

/// The rows of one unit and their running softmax.
struct Rows {
  int count;
  float* query;    // [D][R], multiplied by scale * log2(e)
  float* scores;   // [R][P], then the weights
  float* keep;     // [R] up to whole vectors, what the new maximum leaves of the old sum
  float* best;     // [R], largest score so far in the chunk
  float* weight;   // [R], sum of weights in the chunk
  float* out;      // [R][D padded], weighted sum of values in the chunk
  float* total;    // the same three over all chunks so far, as [R] best, [R] weight, [R][D padded] out
};

struct Tile {
  const Half* keys[tilePositions / subPositions];    // at [d = 0] of each 16 positions
  const Half* values[tilePositions / subPositions];  // at each 16 positions
  const Tile* ahead;                                 // the tile that this thread reads next, or itself
  int base, first, end;                              // positions: of lane 0; some row sees [first, end)
};

struct ScoreBody {
  const AttentionShape& shape;
  const Tile& tile;
  Rows& rows;
  template <int R>
  void run(int row) const {
    // Blocks lie anywhere, so the hardware cannot guess; the first pass over a tile asks for the next one.
    const Tile& ahead = row == 0 ? *tile.ahead : tile;
    int from = (tile.first - tile.base) / (2 * lanes) * (2 * lanes);
    for (int p = from; p < tile.end - tile.base; p += 2 * lanes) {
      int s0 = p / subPositions, s1 = (p + lanes) / subPositions;
      const Half* k0 = tile.keys[s0] + p % subPositions;
      const Half* k1 = tile.keys[s1] + (p + lanes) % subPositions;
      scoreRows<R>(rows.query + row, shape.rowsMax, k0, k1, shape.cache.blockTokens, shape.width,
                   ahead.keys[s0] + p % subPositions, ahead.keys[s1] + (p + lanes) % subPositions,
                   rows.scores + row * tilePositions + p);
    }
  }
};

struct ValueBody {
  const AttentionShape& shape;
  const Tile& tile;
  Rows& rows;
  template <int R>
  void run(int row) const {
    const float* weights = rows.scores + row * tilePositions;
    float* out = rows.out + row * shape.widthPadded;
    const Half* const* ahead = row == 0 ? tile.ahead->values : tile.values;
    int first = tile.first - tile.base, end = tile.end - tile.base;
    for (int d = 0; d < shape.width; d += 2 * lanes) {
      int left = shape.width - d;
      auto pass = left >= 2 * lanes ? valueRows<R, 2, false>
                  : left > lanes    ? valueRows<R, 2, true>
                  : left == lanes   ? valueRows<R, 1, false>
                                    : valueRows<R, 1, true>;
      pass(weights, rows.keep + row, tile.values, ahead, first, end, shape.width, d,
           left > lanes ? left - lanes : left, out, shape.widthPadded);
    }
  }
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
inline void softmaxRows(Rows& rows) {
  for (int r = 0; r < rows.count; r += lanes) store(rows.keep + r, exp2(load(rows.keep + r)));
  for (int r = 0; r < rows.count; r++) {
    float* scores = rows.scores + r * tilePositions;
    Vector sum = zero();
    for (int p = 0; p < tilePositions; p += lanes) {
      Vector weight = exp2(load(scores + p) - rows.best[r]);
      store(scores + p, weight);
      sum = sum + weight;
    }
    rows.weight[r] = fma(rows.weight[r], rows.keep[r], sumLanes(sum));
  }
}

/// What one op works on.
struct Attention {
  AttentionShape shape;
  Batch batch;
  const Half* keys;
  const Half* values;
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

inline Tile tileAt(const Attention& op, const Sequence& sequence, int head, int base, Span span) {
  Tile tile;
  tile.base = base;
  tile.first = span.first > base ? span.first : base;
  tile.end = span.end < base + tilePositions ? span.end : base + tilePositions;
  int bt = op.shape.cache.blockTokens;
  for (int s = 0; s < tilePositions / subPositions; s++) {
    int position = base + s * subPositions;
    // Outside [first, end) there may be no block: those positions are masked, so any other will do.
    if (position >= tile.end) position = (tile.end - 1) / subPositions * subPositions;
    if (position + subPositions <= tile.first) position = tile.first / subPositions * subPositions;
    size_t at = op.shape.cache.block(sequence.blocks[position / bt]) + op.shape.cache.head(head);
    int inside = position % bt;
    tile.keys[s] = op.keys + at + inside;
    tile.values[s] = op.values + at + size_t(inside) * op.shape.width;
  }
  return tile;
}

inline int firstTileBase(Span span, int chunk) {
  int base = chunk * chunkPositions;
  return span.first > base ? span.first / tilePositions * tilePositions : base;
}

/// The first tile of a unit, for asking for it early.
inline Tile firstTile(const Attention& op, const Unit& unit) {
  Sequence sequence = op.batch.sequence(unit.sequence);
  Span span = spanOf(op.shape, sequence, unit);
  return tileAt(op, sequence, unit.head, firstTileBase(span, unit.chunk), span);
}

/// One chunk for all rows of a unit, from an empty softmax. `after` is what this thread reads then.
inline void attendChunk(const Attention& op, const Unit& unit, int chunk, const Tile* after, Rows& rows) {
  const AttentionShape& shape = op.shape;
  Sequence sequence = op.batch.sequence(unit.sequence);
  Span span = spanOf(shape, sequence, unit);
  for (int r = 0; r < rows.count; r++) {
    rows.best[r] = nothingYet;
    rows.weight[r] = 0;
  }
  for (int i = 0; i < rows.count * shape.widthPadded; i++) rows.out[i] = 0;
  int end = (chunk + 1) * chunkPositions < span.end ? (chunk + 1) * chunkPositions : span.end;
  int base = firstTileBase(span, chunk);
  Tile tile = tileAt(op, sequence, unit.head, base, span);
  for (; base < end; base += tilePositions) {
    bool more = base + tilePositions < end || (chunk + 1 < unit.chunk + unit.chunks && end < span.end);
    Tile next = more ? tileAt(op, sequence, unit.head, base + tilePositions, span) : after ? *after : tile;
    tile.ahead = &next;
    byRegisterRows(rows.count, ScoreBody{shape, tile, rows});
    for (int r = 0; r < rows.count; r++) {
      int own = sequence.start + unit.token + r / shape.perKv;
      int first = shape.window > 0 && own >= shape.window ? own - shape.window + 1 : 0;
      maximumOfRow(rows, r, base, first, own + 1);
    }
    softmaxRows(rows);
    byRegisterRows(rows.count, ValueBody{shape, tile, rows});
    tile = next;
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

inline size_t partialFloats(const AttentionShape& shape) { return 2 + size_t(shape.widthPadded); }

inline Rows rowsIn(const AttentionShape& shape, char* memory, size_t* bytes) {
  size_t r = shape.rowsMax, at = 0;
  auto take = [&](size_t floats) {
    float* part = reinterpret_cast<float*>(memory + at);
    at += alignUp(floats * 4);
    return part;
  };
  Rows rows;
  rows.count = 0;
  rows.query = take(r * shape.width);
  rows.scores = take(r * tilePositions);
  rows.keep = take(r);
  rows.best = take(r);
  rows.weight = take(r);
  rows.out = take(r * shape.widthPadded);
  rows.total = take(r * partialFloats(shape));
  *bytes = at;
  return rows;
}

inline const float* queryRow(const ggml_tensor* q, int token, int head) {
  return reinterpret_cast<const float*>(static_cast<const char*>(q->data) + token * q->nb[2] + head * q->nb[1]);
}

inline void writeRow(const AttentionShape& shape, ggml_tensor* dst, int token, int head, const float* weight,
                     const float* out) {
  float* to = static_cast<float*>(dst->data) + (size_t(token) * shape.heads + head) * shape.width;
  float inverse = 1.0f / *weight;
  for (int d = 0; d < shape.width; d += lanes) store(to + d, load(out + d) * inverse, shape.width - d);
}

inline void startTotals(const AttentionShape& shape, Rows& rows) {
  for (int r = 0; r < rows.count; r++) {
    float* total = rows.total + r * partialFloats(shape);
    total[0] = nothingYet;
    total[1] = 0;
    for (int d = 0; d < shape.widthPadded; d++) total[2 + d] = 0;
  }
}

/// `after` is the tile that this thread reads next, or null.
inline void runUnit(const Attention& op, const Unit& unit, const Tile* after, ggml_tensor* dst, Rows& rows) {
  const AttentionShape& shape = op.shape;
  const Plan& plan = op.plan;
  const ggml_tensor* q = dst->src[0];
  int token = op.batch.sequence(unit.sequence).row + unit.token;
  size_t floats = partialFloats(shape);
  rows.count = unit.tokens * shape.perKv;
  for (int r = 0; r < rows.count; r++) {
    const float* from = queryRow(q, token + r / shape.perKv, unit.head * shape.perKv + r % shape.perKv);
    for (int d = 0; d < shape.width; d++) rows.query[d * shape.rowsMax + r] = from[d] * (shape.scale * log2e);
  }
  startTotals(shape, rows);
  for (int c = unit.chunk; c < unit.chunk + unit.chunks; c++) {
    attendChunk(op, unit, c, after, rows);
    for (int r = 0; r < rows.count; r++) {
      const float* out = rows.out + r * shape.widthPadded;
      float* total = rows.total + r * floats;
      if (unit.group < 0) {
        mergeRow(shape, total, total + 1, total + 2, rows.best[r], rows.weight[r], out);
      } else {
        const Group& group = plan.group[unit.group];
        float* part = plan.partials + group.partials + (size_t(c - group.chunk) * rows.count + r) * floats;
        part[0] = rows.best[r];
        part[1] = rows.weight[r];
        for (int d = 0; d < shape.widthPadded; d++) part[2 + d] = out[d];
      }
    }
  }
  if (unit.group >= 0) {
    Group& group = plan.group[unit.group];
    if (__atomic_sub_fetch(&group.unitsLeft, 1, __ATOMIC_ACQ_REL) > 0) return;
    for (int c = 0; c < group.chunks; c++)
      for (int r = 0; r < rows.count; r++) {
        float* total = rows.total + r * floats;
        const float* part = plan.partials + group.partials + (size_t(c) * rows.count + r) * floats;
        mergeRow(shape, total, total + 1, total + 2, part[0], part[1], part + 2);
      }
  }
  for (int r = 0; r < rows.count; r++) {
    const float* total = rows.total + r * floats;
    writeRow(shape, dst, token + r / shape.perKv, unit.head * shape.perKv + r % shape.perKv, total + 1, total + 2);
  }
}

/// Walks over the sets of rows of the batch, the heaviest of each sequence first.
template <class Visit>
inline void forEachRowSet(const AttentionShape& shape, const Batch& batch, Visit visit) {
  for (int s = 0; s < batch.sequences(); s++) {
    Sequence sequence = batch.sequence(s);
    for (int tile = (sequence.count - 1) / shape.tileTokens; tile >= 0; tile--) {
      int token = tile * shape.tileTokens, tokens = sequence.count - token;
      if (tokens > shape.tileTokens) tokens = shape.tileTokens;
      int position = sequence.start + token;
      int first = shape.window > 0 && position >= shape.window ? position - shape.window + 1 : 0;
      int chunk = first / chunkPositions, chunks = (position + tokens - 1) / chunkPositions - chunk + 1;
      for (int head = 0; head < shape.cache.kvHeads; head++) visit(s, token, tokens, head, chunk, chunks);
    }
  }
}

/// Cuts the batch into units. A set of rows with more chunks than a fair eighth of a thread's share is split
/// at chunk borders, so that one long context keeps every thread busy.
inline void makePlan(const AttentionShape& shape, const Batch& batch, int nth, Workspace* workspace) {
  int64_t chunksAll = 0;
  forEachRowSet(shape, batch, [&](int, int, int, int, int, int chunks) { chunksAll += chunks; });
  int pieceMax = int(chunksAll / (8 * nth));
  if (pieceMax < 1 || nth == 1) pieceMax = nth == 1 ? 1 << 30 : 1;
  size_t units = 0, groups = 0, floats = 0;
  forEachRowSet(shape, batch, [&](int, int, int tokens, int, int, int chunks) {
    units += (chunks + pieceMax - int64_t(1)) / pieceMax;
    if (chunks <= pieceMax) return;
    groups++;
    floats += size_t(chunks) * tokens * shape.perKv * partialFloats(shape);
  });
  size_t unitBytes = alignUp(units * sizeof(Unit)), groupBytes = alignUp(groups * sizeof(Group));
  char* memory = rw_workspace_reserve(workspace, alignUp(sizeof(Plan)) + unitBytes + groupBytes + floats * 4);
  Plan* made = reinterpret_cast<Plan*>(memory);
  memory += alignUp(sizeof(Plan));
  made->unit = reinterpret_cast<Unit*>(memory);
  made->group = reinterpret_cast<Group*>(memory + unitBytes);
  made->partials = reinterpret_cast<float*>(memory + unitBytes + groupBytes);
  made->units = made->groups = 0;
  size_t used = 0;
  forEachRowSet(shape, batch, [&](int s, int token, int tokens, int head, int chunk, int chunks) {
    int group = -1;
    if (chunks > pieceMax) {
      group = made->groups++;
      made->group[group] = {(chunks + pieceMax - 1) / pieceMax, chunk, chunks, 0, used};
      used += size_t(chunks) * tokens * shape.perKv * partialFloats(shape);
    }
    for (int done = 0; done < chunks;) {
      int piece = chunks - done < pieceMax ? chunks - done : pieceMax;
      made->unit[made->units++] = {s, token, tokens, head, chunk + done, piece, group};
      done += piece;
    }
  });
}

/// dst F32 [N, heads, D]. Sources: q F32 [N, heads, D] (rows may be strided), keys, values, batch table.
/// Params: kv heads, window (0: none), scale as float bits.
inline void pagedAttention(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor* q = dst->src[0];
  Attention op;
  op.batch = {static_cast<const int32_t*>(dst->src[3]->data)};
  op.keys = static_cast<const Half*>(dst->src[1]->data);
  op.values = static_cast<const Half*>(dst->src[2]->data);
  AttentionShape& shape = op.shape;
  shape.width = int(q->ne[0]);
  shape.heads = int(q->ne[1]);
  shape.cache = {call->params[0], shape.width, op.batch.blockTokens()};
  shape.perKv = shape.heads / shape.cache.kvHeads;
  shape.widthPadded = (shape.width + 2 * lanes - 1) / (2 * lanes) * (2 * lanes);
  shape.tileTokens = shape.perKv < tileRowsAim ? tileRowsAim / shape.perKv : 1;
  shape.rowsMax = shape.tileTokens * shape.perKv;
  shape.window = call->params[1];
  shape.scale = floatParam(call, 2);

  if (arriveFirst(call)) {
    makePlan(shape, op.batch, nth, call->workspace);
    publish(call);
  }
  op.plan = *reinterpret_cast<const Plan*>(call->workspace->memory);
  size_t bytes;
  rowsIn(shape, nullptr, &bytes);
  Rows rows = rowsIn(shape, rw_thread_scratch(bytes), &bytes);
  // The next piece is taken before the present one is computed, to ask for its first tile in time.
  for (int piece = takePiece(call); piece < op.plan.units;) {
    int next = takePiece(call);
    Tile after;
    if (next < op.plan.units) after = firstTile(op, op.plan.unit[next]);
    runUnit(op, op.plan.unit[piece], next < op.plan.units ? &after : nullptr, dst, rows);
    piece = next;
  }
  leave(call, nth);
}

}  // namespace
