// Products of training by AMX tiles: 32 rows by 32 outputs in four tiles of sums.
//
// 32 inputs of such a tile take 64 cycles of multiplying, so little may stand around it. A thread takes a block of rows
// and outputs, all of which lies in its second cache: a chunk of inputs of the left side in strips, the right side in
// strips, and the sums. The strip of a tile's rows stays in the first cache while the strips of the right side pass by.
// While tiles are multiplied, the results of the tile before are stored, a few rows with each step, and what the next
// block or chunk is made of comes nearer.
//
// Of products forward and back all threads share one right side in strips. In weights' gradients both sides lie
// transposed and are long: there each thread puts a chunk of either into strips of its own, some of it twice, because
// strips of all of it would go through memory.
#pragma once

#include "matmul.h"
#include "tiles.h"

namespace {

/// Every tile of 16 rows of 64 bytes.
inline TileConfig wholeTiles() {
  TileConfig config;
  for (int t = 0; t < 8; t++) config.bytesPerRow[t] = 64, config.rows[t] = 16;
  return config;
}

/// A strip of the left side is [steps / 16][32 rows][16 lanes], as tiles want it.
struct MatmulTiles : PairLanes {
  static constexpr size_t rows = 32, width = 32, stepsUnit = 16;
  static constexpr int tileRows = 16;
  static constexpr bool readsPairs = false;

  static void enter() { loadTileConfig(wholeTiles()); }
  static void exit() { releaseTiles(); }

  template <class From>
  static void packLeft(const From& from, const Strips& strips) {
    if (from.rowsAreNeighbours()) return packTurned(from, strips);
    for (size_t strip = 0; strip < strips.count; strip++) {
      size_t row = strips.first + strip * rows, count = row >= from.rows ? 0 : from.rows - row < rows ? from.rows - row : rows;
      for (size_t step = strips.begin; step < strips.end; step += stepsUnit) {
        float* to = strips.to + strip * strips.apart + (step - strips.begin) * rows;
        for (size_t i = 0; i < count; i++) store(to + i * lanes, along(from, row + i, step * inputs));
        for (size_t i = count; i < rows; i++) store(to + i * lanes, zero());
      }
    }
  }

  /// Of a side whose rows are neighbours in memory: whole lines of memory are read, one row of it after the other.
  template <class From>
  static void packTurned(const From& from, const Strips& strips) {
    for (size_t step = strips.begin; step < strips.end; step += stepsUnit)
      for (size_t strip = 0; strip < strips.count; strip++) {
        size_t row = strips.first + strip * rows;
        float* to = strips.to + strip * strips.apart + (step - strips.begin) * rows;
        if constexpr (From::holdsPairs)
          if (row + rows <= from.rows && (step + stepsUnit) * inputs <= from.inputs) {
            turnPairs(from.data + step * inputs * from.storedStride + row * 2, from.storedStride, to);
            continue;
          }
        for (size_t half = 0; half < rows; half += tileRows, row += tileRows) {
          Vector block[tileRows];
          int count = row >= from.rows ? 0 : from.rows - row < tileRows ? int(from.rows - row) : tileRows;
          for (int i = 0; i < tileRows; i++) block[i] = across(from, row, (step + i) * inputs, count);
          turn(block);
          for (int i = 0; i < tileRows; i++) store(to + (half + i) * lanes, block[i]);
        }
      }
  }

  /// 32 inputs of 32 neighbouring rows of bfloat16 become two tiles.
  static void turnPairs(const char* from, size_t stride, float* to) {
    Vector low[tileRows], high[tileRows];
    for (int i = 0; i < tileRows; i++) {
      __m512i even = _mm512_loadu_si512(from + 2 * i * stride), odd = _mm512_loadu_si512(from + (2 * i + 1) * stride);
      // Of every eight rows the first four, and the other four.
      low[i] = (Vector)_mm512_unpacklo_epi16(even, odd), high[i] = (Vector)_mm512_unpackhi_epi16(even, odd);
    }
    turn(low);
    for (int i = 0; i < tileRows; i++) store(to + (i / 4 * 8 + i % 4) * lanes, low[i]);
    turn(high);
    for (int i = 0; i < tileRows; i++) store(to + (i / 4 * 8 + i % 4 + 4) * lanes, high[i]);
  }

