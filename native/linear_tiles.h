// How a product of packed weights is cut for AMX tiles.
//
// A thread takes a group of panels and multiplies all rows by it, a block of rows after the other: the group stays in its
// second cache. Where rows go by units, inputs are cut into chunks, so that a unit's activations stay in the first cache while the
// group's panels pass by; where several units go together, a block of the panels does. What the next group reads is asked for evenly meanwhile, and so are the lines that results go to.
// Results that the next product reads as codes become some as soon as a block of them is whole: then a group is one.
#pragma once

#include "linear_coded.h"
#include "tiles.h"

namespace {

/// A unit whose sums are not yet results. They become some while the next unit is multiplied.
struct WaitingUnit {
  size_t row = 0;
  int count = 0;  // of rows; 0 when there is nothing to do
  int64_t panel = 0;
  int panels = 0;
  float* sums = nullptr;  // [pairs of panels][rows][2][16]
  const RaisedRun* raised = nullptr;  // what adapters add to them
  int done = 0;           // of rows
  bool complete = false;

  template <class Pair>
  void eachPair(size_t pairFloats, const Pair& work) const {
    for (int p = 0; p < panels; p += 2) work(panel + p, panels - p < 2 ? 1 : 2, sums + p / 2 * pairFloats);
  }
};

/// Codes of a whole block of results, `count` rows from `row` on: those that a row of floats gets (quantiseRow), to the bit. Rows
/// behind the last one of a unit get scales of zero.
__attribute__((noinline)) inline void codeBlock(const float* block, const QuantisedRows& x, size_t row, int count, size_t firstGroup) {
  constexpr size_t apart = Epilogue::blockStride;
  const size_t groups = x.groups - firstGroup < scaleGroups ? x.groups - firstGroup : scaleGroups, inputs = groups * groupInputs;
  block += row % Epilogue::blockRows * apart;
  VectorInt most = {}, numbers;
  for (int i = 0; i < lanes; i++) numbers[i] = i;
  for (int t = 0; t < count; t++) most = numbers == t ? VectorInt{} + highestOf(block + t * apart, inputs) : most;
  alignas(64) float inverse[lanes];
  store(x.scale<Q8Codes>(firstGroup, row), scalesOfHighest(most, inverse));
  for (int t = 0; t < count; t++) {
    int8_t* codes = x.codes + (row + t) * x.inputs + firstGroup * groupInputs;
    VectorInt sums[scaleGroups] = {};
    if (inverse[t] != 0) codesOf<groupInputs, true>(block + t * apart, splat(inverse[t]), groups, codes, sums);
    else __builtin_memset(codes, 0, inputs);
  }
}

/// All sums of a unit are there. Not inlined, as `endUnit`: units are few, and it is as long as they are.
__attribute__((noinline)) inline void completeUnit(size_t pairFloats, WaitingUnit* unit) {
  if (unit->count == 0) return;
  unit->complete = true;
  unit->eachPair(pairFloats, [&](int64_t panel, int two, float* from) {
    if (two == 1)
      for (int t = 1; t < unit->count; t++) __builtin_memmove(from + t * panelOutputs, from + t * 2 * panelOutputs, panelOutputs * 4);
    if (unit->raised) unit->raised->add(panel / 2, unit->row, unit->count, two, from);
  });
}

__attribute__((noinline)) inline void endUnit(const Epilogue& epilogue, size_t pairFloats, WaitingUnit* unit) {
  if (unit->count == 0) return;
  completeUnit(pairFloats, unit);
  unit->eachPair(pairFloats, [&](int64_t panel, int two, float* from) { epilogue.finish(unit->row, unit->count, panel, two, from); });
  if (epilogue.block) {
    // Units of the same rows end in the order of their panels.
    constexpr int64_t blockPanels = 2 * int64_t(Epilogue::blockOutputs) / panelOutputs;
    const int64_t end = unit->panel + unit->panels, all = epilogue.dst->ne[0] / panelOutputs * 2;
    if (end % blockPanels == 0 || end == all)
      codeBlock(epilogue.block, *epilogue.codes, unit->row, unit->count, size_t(unit->panel / blockPanels) * scaleGroups);
  }
}

/// What adapters add to the panels of units. Of the unit that waits it is still to be added when that of the next one is made, so
/// there are two places for it.
struct RaisedUnits {
  const int64_t pairsOfUnit;
  RaisedRun runs[2];
  int turn = 0;

  RaisedUnits(const RaisedRun& run, size_t unitPanels) : pairsOfUnit(int64_t(unitPanels / 2)), runs{run, run} {}

  explicit operator bool() const { return bool(runs[0]); }
  size_t bytes() const { return 2 * runs[0].bytes(); }
  void place(char* memory) { runs[0].place(memory), runs[1].place(memory + runs[0].bytes()); }

