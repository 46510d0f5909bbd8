// Products of two float matrices that both change from step to step, as training needs them: forward, the
// gradient of the activations and that of the weights differ only in which side is read transposed.
//
// The right side is put into strips once (matmul_pack.h), by all threads. Then a thread takes a block of rows of the
// left side, puts a chunk of its inputs into strips in the nearest cache, and multiplies that by every strip of the
// right side. Of a left side that lies transposed that is a piece of each of many rows of memory, asked for a chunk
// ahead. Every output is one chain of sums in the order of inputs, however it is cut.
//
// Legend: T rows of a tile, S outputs of a strip, `steps` lanes along the inputs.
#pragma once

#include "activations.h"
#include "call.h"
#include "frozen.h"

namespace {

#if defined(__AVX512F__)
constexpr size_t matmulRows = 12, matmulWidth = 32;
#elif defined(__AVX2__) || defined(ROPEWAY_NEON)
constexpr size_t matmulRows = 6, matmulWidth = 16;
#else
constexpr size_t matmulRows = 2, matmulWidth = 16;
#endif

/// What a tile asks for while it is multiplied: so many bytes a step of what comes next of the right side, every fourth
/// step, because asking at every one took 4 % of the products that lie near anyway.
struct TileAhead {
  const char* right;
  size_t bytes;

  void ask(size_t step) const {
    if (step % 4 == 0) askForLine(right + step * bytes);
  }
};

struct NothingAhead {
  void ask(size_t) const {}
};

/// A tile of T rows by S outputs in registers, over floats.
template <class Packing>
struct FloatTiles : Packing {
  static constexpr size_t rows = matmulRows, width = matmulWidth, stepsUnit = 1;
  static constexpr bool readsPairs = false;  // of rows where they lie

  template <class From>
  static void packLeft(const From& from, const Strips& strips) { packStrips<Packing, rows>(from, strips); }

  /// sums [T][S] = left [steps][T] by right [steps][S], behind what `before` holds if it is there. Steps of the left
  /// side lie `apart`, or its rows do.
  template <bool byRows, class Next = NothingAhead>
  static void tile(const float* left, size_t apart, const float* right, size_t steps, const float* before, float* sums,
                   size_t stride, const Next& next = {}) {
    constexpr int vectors = width / lanes;
    Vector sum[rows][vectors];
    for (size_t t = 0; t < rows; t++)
      for (int v = 0; v < vectors; v++) sum[t][v] = before ? load(before + t * stride + v * lanes) : zero();
    for (size_t i = 0; i < steps; i++) {
      next.ask(i);
      Vector w[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++) w[v] = load(right + i * width + v * lanes);
#pragma GCC unroll 12
      for (size_t t = 0; t < rows; t++) {
        Vector x = splat(byRows ? left[t * apart + i] : left[i * apart + t]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[t][v] = fma(x, w[v], sum[t][v]);
      }
    }
    for (size_t t = 0; t < rows; t++)
      for (int v = 0; v < vectors; v++) store(sums + t * stride + v * lanes, sum[t][v]);
  }

  template <class Next>
  static void stripTile(const float* left, const float* right, size_t steps, const float* before, float* sums, size_t stride,
                        const Next& ahead) {
    tile<false>(left, rows, right, steps, before, sums, stride, ahead);
  }

};

#if defined(__AVX512F__)

/// The same over pairs of bfloat16, for CPUs that have the instruction.
struct PairTiles : FloatTiles<PairLanes> {
  static constexpr bool readsPairs = true;