  /// `meanwhile.ask(n)` is called with the nth step of 16 lanes.
  template <class Meanwhile>
  static void stripTile(const float* left, const float* right, size_t steps, const float* before, float* sums, size_t stride,
                        const Meanwhile& meanwhile) {
    if (before) {
      loadTile<0>(before, stride * 4), loadTile<1>(before + 16, stride * 4);
      loadTile<2>(before + 16 * stride, stride * 4), loadTile<3>(before + 16 * stride + 16, stride * 4);
    } else zeroTile<0>(), zeroTile<1>(), zeroTile<2>(), zeroTile<3>();
    const KeepStoring keep{};
    for (size_t step = 0; step < steps; step += stepsUnit) {
      const float *a = left + step * rows, *b = right + step * width;
      loadTile<4>(a, 64), loadTile<6>(b, width * 4);
      multiplyPairs<0, 4, 6>();
      loadTile<7>(b + 16, width * 4);
      multiplyPairs<1, 4, 7>();
      loadTile<5>(a + tileRows * lanes, 64);
      multiplyPairs<2, 5, 6>();
      multiplyPairs<3, 5, 7>();
      meanwhile.ask(step / stepsUnit);
      keep.step(step / stepsUnit);
    }
    storeTile<0>(sums, stride * 4), storeTile<1>(sums + 16, stride * 4);
    storeTile<2>(sums + 16 * stride, stride * 4), storeTile<3>(sums + 16 * stride + 16, stride * 4);
  }
};

/// How a product is cut for tiles.
struct TilePlan {
  static constexpr size_t side = 32, unit = MatmulTiles::stepsUnit, sumFloats = side * side;
  /// Between strips of a chunk: without it they would begin at the same set of the nearest cache.
  static constexpr size_t gap = 32;

  size_t steps, ownSteps, chunks;  // along the inputs; those behind the own ones belong to the tail
  size_t tiles, strips, tilesPerBlock, stripsPerBlock;
  bool shared;  // the right side, in strips that all threads read

  static TilePlan of(const Side& a, const Side& b, size_t tailInputs, size_t threads) {
    TilePlan plan;
    plan.ownSteps = wholeSteps<MatmulTiles>(a.inputs);
    plan.steps = plan.ownSteps + wholeSteps<MatmulTiles>(tailInputs);
    plan.tiles = quotientUp(a.rows, side), plan.strips = quotientUp(b.rows, side);
    plan.shared = !(a.rowsAreNeighbours() && b.rowsAreNeighbours() && tailInputs == 0);
    if (plan.shared) plan.cutRows();
    else plan.cutBoth(threads);
    return plan;
  }

  /// Blocks of few rows and of all outputs whose strips the second cache holds.
  void cutRows() {
    constexpr size_t chunkSteps = 192, rightFloats = size_t(5) << 16, waitingSums = 128;
    chunks = quotientUp(steps, chunkSteps);
    tilesPerBlock = 3;
    size_t most = rightFloats / (steps * side);
    if (chunks > 1 && most > waitingSums / tilesPerBlock) most = waitingSums / tilesPerBlock;
    stripsPerBlock = even(strips, most);
  }

  /// Blocks that leave threads the least to do: tiles to multiply, and both sides to read and put into strips.
  void cutBoth(size_t threads) {
    constexpr size_t chunkSteps = 128, sumsMost = 192, sideMost = 24;
    // Of a strip for a chunk's steps beside a tile of it, in cycles.
    constexpr size_t tileCost = 3, stripCost = 16;
    chunks = quotientUp(steps, chunkSteps);
    tilesPerBlock = stripsPerBlock = 1;
    size_t least = ~size_t(0), mostTiles = tiles < sideMost ? tiles : sideMost, mostStrips = strips < sideMost ? strips : sideMost;
    for (size_t t = even(tiles, mostTiles); t > 0; t = t > 1 ? even(tiles, t - 1) : 0)
      for (size_t s = even(strips, mostStrips); s > 0; s = s > 1 ? even(strips, s - 1) : 0) {
        size_t turns = quotientUp(quotientUp(tiles, t) * quotientUp(strips, s), threads);
        size_t cost = turns * (t * s * tileCost + (t + s) * stripCost);
        if (t * s <= sumsMost && cost < least) least = cost, tilesPerBlock = t, stripsPerBlock = s;
      }
  }

  /// Parts of `count` that are about as large as one another and at most `most`.
  static size_t even(size_t count, size_t most) { return quotientUp(count, quotientUp(count, most < 1 ? 1 : most)); }

  size_t tileBlocks() const { return quotientUp(tiles, tilesPerBlock); }
  size_t stripBlocks() const { return quotientUp(strips, stripsPerBlock); }
  size_t chunkBegin(size_t chunk) const { return chunk >= chunks ? steps : steps / unit * chunk / chunks * unit; }
  size_t chunkStepsMost() const { return quotientUp(steps / unit, chunks) * unit; }
  size_t apart() const { return chunkStepsMost() * side + gap; }