  /// Of a unit in these rows; units before `known` come next. Null where none of them has an adapter.
  const RaisedRun* reach(size_t unit, size_t known, size_t row, size_t rows, int64_t panels) {
    if (!*this || !runs[0].touches(row, rows)) return nullptr;
    const int64_t pair = int64_t(unit) * pairsOfUnit;
    if (!runs[turn].has(pair, row)) runs[turn ^= 1].reach(pair, int64_t(known) * pairsOfUnit, row, rows, panels);
    return &runs[turn];
  }
};

/// Asks for the lines that results of some rows by some panels go to and are added to. An equal part behind each block of inputs.
struct EndsAhead {
  const Epilogue& epilogue;
  size_t row, rows, unitRows;  // the first one, all of them (none: nothing is asked for), and those of a unit
  int64_t panel;
  int panels;
  size_t rowsAtOnce;

  EndsAhead(const Epilogue& behind, size_t first, size_t count, size_t unit, int64_t at, int wide, size_t blocks)
      : epilogue(behind), row(first), rows(count), unitRows(unit), panel(at), panels(wide), rowsAtOnce((unit + blocks - 1) / blocks) {}

  /// Behind so many blocks by the rth unit.
  void ask(size_t r, size_t block) const {
    const size_t first = r * unitRows, end = first + unitRows < rows ? first + unitRows : rows, at = first + block * rowsAtOnce;
    for (size_t t = at; t < at + rowsAtOnce && t < end; t++)
      for (int p = 0; p < panels; p += 2) epilogue.comingUp(row + t, panel + p, panels - p < 2 ? 1 : 2);
  }
};

/// Done beside a unit, once a block of its inputs; weights are asked for `inTurns` of a block.
template <bool endsLate, bool inTurns>
struct BesideUnit {
  const EndsAhead& ends;
  Upcoming& upcoming;
  WaitingUnit& waiting;
  size_t pairFloats;
  int rowsOfWaiting;  // at once
  size_t rowUnits, block = 0;

  /// Done several times a block, between tile products.
  __attribute__((always_inline)) void turn() const {
    if (inTurns && upcoming.step > 0) upcoming.ask();
  }

  /// Behind a block by the rth unit of rows.
  void operator()(size_t r = 0) {
    ends.ask(r, block);
    if (r + 1 == rowUnits) block++;
    if (!inTurns && upcoming.step > 0) upcoming.ask();
    if (endsLate && waiting.complete && waiting.done < waiting.count) finish(rowsOfWaiting);
  }

  /// The next rows of the unit before.
  void finish(int most) {
    const int first = waiting.done, count = waiting.count - first < most ? waiting.count - first : most;
    waiting.eachPair(pairFloats, [&](int64_t at, int two, const float* sums) {
      ends.epilogue.finish(waiting.row + first, count, at, two, sums + first * two * panelOutputs);
    });
    waiting.done += count;
  }
};

/// A Product multiplies up to `rowUnitsMost` units of `unitRows` rows by `unitPanels` panels, over blocks of `blockInputs` inputs: a
/// block of several units is in the first cache for all of them, and panels come from the second once for all. It ends a unit
/// while it begins the next, so neighbours have their sums at different places; where it `endsLate` a few rows at a time, as tiles
/// and vectors work at once (bf16 a tenth quicker by 896 inputs, codes a twentieth slower, whose vectors are busy anyway).
template <class Product>
struct TiledLinear {
  static constexpr size_t unitRows = Product::unitRows, unitPanels = Product::unitPanels;
  static constexpr size_t together = Product::rowUnitsMost;
  static constexpr size_t pairFloats = unitRows * 2 * panelOutputs, unitFloats = unitRows * unitPanels * panelOutputs;
  /// With fewer rows weights come from memory as fast as they are used: a group is one unit, so that they come evenly (more only where
  /// rows have adapters), and units ask for weights where they use them. Codes have a way of their own for so few (linear_tiles_few.h).
  static constexpr size_t rowsMany = 64;

  /// Units of panels, and blocks of rows.
  struct Block {
    size_t firstUnit, endUnit, firstRows, endRows;
    size_t units() const { return endUnit - firstUnit; }
  };

  const Product& product;
  const char* packed;
  size_t stride, rows;
  Epilogue epilogue;
  int64_t panels;
  size_t rowUnits, panelUnits, rowBlocks, chunks, unitsMost, places;
  size_t unitsTogether;  // of panels, that no two threads share
  char *room, *raisedRoom;
  float* sums;