  template <bool byRows, class Next = NothingAhead>
  __attribute__((target("avx512bf16"))) static void tile(const float* left, size_t apart, const float* right, size_t steps,
                                                         const float* before, float* sums, size_t stride,
                                                         const Next& next = {}) {
    __m512 sum[rows][2];
#pragma GCC unroll 12
    for (size_t t = 0; t < rows; t++)
      for (int v = 0; v < 2; v++) sum[t][v] = before ? _mm512_loadu_ps(before + t * stride + v * 16) : _mm512_setzero_ps();
    for (size_t i = 0; i < steps; i++) {
      next.ask(i);
      __m512bh first = (__m512bh)_mm512_loadu_si512(right + i * width);
      __m512bh second = (__m512bh)_mm512_loadu_si512(right + i * width + 16);
#pragma GCC unroll 12
      for (size_t t = 0; t < rows; t++) {
        __m512bh x = (__m512bh)_mm512_set1_ps(byRows ? left[t * apart + i] : left[i * apart + t]);
        sum[t][0] = _mm512_dpbf16_ps(sum[t][0], first, x);
        sum[t][1] = _mm512_dpbf16_ps(sum[t][1], second, x);
      }
    }
#pragma GCC unroll 12
    for (size_t t = 0; t < rows; t++)
      for (int v = 0; v < 2; v++) _mm512_storeu_ps(sums + t * stride + v * 16, sum[t][v]);
  }

  template <class Next>
  static void stripTile(const float* left, const float* right, size_t steps, const float* before, float* sums, size_t stride,
                        const Next& ahead) {
    tile<false>(left, rows, right, steps, before, sums, stride, ahead);
  }

};

#endif

/// What becomes of a product p before it is stored. Sources are [N, M], F32 or BF16; one that is added also a row for
/// all. What is said to be two is [2, N, M], one behind the other.
enum MatmulBehind {
  behindNothing = 0,
  behindAdds = 1,         // p + source
  behindAddsInto = 2,     // the source itself grows by p; the op's own result is nothing
  behindTimes = 3,        // p * source
  behindGelu = 4,         // two: GELU of p, and its slope there
  behindAddsGelu = 5,     // the same of p + source
  behindSiluMul = 6,      // two: silu(source) * p, and p
  behindSiluMulBack = 7,  // two: p times the slope of silu(source) * second source along either
};

struct Behind {
  MatmulBehind kind;
  const ggml_tensor *target, *source, *second;
  Numbers results;
  bool passing;  // more than a cache keeps until somebody reads it: stored past the caches
  bool far;      // more than the nearer caches hold: asked for before it is used
  size_t firstRow = 0;  // of the result, where the product is a part of it

  static int sourceCount(int kind) {
    return kind == behindNothing || kind == behindGelu ? 0 : kind == behindSiluMulBack ? 2 : 1;
  }

  Behind(const ggml_tensor* dst, int kind)
      : kind(MatmulBehind(kind)), target(kind == behindAddsInto ? dst->src[2] : dst),
        source(sourceCount(kind) > 0 ? dst->src[2] : nullptr), second(sourceCount(kind) > 1 ? dst->src[3] : nullptr), results(target) {
    constexpr size_t cacheBytes = size_t(8) << 20, nearBytes = size_t(3) << 19;
    bool aligned = reinterpret_cast<uintptr_t>(target->data) % 64 == 0 && target->ne[0] % (2 * lanes) == 0;
    size_t bytes = size_t(target->ne[0]) * target->ne[1] * target->ne[2] * results.bytes();
    passing = aligned && kind != behindAddsInto && bytes > cacheBytes;
    far = bytes > nearBytes;
  }

  /// Asks for what `finish` is going to touch, which comes while the tile is multiplied.
  void ask(size_t row, size_t rows, size_t column, size_t width) const {
    if (!far) return;
    for (size_t t = 0; t < rows; t++) {
      size_t at = (firstRow + row + t) * target->ne[0] + column;
      if (source && (t == 0 || source->ne[1] != 1)) askFor(source, source->ne[1] == 1 ? column : at, width, askForLine);
      if (second) askFor(second, at, width, askForLine);
      if (passing || target == source) continue;
      askFor(target, at, width, askToWrite);
      if (target->ne[2] > 1) askFor(target, at + secondAt(), width, askToWrite);
    }
  }