  /// The next block that nobody has; those of the same outputs follow one another.
  bool take(Call* call, int nth, MatmulBlock* block) const {
    if (stripBlocks() == 1) {
      int32_t first, count;
      if (!takeRun(call, nth, int32_t(tiles), int32_t(tilesPerBlock), 1, &first, &count)) return false;
      *block = {size_t(first), size_t(first + count), 0, strips};
      return true;
    }
    size_t piece = size_t(takePiece(call));
    if (piece >= tileBlocks() * stripBlocks()) return false;
    size_t tile = piece % tileBlocks() * tilesPerBlock, strip = piece / tileBlocks() * stripsPerBlock;
    size_t endTile = tile + tilesPerBlock, endStrip = strip + stripsPerBlock;
    *block = {tile, endTile < tiles ? endTile : tiles, strip, endStrip < strips ? endStrip : strips};
    return true;
  }
};

/// Lines of a part of a side, asked for one after the other.
struct LinesAhead {
  const char* at = nullptr;
  size_t rows = 0, bytes = 0, apart = 0, byte = 0;  // of memory

  static LinesAhead of(const Side& side, size_t firstRow, size_t endRow, size_t firstInput, size_t endInput) {
    const ggml_tensor* from = side.tensor;
    size_t end = endRow < side.rows ? endRow : side.rows, last = endInput < side.inputs ? endInput : side.inputs;
    if ((from->type != sourceF32 && from->type != sourceBF16) || firstRow >= end || firstInput >= last) return {};
    size_t row = side.transposed ? firstInput : firstRow, column = side.transposed ? firstRow : firstInput;
    size_t rows = side.transposed ? last - firstInput : end - firstRow, columns = side.transposed ? end - firstRow : last - firstInput;
    return {static_cast<const char*>(from->data) + row * from->nb[1] + column * from->nb[0], rows, columns * from->nb[0], from->nb[1], 0};
  }

  size_t lines() const { return rows * quotientUp(bytes, 64); }

  void ask(size_t count) {
    for (; count > 0 && rows > 0; count--) {
      askForLine(at + byte);
      byte += 64;
      if (byte >= bytes) at += apart, rows--, byte = 0;
    }
  }
};

/// A tile whose sums are there and not yet stored.
struct WaitingTile {
  const float* sums = nullptr;
  size_t row = 0, rows = 0, column = 0;
};

/// What is done while a tile is multiplied.
struct Meanwhile {
  const Behind& behind;
  const WaitingTile& waiting;
  size_t rowsAtOnce, linesAtOnce;
  LinesAhead *left, *right;

  void ask(size_t n) const {
    if (left->rows > 0) left->ask(linesAtOnce);
    else if (right->rows > 0) right->ask(linesAtOnce);
    size_t first = n * rowsAtOnce;
    if (first >= waiting.rows) return;
    size_t count = waiting.rows - first < rowsAtOnce ? waiting.rows - first : rowsAtOnce;
    behind.finish(waiting.row + first, count, waiting.column, TilePlan::side, waiting.sums + first * TilePlan::side, TilePlan::side);
  }
};

/// A product as one thread sees it.
struct TileProduct {
  Side a, b;
  MatmulTail tail;
  TilePlan plan;
  Behind behind;
  const float* strips;          // of the whole right side where threads share it
  float *left, *right, *sums;  // of a block: strips for a chunk of inputs, and tiles of sums

  /// Floats that a thread keeps beside what all share.
  static size_t floats(const TilePlan& plan) {
    return (plan.tilesPerBlock + plan.stripsPerBlock) * plan.apart() + (plan.tilesPerBlock * plan.stripsPerBlock + 2) * TilePlan::sumFloats;
  }

  void place(float* memory) {
    left = memory, right = left + plan.tilesPerBlock * plan.apart();
    sums = right + plan.stripsPerBlock * plan.apart();
  }

  size_t rowsOf(size_t tile) const {
    size_t row = tile * TilePlan::side;
    return a.rows - row < TilePlan::side ? a.rows - row : TilePlan::side;
  }

  void finish(const WaitingTile& tile) const {
    behind.finish(tile.row, tile.rows, tile.column, TilePlan::side, tile.sums, TilePlan::side);
  }