  TiledLinear(const Product& by, const char* weights, size_t apart, size_t count, const Epilogue& behind)
      : product(by), packed(weights), stride(apart), rows(count), epilogue(behind) {
    panels = (behind.dst->ne[0] + panelOutputs - 1) / panelOutputs * (behind.gated ? 2 : 1);
    rowUnits = quotient(rows, unitRows), panelUnits = quotient(size_t(panels), unitPanels);
    rowBlocks = quotient(quotient(rowUnits, together), Product::rowsMost / unitRows / together);
    chunks = rows < rowsMany || together > 1 ? 1 : quotient(product.blocks(), Product::chunkInputs / Product::blockInputs);
    unitsTogether = behind.codes ? 2 * Epilogue::blockOutputs / panelOutputs / unitPanels : 1;
    unitsMost = behind.codes ? unitsTogether : rows < rowsMany ? fewUnits() : Product::panelsMost / unitPanels;
    places = chunks == 1 ? 1 : quotient(quotient(rowUnits, together), rowBlocks) * together * unitsMost;
    size_t spread = alignUp(product.spreadBytes(quotient(product.blocks(), chunks))) * unitsMost;
    const size_t sumFloats = (places + 1) * together * unitFloats, blockFloats = behind.codes ? Epilogue::blockRows * Epilogue::blockStride : 0;
    room = rw_thread_scratch(spread + (sumFloats + blockFloats) * 4 + raisedUnits().bytes());
    sums = reinterpret_cast<float*>(room + spread);
    raisedRoom = room + spread + (sumFloats + blockFloats) * 4;
    if (behind.codes) epilogue.block = sums + sumFloats;
  }

  void run(Call* call, int nth) const {
    product.enter();
    State state{{}, raisedUnits()};
    if (state.raised) state.raised.place(raisedRoom);
    Block block, next;
    bool asked = false;
    for (bool more = take(call, nth, &block); more; block = next)
      asked = multiply(block, asked, &state, [&] {
        more = take(call, nth, &next);
        if (!more) next = {};
        return next;
      });
    product.drain(&state.inside);
    for (WaitingUnit& waiting : state.waiting) endUnit(epilogue, pairFloats, &waiting);
    product.exit();
  }

 private:
  struct State {
    WaitingUnit waiting[together];
    RaisedUnits raised;
    size_t turn = 0;  // 0 or 1: of two places for the sums of one unit
    typename Product::Inside inside;
  };

  static size_t quotient(size_t a, size_t b) { return (a + b - 1) / b; }

  /// What adapters add is made for all units that are taken at once.
  size_t fewUnits() const {
    if (!epilogue.adapted.slots) return 1;
    const size_t within = RaisedRun::pairsWithin(rows, unitPanels / 2) / (unitPanels / 2), units = adaptedRunBytes / (unitPanels * stride);
    return units < 1 ? 1 : units < within ? units : within;
  }
  RaisedUnits raisedUnits() const {
    const size_t most = quotient(quotient(rowUnits, together), rowBlocks) * together * unitRows;
    return {RaisedRun(epilogue.adapted, rows, most, unitsMost * unitPanels / 2), unitPanels};
  }

  /// Fewer and fewer towards the end, and then single blocks of rows.
  bool take(Call* call, int nth, Block* block) const {
    int32_t first, count, parts = int32_t(rowBlocks);
    const size_t all = quotient(panelUnits, unitsTogether), most = unitsMost / unitsTogether;
    if (!takeRun(call, nth, int32_t(all), int32_t(most), parts, &first, &count)) return false;
    const bool whole = count >= parts;
    const size_t unit = size_t(first / parts), rest = size_t(first % parts), units = whole ? size_t(count / parts) : 1;
    const size_t end = (unit + units) * unitsTogether;
    *block = {unit * unitsTogether, end < panelUnits ? end : panelUnits, rest, whole ? rowBlocks : rest + size_t(count)};
    return true;
  }

  /// Of units, in whole steps of those that go together.
  size_t rowBegin(size_t rowBlock) const {
    const size_t begin = quotient(rowUnits, together) * rowBlock / rowBlocks * together;
    return begin < rowUnits ? begin : rowUnits;
  }

  /// Beside which block of rows asking for the next panels begins: so late that they stay in the cache, early enough for all of them.
  size_t askingFrom(const Block& block) const {
    constexpr size_t last = (Product::rowsAsking + Product::rowsMost - 1) / Product::rowsMost;
    return block.endRows - block.firstRows > last ? block.endRows - last : block.firstRows;
  }

  size_t chunkBegin(size_t chunk) const { return product.blocks() * chunk / chunks; }

  int panelsOf(size_t unit) const {
    int64_t left = panels - int64_t(unit * unitPanels);
    return left < int64_t(unitPanels) ? int(left) : int(unitPanels);
  }

