// Products by AMX tiles of so few rows that memory is what they wait for: a thread takes a unit of panels after the other, and
// a block of its inputs goes by all rows before the next one, which is asked for meanwhile.
//
// Two threads of a Granite Rapids, 32 rows, whole units asked for a unit ahead and multiplied row unit by row unit: 28 GB/s of panels of 896
// inputs and 22 of panels of 4,864. Blocks by all rows 30 and 27; the next block asked for in place of the next unit as well 32 and
// 34, as much as a plain read gets.
#pragma once

#include "linear_tiles.h"

namespace {

/// A block of a unit's panels that is asked for between tile products, one panel after the other.
template <size_t unitPanels>
struct BlockAhead {
  const char* panels[unitPanels];
  size_t count = 0;  // of panels still to be asked for

  const char *at, *end;
  size_t bytes, step;

  /// The same bytes of panels `stride` apart, in so many turns.
  void begin(const char* first, size_t stride, size_t panelCount, size_t blockBytes, size_t turns) {
    count = panelCount, bytes = blockBytes;
    for (size_t p = 0; p < count; p++) panels[p] = first + (count - 1 - p) * stride;
    step = (bytes * count / turns + 63) / 64 * 64;
    at = panels[count - 1], end = at + bytes;
  }

  __attribute__((always_inline)) void turn() {
    if (count == 0) return;
    for (size_t line = 0; line < step; line += 64) askForLine(at + line);
    at += step;
    if (at >= end && --count > 0) at = panels[count - 1], end = at + bytes;
  }
};

/// A Product multiplies `units` of rows, at most `rowUnitsFew` of them.
template <class Product>
struct TiledFew {
  static constexpr size_t unitRows = Product::unitRows, unitPanels = Product::unitPanels, unitFloats = Product::unitFloats;
  static constexpr size_t pairFloats = unitRows * 2 * panelOutputs;

  const Product& product;
  const char* packed;
  size_t stride, rows;
  const Epilogue& epilogue;
  int64_t panels;
  size_t rowUnits, blocks;

  TiledFew(const Product& by, const char* weights, size_t apart, size_t count, const Epilogue& behind)
      : product(by), packed(weights), stride(apart), rows(count), epilogue(behind) {
    panels = (behind.dst->ne[0] + panelOutputs - 1) / panelOutputs * (behind.gated ? 2 : 1);
    rowUnits = (rows + unitRows - 1) / unitRows;
    blocks = product.blocks();
  }

  void run(Call* call, int nth) const {
    const int32_t units = int32_t((panels + unitPanels - 1) / unitPanels);
    const size_t spreadBytes = alignUp(product.spreadBytes(1));
    RaisedUnits raised(RaisedRun(epilogue.adapted, rows, rows, RaisedRun::pairsWithin(rows, unitPanels / 2)), unitPanels);
    char* room = rw_thread_scratch(spreadBytes + rowUnits * unitFloats * 4 + raised.bytes());
    float* sums = reinterpret_cast<float*>(room + spreadBytes);
    raised.place(room + spreadBytes + rowUnits * unitFloats * 4);
    WaitingUnit waiting[Product::rowUnitsFew];
    typename Product::Inside inside;
    product.enter();
    Pieces pieces(call, nth, units, raised ? int64_t(adaptedRunBytes / (unitPanels * stride)) : 1);
    for (int64_t unit = pieces.take(), next; unit >= 0; unit = next) {
      const RaisedRun* added = raised.reach(size_t(unit), size_t(pieces.endOfRun()), 0, rows, panels);
      next = pieces.take();
      multiply(unit, next, added, room, sums, waiting, &inside);
    }
    product.drain(&inside);
    for (WaitingUnit& each : waiting) endUnit(epilogue, pairFloats, &each);
    product.exit();
  }

 private:
  struct Beside {
    const TiledFew& all;
    const EndsAhead& ends;
    int64_t next;  // first panel of the next unit, negative: none
    size_t block = 0;
    BlockAhead<unitPanels> ahead = {};

    void begin() {
      const bool last = block + 1 == all.blocks;
      const int64_t from = last ? next : ends.panel;
      ahead.count = 0;
      if (from < 0) return;
      const size_t at = last ? 0 : all.product.blockAt(block + 1), end = all.product.blockAt(last ? 1 : block + 2);
      ahead.begin(all.packed + size_t(from) * all.stride + at, all.stride, size_t(all.panelsAt(from)), end - at,
                  all.rowUnits * Product::turnsOfFew);
    }

    __attribute__((always_inline)) void turn() { ahead.turn(); }

    /// Behind a block by the rth unit of rows.
    void operator()(size_t r) {
      ends.ask(r, block);
      if (r + 1 == all.rowUnits && ++block < all.blocks) begin();
    }
  };

  int panelsAt(int64_t panel) const { return panels - panel < int64_t(unitPanels) ? int(panels - panel) : int(unitPanels); }
  size_t rowsOf(size_t r) const { return rows - r * unitRows < unitRows ? rows - r * unitRows : unitRows; }

  void multiply(int64_t unit, int64_t next, const RaisedRun* raised, char* spread, float* sums, WaitingUnit* waiting,
                typename Product::Inside* inside) const {
    const int64_t panel = unit * int64_t(unitPanels);
    const char* from = packed + size_t(panel) * stride;
    const int wide = panelsAt(panel);
    if (Product::spreadsTail && product.spreadBytes(1) > 0) product.spread(from, stride, wide, 0, blocks, spread);
    const EndsAhead ends{epilogue, 0, rows, unitRows, panel, wide, blocks};
    Beside beside{*this, ends, next < 0 ? -1 : next * int64_t(unitPanels)};
    beside.begin();
    product.units(from, stride, wide, spread, 0, rows, 0, blocks, false, sums, inside, beside, [&](size_t r) {
      endUnit(epilogue, pairFloats, waiting + r);
      waiting[r] = {};
    }, true);
    for (size_t r = 0; r < rowUnits; r++) waiting[r] = {r * unitRows, int(rowsOf(r)), panel, wide, sums + r * unitFloats, raised};
  }
};

}  // namespace