  /// Stores a part of the product, [rows][width] that are `stride` apart. Whole floats are told from all else once and not for each
  /// vector: calls for every two of them were a tenth of a training step in F32.
  void finish(size_t row, size_t rows, size_t column, size_t width, const float* sums, size_t stride) const {
    const bool whole = column + width <= size_t(target->ne[0]) && width % (2 * lanes) == 0;
    const bool floats = !results.narrow && (!source || source->type != sourceBF16) && (!second || second->type != sourceBF16);
    if (whole && floats && !passing) finishAs<true>(row, rows, column, width, sums, stride);
    else finishAs<false>(row, rows, column, width, sums, stride);
  }

 private:
  /// `plain`: whole floats that stay in the caches.
  template <bool plain>
  __attribute__((noinline)) void finishAs(size_t row, size_t rows, size_t column, size_t width, const float* sums, size_t stride) const {
    Numbers own(source ? source : target), other(second ? second : target);
    size_t count = plain || target->ne[0] - column >= width ? width : target->ne[0] - column;
    for (size_t t = 0; t < rows; t++) {
      size_t to = (firstRow + row + t) * target->ne[0] + column, from = source && source->ne[1] == 1 ? column : to;
      const float* product = sums + t * stride;
      auto of = [&](size_t i) { return read<plain>(own, from + i, count - i); };
      switch (kind) {
        case behindNothing: one<plain>(to, product, count, [&](Vector p, size_t) { return p; }); break;
        case behindAdds:
        case behindAddsInto: one<plain>(to, product, count, [&](Vector p, size_t i) { return p + of(i); }); break;
        case behindTimes: one<plain>(to, product, count, [&](Vector p, size_t i) { return p * of(i); }); break;
        case behindGelu: two<plain>(to, product, count, [&](Vector p, size_t) { return gelu(p); }); break;
        case behindAddsGelu: two<plain>(to, product, count, [&](Vector p, size_t i) { return gelu(p + of(i)); }); break;
        case behindSiluMul: two<plain>(to, product, count, [&](Vector p, size_t i) { return TwoVectors{siluMul(of(i), p), p}; }); break;
        case behindSiluMulBack:
          two<plain>(to, product, count, [&](Vector p, size_t i) { return siluMulBack(p, of(i), read<plain>(other, to + i, count - i)); });
      }
    }
  }

  template <bool plain>
  static Vector read(const Numbers& numbers, size_t index, size_t count) {
    return plain ? load(reinterpret_cast<const float*>(numbers.data) + index) : numbers.load(index, int(count));
  }

  size_t secondAt() const { return size_t(target->ne[0]) * target->ne[1]; }

  static void askFor(const ggml_tensor* x, size_t index, size_t count, void (*ask)(const void*)) {
    Numbers numbers(x);
    for (const char *line = numbers.at(index), *end = numbers.at(index + count); line < end; line += 64) ask(line);
  }

  template <bool plain>
  void put(size_t index, Vector first, Vector next, int count) const {
    if (plain) {
      float* to = reinterpret_cast<float*>(results.data) + index;
      return store(to, first), store(to + lanes, next);
    }
    if (passing) results.storePast(index, first, next);
    else results.store(index, first, next, count);
  }

  template <bool plain, class Make>
  void one(size_t to, const float* product, size_t count, Make make) const {
    for (size_t i = 0; i < count; i += 2 * lanes) {
      Vector first = make(load(product + i), i), next = plain || i + lanes < count ? make(load(product + i + lanes), i + lanes) : zero();
      put<plain>(to + i, first, next, int(count - i));
    }
  }