  /// True when what the next block begins with was asked for; `asked` when this one's was.
  template <class TakeNext>
  bool multiply(const Block& block, bool asked, State* state, TakeNext takeNext) const {
    Upcoming upcoming;
    bool asks = false;
    for (size_t rowBlock = block.firstRows; rowBlock < block.endRows; rowBlock++) {
      const size_t firstRows = rowBegin(rowBlock), endRows = rowBegin(rowBlock + 1);
      const size_t row = firstRows * unitRows, behind = endRows * unitRows < rows ? endRows * unitRows : rows;
      const RaisedRun* raised = state->raised.reach(block.firstUnit, block.endUnit, row, behind - row, panels);
      for (size_t chunk = 0; chunk < chunks; chunk++) {
        const bool first = rowBlock == block.firstRows && chunk == 0;
        if (first || chunks > 1) spread(block, chunkBegin(chunk), chunkBegin(chunk + 1));
        if (rowBlock == askingFrom(block) && chunk == 0)
          asks = askFor(block, takeNext(), (rowBegin(block.endRows) - firstRows) * block.units() * product.blocks(), &upcoming);
        const bool cold = first && !asked;
        auto one = [&](size_t r, size_t u) {
          const size_t place = chunks == 1 ? 0 : (r - firstRows) * block.units() + u - block.firstUnit;
          float* to = sums + (place + state->turn) * unitFloats;
          unit(block, r, endRows - r < together ? endRows - r : together, u, chunk, cold && r == firstRows, to, raised, state, &upcoming);
          if (Product::endsLate && places == 1 && chunk + 1 == chunks) state->turn ^= 1;
        };
        if (Product::rowsInside)
          for (size_t u = block.firstUnit; u < block.endUnit; u++)
            for (size_t r = firstRows; r < endRows; r += together) one(r, u);
        else
          for (size_t r = firstRows; r < endRows; r += together)
            for (size_t u = block.firstUnit; u < block.endUnit; u++) one(r, u);
      }
    }
    return asks;
  }

  void spread(const Block& block, size_t begin, size_t end) const {
    size_t bytes = alignUp(product.spreadBytes(quotient(product.blocks(), chunks)));
    if (bytes > 0)
      for (size_t u = block.firstUnit; u < block.endUnit; u++)
        product.spread(packed + u * unitPanels * stride, stride, panelsOf(u), begin, end, room + (u - block.firstUnit) * bytes);
  }

  /// Asks for what the next block begins with, in so many parts; false where units find it by themselves.
  bool askFor(const Block& block, const Block& next, size_t parts, Upcoming* upcoming) const {
    if (next.units() == 0) return false;
    if (next.firstUnit < block.endUnit) return true;  // other rows of the same panels
    if (rows < rowsMany) return false;
    if (Product::turnsOfBlock > 0) parts *= Product::turnsOfBlock;
    size_t end = next.endUnit * unitPanels < size_t(panels) ? next.endUnit * unitPanels : size_t(panels);
    upcoming->begin(packed + next.firstUnit * unitPanels * stride, (end - next.firstUnit * unitPanels) * stride, parts);
    return true;
  }

  /// Of `count` units of rows from `rowUnit` on.
  void unit(const Block& block, size_t rowUnit, size_t count, size_t u, size_t chunk, bool cold, float* to, const RaisedRun* raised,
            State* state, Upcoming* upcoming) const {
    const size_t row = rowUnit * unitRows, end = (rowUnit + count) * unitRows < rows ? (rowUnit + count) * unitRows : rows;
    const size_t begin = chunkBegin(chunk), stop = chunkBegin(chunk + 1), turns = stop - begin;
    const bool last = chunk + 1 == chunks;
    const int64_t panel = int64_t(u * unitPanels);
    const int wide = panelsOf(u);
    const EndsAhead ends{epilogue, row, last ? end - row : 0, unitRows, panel, wide, turns};
    WaitingUnit* waiting = state->waiting;
    BesideUnit<Product::endsLate, (Product::turnsOfBlock > 0)> beside{
        ends, *upcoming, *waiting, pairFloats, int(quotient(size_t(waiting->count), turns)), count};
    size_t bytes = alignUp(product.spreadBytes(quotient(product.blocks(), chunks)));
    product.units(packed + panel * stride, stride, wide, room + (u - block.firstUnit) * bytes, row, end - row, begin, stop, cold, to,
                  &state->inside, beside, [&](size_t r) {
                    if (Product::endsLate) return completeUnit(pairFloats, waiting);
                    // Of the rows before there may have been more units.
                    for (size_t w = r; w == r || (r + 1 == count && w < together); w++) endUnit(epilogue, pairFloats, waiting + w);
                  });
    if (Product::endsLate && waiting->done < waiting->count) beside.finish(waiting->count);
    for (size_t r = 0; r < together; r++) {
      const size_t first = row + r * unitRows, behind = first + unitRows < end ? first + unitRows : end;
      waiting[r] = {first, last && r < count ? int(behind - first) : 0, panel, wide, to + r * unitFloats, raised};
    }
  }
};

}  // namespace