  /// What a chunk of a block is going to be made of.
  void ahead(const MatmulBlock& block, size_t chunk, LinesAhead* ofLeft, LinesAhead* ofRight) const {
    constexpr size_t side = TilePlan::side, inputs = MatmulTiles::inputs;
    size_t from = plan.chunkBegin(chunk) * inputs, to = plan.chunkBegin(chunk + 1) * inputs;
    *ofLeft = LinesAhead::of(a, block.firstTile * side, block.endTile * side, from, to);
    if (!plan.shared) *ofRight = LinesAhead::of(b, block.firstStrip * side, block.endStrip * side, from, to);
  }

  void pack(const MatmulBlock& block, size_t begin, size_t end) const {
    size_t ownEnd = end < plan.ownSteps ? end : plan.ownSteps, tailBegin = begin > ownEnd ? begin : ownEnd;
    size_t row = block.firstTile * TilePlan::side, count = block.endTile - block.firstTile;
    if (begin < ownEnd) packLeft<MatmulTiles>(a, {row, count, begin, ownEnd, left, plan.apart()});
    if (tailBegin < end)
      packLeft<MatmulTiles>(tail.left, {row, count, tailBegin - plan.ownSteps, end - plan.ownSteps,
                                        left + (tailBegin - begin) * TilePlan::side, plan.apart()});
    if (!plan.shared)
      b.pack<MatmulTiles, TilePlan::side>({block.firstStrip * TilePlan::side, block.endStrip - block.firstStrip, begin, end, right, plan.apart()});
  }

  /// All of a block; `takeNext` gives what this thread does next, which is asked for only where little is left of this.
  template <class TakeNext>
  void multiply(const MatmulBlock& block, TakeNext takeNext) const {
    constexpr size_t side = TilePlan::side;
    size_t wide = block.endStrip - block.firstStrip, all = (block.endTile - block.firstTile) * wide;
    bool whole = plan.chunks == 1;  // then two places serve all sums, in turns
    WaitingTile waiting;
    for (size_t chunk = 0; chunk < plan.chunks; chunk++) {
      size_t begin = plan.chunkBegin(chunk), end = plan.chunkBegin(chunk + 1), units = (end - begin) / TilePlan::unit;
      bool last = chunk + 1 == plan.chunks;
      pack(block, begin, end);
      LinesAhead leftAhead, rightAhead;
      if (last) ahead(takeNext(), 0, &leftAhead, &rightAhead);
      else ahead(block, chunk + 1, &leftAhead, &rightAhead);
      Meanwhile meanwhile{behind, waiting, quotientUp(side, units), quotientUp(leftAhead.lines() + rightAhead.lines(), all * units),
                          &leftAhead, &rightAhead};
      float* own = sums;
      for (size_t tile = block.firstTile; tile < block.endTile; tile++) {
        const float* rows = left + (tile - block.firstTile) * plan.apart();
        for (size_t strip = block.firstStrip; strip < block.endStrip; strip++) {
          const float* outputs = plan.shared ? strips + (strip * plan.steps + begin) * side : right + (strip - block.firstStrip) * plan.apart();
          WaitingTile done{own, tile * side, rowsOf(tile), strip * side};
          if (last) behind.ask(done.row, done.rows, done.column, side);
          MatmulTiles::stripTile(rows, outputs, end - begin, chunk > 0 ? own : nullptr, own, side, meanwhile);
          if (last) waiting = done;
          if (whole) own = own == sums ? sums + TilePlan::sumFloats : sums;
          else own += TilePlan::sumFloats;
        }
      }
    }
    finish(waiting);
  }
};

/// The same as `matmul` (matmul.h).
inline void matmulByTiles(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  Side a(dst->src[0], call->params[0] != 0), b(dst->src[1], call->params[1] != 0);
  MatmulTail tail = MatmulTail::of(dst, call->params[2], call->params[1] != 0);
  size_t tailInputs = MatmulTail::isThere(dst, call->params[2]) ? tail.left.inputs : 0;
  TilePlan plan = TilePlan::of(a, b, tailInputs, size_t(call->poolThreads ? call->poolThreads : nth));
  TileProduct product{a, b, tail, plan, Behind(dst, call->params[2]), nullptr, nullptr, nullptr, nullptr};
  if (plan.shared) product.strips = packRightSide<MatmulTiles>(call, b, tail, tailInputs, plan);
  product.place(reinterpret_cast<float*>(rw_thread_scratch(TileProduct::floats(plan) * 4)));
  MatmulTiles::enter();
  MatmulBlock block, next;
  for (bool more = plan.take(call, nth, &block); more; block = next)
    product.multiply(block, [&] {
      more = plan.take(call, nth, &next);
      if (!more) next = MatmulBlock{};
      return next;
    });
  MatmulTiles::exit();
  if (product.behind.passing) finishPast();
  leave(call, nth);
}

}  // namespace