  template <bool plain, class Make>
  void two(size_t to, const float* product, size_t count, Make make) const {
    for (size_t i = 0; i < count; i += 2 * lanes) {
      TwoVectors first = make(load(product + i), i), next = plain || i + lanes < count ? make(load(product + i + lanes), i + lanes) : TwoVectors{};
      put<plain>(to + i, first.first, next.first, int(count - i));
      put<plain>(to + secondAt() + i, first.second, next.second, int(count - i));
    }
  }
};

inline size_t quotientUp(size_t count, size_t by) { return (count + by - 1) / by; }

template <class Tiles>
inline size_t wholeSteps(size_t inputs) { return quotientUp(quotientUp(inputs, Tiles::inputs), Tiles::stepsUnit) * Tiles::stepsUnit; }

/// How a product is cut into pieces.
struct MatmulPlan {
  size_t steps, chunks;  // along the inputs, in all; how often those are cut
  size_t ownSteps;       // of the product itself; those behind belong to its tail
  size_t tiles, strips;  // of the left side, of the right side
  size_t tilesPerBlock, stripsPerBlock, stripBlocks;
  size_t parts;  // that a tile's strips are cut into towards the end of the product
  bool leftByRows;  // multiplied where it lies
  bool far;  // more in strips than the nearer caches hold: a tile asks for what the next ones read

  template <class Tiles>
  static MatmulPlan of(const Side& a, size_t outputs, size_t tailInputs) {
    constexpr size_t chunkSteps = 192, blockRows = 96, widestBlock = 512, piecesWanted = 12, longTile = 2048, mostParts = 4;
    MatmulPlan plan;
    plan.ownSteps = wholeSteps<Tiles>(a.inputs);
    plan.steps = plan.ownSteps + wholeSteps<Tiles>(tailInputs);
    plan.chunks = quotientUp(plan.steps, chunkSteps);
    plan.tiles = quotientUp(a.rows, Tiles::rows);
    plan.strips = quotientUp(outputs, Tiles::width);
    plan.leftByRows = Tiles::readsPairs && tailInputs == 0 && a.liesInPairs();
    plan.far = plan.strips * Tiles::width * plan.steps * 4 > size_t(4) << 20;
    // Sums of a block wait in a cache for the next chunk, so they must not be many.
    plan.stripsPerBlock = plan.chunks > 1 && plan.strips > widestBlock / Tiles::width ? widestBlock / Tiles::width : plan.strips;
    plan.stripBlocks = quotientUp(plan.strips, plan.stripsPerBlock);
    plan.tilesPerBlock = blockRows / Tiles::rows;
    // A tile that takes some ten microseconds would keep the other threads waiting at the end.
    plan.parts = plan.strips < 4 || plan.strips * plan.steps < longTile ? 1 : plan.strips / 2 < mostParts ? plan.strips / 2 : mostParts;
    // Blocks of all strips are taken in runs that get shorter towards the end.
    while (plan.stripBlocks > 1 && plan.tilesPerBlock > 2 && plan.tileBlocks() * plan.stripBlocks < piecesWanted)
      plan.tilesPerBlock /= 2;
    return plan;
  }

  size_t tileBlocks() const { return quotientUp(tiles, tilesPerBlock); }
  size_t chunkBegin(size_t chunk, size_t unit) const { return chunk >= chunks ? steps : steps / unit * chunk / chunks * unit; }
  size_t chunkStepsMost(size_t unit) const { return quotientUp(steps / unit, chunks) * unit; }
};

/// Tiles and strips that one thread multiplies at a time.
struct MatmulBlock {
  size_t firstTile, endTile, firstStrip, endStrip;

