// How an attention op is cut into pieces that threads take.
#pragma once

#include "batch.h"
#include "call.h"

namespace {

constexpr int chunkPositions = 512;
constexpr int tileRowsAim = 32;  // rows that share one pass over a tile of the cache
constexpr int unitRowsAim = 16;  // rows of several heads of one token, whose waiting then overlaps

struct AttentionShape {
  int heads, perKv, widthPadded, tileTokens, unitHeads, rowsMax, window;
  float scale;
  CacheShape cache;
};

/// Some neighbouring kv heads of some neighbouring tokens of one sequence, over some of its chunks.
struct Unit {
  int32_t sequence, token, tokens, head, heads, chunk, chunks;
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

inline size_t partialFloats(const AttentionShape& shape) { return 2 + size_t(shape.widthPadded); }

/// Walks over the sets of rows of the batch, the heaviest of each sequence first.
template <class Visit>
inline void forEachRowSet(const AttentionShape& shape, const Batch& batch, Visit visit) {
  for (int s = 0; s < batch.sequences(); s++) {
    Sequence sequence = batch.sequence(s);
    int together = sequence.count == 1 ? shape.unitHeads : 1;
    for (int tile = (sequence.count - 1) / shape.tileTokens; tile >= 0; tile--) {
      int token = tile * shape.tileTokens, tokens = sequence.count - token;
      if (tokens > shape.tileTokens) tokens = shape.tileTokens;
      int position = sequence.start + token;
      int first = shape.window > 0 && position >= shape.window ? position - shape.window + 1 : 0;
      int chunk = first / chunkPositions, chunks = (position + tokens - 1) / chunkPositions - chunk + 1;
      for (int head = 0; head < shape.cache.kvHeads; head += together) {
        int left = shape.cache.kvHeads - head;
        visit(Unit{s, token, tokens, head, left < together ? left : together, chunk, chunks, -1});
      }
    }
  }
}

/// Pieces that keep every thread busy to the end; more would only cost.
constexpr int64_t piecesEnough = 32;

/// What a unit may be at most: kv heads of a lone token, and chunks.
struct UnitSize {
  int heads, chunks;
};

/// Large where the batch has pieces enough all the same. Neither changes a bit.
inline UnitSize unitSize(const AttentionShape& shape, const Batch& batch) {
  int64_t pieces = 0;
  forEachRowSet(shape, batch, [&](const Unit& unit) { pieces += unit.chunks; });
  int64_t fair = pieces / piecesEnough < 1 ? 1 : pieces / piecesEnough;
  int64_t most = unitRowsAim / shape.perKv;
  if (most > shape.cache.kvHeads) most = shape.cache.kvHeads;
  if (most > fair) most = fair;
  if (most < 1) most = 1;
  int64_t chunks = fair / most;
  return {int(most), chunks < 1 ? 1 : chunks > 1 << 20 ? 1 << 20 : int(chunks)};
}

/// Cuts the batch into units.
inline void makePlan(AttentionShape shape, const Batch& batch, Workspace* workspace) {
  shape.unitHeads = 1;
  UnitSize most = unitSize(shape, batch);
  shape.unitHeads = most.heads;
  size_t units = 0, groups = 0, floats = 0;
  auto floatsOf = [&](const Unit& unit) {
    return size_t(unit.chunks) * unit.tokens * unit.heads * shape.perKv * partialFloats(shape);
  };
  forEachRowSet(shape, batch, [&](const Unit& unit) {
    units += (unit.chunks + most.chunks - 1) / most.chunks;
    if (unit.chunks <= most.chunks) return;
    groups++;
    floats += floatsOf(unit);
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
  forEachRowSet(shape, batch, [&](Unit unit) {
    if (unit.chunks > most.chunks) {
      unit.group = made->groups++;
      made->group[unit.group] = {(unit.chunks + most.chunks - 1) / most.chunks, unit.chunk, unit.chunks, 0, used};
      used += floatsOf(unit);
    }
    for (int left = unit.chunks; left > 0; left -= most.chunks) {
      unit.chunks = left < most.chunks ? left : most.chunks;
      made->unit[made->units++] = unit;
      unit.chunk += unit.chunks;
    }
  });
}

}  // namespace