  /// The next that nobody has; false when there is none.
  static bool take(Call* call, int nth, const MatmulPlan& plan, MatmulBlock* block) {
    int32_t first, count;
    if (plan.stripBlocks == 1) {
      int32_t parts = int32_t(plan.parts);
      if (!takeRun(call, nth, int32_t(plan.tiles), int32_t(plan.tilesPerBlock), parts, &first, &count)) return false;
      size_t tile = size_t(first / parts), part = size_t(first % parts), tiles = size_t(count / parts);
      if (tiles > 0) *block = {tile, tile + tiles, 0, plan.strips};
      else *block = {tile, tile + 1, plan.strips * part / plan.parts, plan.strips * (part + size_t(count)) / plan.parts};
      return true;
    }
    size_t piece = size_t(takePiece(call));
    if (piece >= plan.tileBlocks() * plan.stripBlocks) return false;
    size_t tile = piece / plan.stripBlocks * plan.tilesPerBlock, strip = piece % plan.stripBlocks * plan.stripsPerBlock;
    size_t endTile = tile + plan.tilesPerBlock, endStrip = strip + plan.stripsPerBlock;
    *block = {tile, endTile < plan.tiles ? endTile : plan.tiles, strip, endStrip < plan.strips ? endStrip : plan.strips};
    return true;
  }
};

/// How a whole side gets into strips: strip by strip where inputs lie side by side, in stretches of all strips where rows do.
struct WholeSide {
  static constexpr size_t stepsAtOnce = 16;
  size_t width, strips, steps, stepsApart;  // the last: of a strip with what stands behind it
  bool stretches;
  float* packed;

  size_t pieces() const { return stretches ? quotientUp(steps, stepsAtOnce) : strips; }

  Strips piece(size_t index) const {
    size_t begin = stretches ? index * stepsAtOnce : 0, strip = stretches ? 0 : index;
    size_t end = stretches && begin + stepsAtOnce < steps ? begin + stepsAtOnce : steps;
    return {strip * width, stretches ? strips : 1, begin, end, packed + (strip * stepsApart + begin) * width, stepsApart * width};
  }

  /// The steps behind those of a strip.
  Strips behind(size_t strip) const {
    return {strip * width, 1, 0, stepsApart - steps, packed + (strip * stepsApart + steps) * width, stepsApart * width};
  }
};

/// The right side of a product in strips from one of them on, and what a thread keeps of a block.
struct MatmulMemory {
  const float* right;
  size_t firstStrip;
  float *block, *sums;
};

/// A second product of few inputs that is added to the first (an adapter's beside its base): more inputs of one chain.
struct MatmulTail {
  Side left, right;

  static bool isThere(const ggml_tensor* dst, int kind) { return dst->src[first(kind)] != nullptr; }

  /// Of a product that has none, the first itself, of which nothing is read.
  static MatmulTail of(const ggml_tensor* dst, int kind, bool bTransposed) {
    const ggml_tensor* const* from = dst->src + (isThere(dst, kind) ? first(kind) : 0);
    return {Side(from[0], false), Side(from[1], bTransposed)};
  }

 private:
  static int first(int kind) { return 2 + Behind::sourceCount(kind); }
};

template <class Tiles>
inline void packLeft(const Side& from, const Strips& strips) {
  from.as([&](const auto& matrix) { Tiles::packLeft(matrix, strips); });
}

/// Rows of a block of the left side and of its tail, for the steps of a chunk.
template <class Tiles>
inline void packBlock(const Side& a, const MatmulTail& tail, const MatmulPlan& plan, const Strips& chunk) {
  constexpr size_t T = Tiles::rows;
  size_t own = chunk.end < plan.ownSteps ? chunk.end : plan.ownSteps, begin = chunk.begin > own ? chunk.begin : own;
  if (chunk.begin < own) packLeft<Tiles>(a, {chunk.first, chunk.count, chunk.begin, own, chunk.to, chunk.apart});
  if (begin < chunk.end)
    packLeft<Tiles>(tail.left, {chunk.first, chunk.count, begin - plan.ownSteps, chunk.end - plan.ownSteps,
                                chunk.to + (begin - chunk.begin) * T, chunk.apart});
}

/// What a tile reads.
struct TileRead {
  const float* right;
  size_t steps;
  bool last;  // of the chunks
};

/// While the tiles of a strip are multiplied, the next strip comes nearer, a part with each.
template <class Tiles>
inline TileAhead aheadOf(const MatmulPlan& plan, const MatmulBlock& block, size_t tile, size_t strip, const TileRead& read) {
  constexpr size_t rightStep = Tiles::width * 4;
  size_t bytes = quotientUp(rightStep, block.endTile - block.firstTile);
  // Behind the last strip comes the first, of the next chunk.
  const float* first = read.right - (strip - block.firstStrip) * plan.steps * Tiles::width;
  const float* nextRight = strip + 1 < block.endStrip ? read.right + plan.steps * Tiles::width
                                                      : first + (read.last ? 0 : read.steps * Tiles::width);
  return {reinterpret_cast<const char*>(nextRight) + (tile - block.firstTile) * bytes * read.steps, bytes};
}

/// Of a left side that lies transposed, what the next chunk of a block is going to put into strips: it comes nearer while
/// this one is multiplied, a few rows of memory with each tile.
struct ChunkAhead {
  const char* data;
  size_t count, apart, bytes, atOnce;  // rows of memory

  static ChunkAhead of(const Side& a, size_t firstRow, size_t endRow, size_t firstInput, size_t endInput, size_t tiles) {
    const ggml_tensor* from = a.tensor;
    size_t rows = endRow < a.rows ? endRow : a.rows, inputs = endInput < a.inputs ? endInput : a.inputs;
    if (!a.rowsAreNeighbours() || firstInput >= inputs) return {};
    size_t count = inputs - firstInput;
    return {static_cast<const char*>(from->data) + firstInput * from->nb[1] + firstRow * from->nb[0], count, size_t(from->nb[1]),
            (rows - firstRow) * from->nb[0], quotientUp(count, tiles)};
  }

  /// With the nth tile.
  void ask(size_t nth) const {
    for (size_t row = nth * atOnce; row < (nth + 1) * atOnce && row < count; row++)
      for (size_t byte = 0; byte < bytes; byte += 64) askForLine(data + row * apart + byte);
  }
};

template <class Tiles>
inline void multiplyBlock(const Side& a, const MatmulTail& tail, const MatmulPlan& plan, const MatmulBlock& taken,
                          const MatmulMemory& memory, const Behind& behind) {
  constexpr size_t T = Tiles::rows, S = Tiles::width, unit = Tiles::stepsUnit;
  auto [firstTile, endTile, firstStrip, endStrip] = taken;
  bool whole = plan.chunks == 1;  // then no sums wait, and one tile's place serves them all
  size_t stride = whole ? S : plan.stripsPerBlock * S;
  for (size_t chunk = 0; chunk < plan.chunks; chunk++) {
    size_t begin = plan.chunkBegin(chunk, unit), end = plan.chunkBegin(chunk + 1, unit);
    bool last = chunk + 1 == plan.chunks;
    const float* left = memory.block;
    size_t apart = (end - begin) * T;
    // Of rows that are multiplied where they lie only those of a last, shorter tile.
    size_t firstPacked = plan.leftByRows ? a.rows / T > firstTile ? a.rows / T : firstTile : firstTile;
    if (firstPacked < endTile)
      packBlock<Tiles>(a, tail, plan,
                       {firstPacked * T, endTile - firstPacked, begin, end, memory.block + (firstPacked - firstTile) * apart, apart});
    ChunkAhead ahead = ChunkAhead::of(a, firstTile * T, endTile * T, end * Tiles::inputs, plan.chunkBegin(chunk + 2, unit) * Tiles::inputs,
                                      (endTile - firstTile) * (endStrip - firstStrip));
    for (size_t strip = firstStrip; strip < endStrip; strip++)
      for (size_t tile = firstTile; tile < endTile; tile++) {
        ahead.ask((strip - firstStrip) * (endTile - firstTile) + tile - firstTile);
        const float* own = left + (tile - firstTile) * apart;
        const float* right = memory.right + ((strip - memory.firstStrip) * plan.steps + begin) * S;
        float* sums = whole ? memory.sums : memory.sums + (tile - firstTile) * T * stride + (strip - firstStrip) * S;
        size_t rows = a.rows - tile * T < T ? a.rows - tile * T : T;
        if (last) behind.ask(tile * T, rows, strip * S, S);
        const float* before = chunk > 0 ? sums : nullptr;
        if (tile < firstPacked) {
          if constexpr (Tiles::readsPairs)
            Tiles::template tile<true>(a.pairsOf(tile * T, begin), a.pairsApart(), right, end - begin, before, sums, stride);
        } else if (plan.far)
          Tiles::stripTile(own, right, end - begin, before, sums, stride,
                           aheadOf<Tiles>(plan, taken, tile, strip, {right, end - begin, last}));
        else Tiles::stripTile(own, right, end - begin, before, sums, stride, NothingAhead());
        if (last) behind.finish(tile * T, rows, strip * S, S, sums, stride);
      }
  }
}

/// All strips of the right side, packed in the workspace by all threads together, the tail's behind them.
template <class Tiles, class Plan>
inline float* packRightSide(Call* call, const Side& b, const MatmulTail& tail, size_t tailInputs, const Plan& plan) {
  if (arriveFirst(call)) {
    rw_workspace_reserve(call->workspace, plan.strips * plan.steps * Tiles::width * 4);
    publish(call);
  }
  float* packed = reinterpret_cast<float*>(call->workspace->memory);
  WholeSide right{Tiles::width, plan.strips, plan.ownSteps, plan.steps, b.rowsAreNeighbours(), packed};
  size_t pieces = right.pieces(), tailPieces = tailInputs > 0 ? plan.strips : 0;
  preparePhase(call, int32_t(pieces + tailPieces), [&](int32_t index) {
    size_t piece = size_t(index);
    if (piece < pieces) b.pack<Tiles, Tiles::width>(right.piece(piece));
    else tail.right.pack<Tiles, Tiles::width>(right.behind(piece - pieces));
  });
  return packed;
}

/// dst [N, M] = a b^T, F32 or BF16. Sources: a [N, K] or, transposed, [K, N]; b [M, K] or, transposed, [K, M]; F32, rows may be
/// strided, b also as a frozen weight (frozen.h); a third if something comes behind. Params: a transposed, b transposed
/// (0/1), MatmulBehind. Two more sources are a tail: left [N, R] and right [M, R], transposed if b is; then a is not.
template <class Tiles>
inline void matmul(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  Side a(dst->src[0], call->params[0] != 0), b(dst->src[1], call->params[1] != 0);
  Behind behind(dst, call->params[2]);
  MatmulTail tail = MatmulTail::of(dst, call->params[2], call->params[1] != 0);
  size_t tailInputs = MatmulTail::isThere(dst, call->params[2]) ? tail.left.inputs : 0;
  MatmulPlan plan = MatmulPlan::of<Tiles>(a, b.rows, tailInputs);
  float* packed = packRightSide<Tiles>(call, b, tail, tailInputs, plan);
  size_t blockRows = plan.tilesPerBlock * Tiles::rows;
  size_t blockFloats = blockRows * plan.chunkStepsMost(Tiles::stepsUnit);
  size_t sumFloats = plan.chunks == 1 ? Tiles::rows * Tiles::width : blockRows * plan.stripsPerBlock * Tiles::width;
  float* block = reinterpret_cast<float*>(rw_thread_scratch((blockFloats + sumFloats) * 4 + 64));
  MatmulMemory memory{packed, 0, block, block + blockFloats};
  for (MatmulBlock taken; MatmulBlock::take(call, nth, plan, &taken);)
    multiplyBlock<Tiles>(a, tail, plan, taken, memory, behind);
  if (behind.passing) finishPast();
  leave(call, nth);
}

inline void matmulBF16(ggml_tensor* dst, int ith, int nth, void* userdata) {
#if defined(__AVX512F__)
  if (multipliesPairs()) return matmul<PairTiles>(dst, ith, nth, userdata);
#endif
  matmul<FloatTiles<RoundedLanes>>(dst, ith, nth, userdata);
}

}  // namespace
