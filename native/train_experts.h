// What trains mixtures of experts (route.h): products by experts, and the gradients of shares and of what chose them.
//
// An expert's slots are neighbours, so each expert's product is that of a part of rows with a part of the stacked weight, and
// is multiplied as any (matmul.h). Experts have few slots each: a thread puts the strips that it multiplies by in order itself.
#pragma once

#include "matmul.h"
#include "route.h"
#include "train_loss.h"

namespace {

/// What is multiplied, by slots [S, .] and experts' weights [E M, K] below one another.
enum ExpertProduct {
  expertOutputs = 0,      // [S, M] = x [S, K] W^T
  expertInputsBack = 1,   // [S, K] = dy [S, M] W
  expertWeightsBack = 2,  // [E M, K]: each expert's dy^T x over its slots; zeros where it has none
};

inline ggml_tensor rowsOf(const ggml_tensor* whole, size_t first, size_t count) {
  ggml_tensor part = *whole;
  part.data = static_cast<char*>(whole->data) + first * whole->nb[1];
  part.ne[1] = int64_t(count);
  return part;
}

/// One expert's product a b^T, whose result stands in the whole one from `firstRow` on.
struct ExpertSides {
  ggml_tensor left, right;
  ExpertProduct kind;
  size_t firstRow;

  ExpertSides(const ggml_tensor* dst, ExpertProduct kind, const Routes& routes, size_t expert) : kind(kind) {
    const size_t first = size_t(routes.start[expert]), count = size_t(routes.start[expert + 1]) - first;
    const bool bySlots = kind != expertWeightsBack;
    const size_t outputs = size_t(bySlots ? dst->src[1]->ne[1] : 0) / routes.experts;
    left = rowsOf(dst->src[0], first, count);
    right = bySlots ? rowsOf(dst->src[1], expert * outputs, outputs) : rowsOf(dst->src[1], first, count);
    firstRow = bySlots ? first : expert * size_t(left.ne[0]);
  }

  Side a() const { return {&left, kind == expertWeightsBack}; }
  Side b() const { return {&right, kind != expertOutputs}; }
};

/// How an expert's product is cut: strips of outputs by tiles of rows, each piece with strips of its own.
template <class Tiles>
struct ExpertPlan {
  static constexpr size_t stripsMost = 256 / Tiles::width, tilesMost = 384 / Tiles::rows, blockTiles = 96 / Tiles::rows;
  MatmulPlan plan;
  size_t stripParts, tileParts;

  ExpertPlan(const Side& a, size_t outputs) : plan(MatmulPlan::of<Tiles>(a, outputs, 0)) {
    stripParts = quotientUp(plan.strips, stripsMost), tileParts = quotientUp(plan.tiles, tilesMost);
    plan.stripsPerBlock = quotientUp(plan.strips, stripParts), plan.tilesPerBlock = blockTiles;
    plan.far = plan.stripsPerBlock * Tiles::width * plan.steps * 4 > size_t(4) << 20;
  }

  size_t pieces() const { return stripParts * tileParts; }

  MatmulBlock piece(size_t index) const {
    const size_t strips = index / tileParts, tiles = index % tileParts;
    return {plan.tiles * tiles / tileParts, plan.tiles * (tiles + 1) / tileParts, plan.strips * strips / stripParts,
            plan.strips * (strips + 1) / stripParts};
  }
};

template <class Tiles>
inline void multiplyExpertPiece(const ExpertSides& sides, const ExpertPlan<Tiles>& cut, size_t index, const Behind& behind) {
  constexpr size_t S = Tiles::width, blockRows = ExpertPlan<Tiles>::blockTiles * Tiles::rows;
  const Side a = sides.a(), b = sides.b();
  const MatmulPlan& plan = cut.plan;
  const MatmulBlock piece = cut.piece(index);
  const size_t strips = piece.endStrip - piece.firstStrip;
  const size_t rightFloats = strips * plan.steps * S, blockFloats = plan.chunks ? blockRows * plan.chunkStepsMost(Tiles::stepsUnit) : 0;
  const size_t sumFloats = blockRows * plan.stripsPerBlock * S;
  float* right = reinterpret_cast<float*>(rw_thread_scratch((rightFloats + blockFloats + sumFloats) * 4 + 64));
  b.pack<Tiles, S>({piece.firstStrip * S, strips, 0, plan.steps, right, plan.steps * S});
  const MatmulMemory memory{right, piece.firstStrip, right + rightFloats, right + rightFloats + blockFloats};
  for (size_t tile = piece.firstTile; tile < piece.endTile; tile += plan.tilesPerBlock) {
    const size_t end = tile + plan.tilesPerBlock < piece.endTile ? tile + plan.tilesPerBlock : piece.endTile;
    multiplyBlock<Tiles>(a, MatmulTail{a, b}, plan, {tile, end, piece.firstStrip, piece.endStrip}, memory, behind);
  }
}

/// What no slot of an expert adds to.
inline void zeroRows(const ggml_tensor* to, size_t first, size_t count) {
  const size_t bytes = size_t(to->ne[0]) * Numbers(to).bytes();
  __builtin_memset(static_cast<char*>(to->data) + first * bytes, 0, count * bytes);
}

/// dst as `ExpertProduct` says, F32 or BF16. Sources: the two factors as there, F32 or BF16, a weight also frozen (frozen.h); what
/// comes behind, as for `matmul`; routes. Params: experts E, ExpertProduct, MatmulBehind.
template <class Tiles>
inline void matmulByExpert(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ExpertProduct kind = ExpertProduct(call->params[1]);
  const Routes routes(dst->src[2 + Behind::sourceCount(call->params[2])], call->params[0]);
  Behind behind(dst, call->params[2]);
  const size_t outputs = kind == expertOutputs ? size_t(dst->src[1]->ne[1]) / routes.experts : size_t(dst->src[1]->ne[0]);
  if (arriveFirst(call)) {
    // [E + 1] pieces before each expert's.
    int32_t* before = reinterpret_cast<int32_t*>(rw_workspace_reserve(call->workspace, (routes.experts + 1) * 4));
    before[0] = 0;
    for (size_t e = 0; e < routes.experts; e++) {
      const ExpertSides sides(dst, kind, routes, e);
      const bool idle = routes.start[e + 1] == routes.start[e];
      before[e + 1] = before[e] + int32_t(idle ? 0 : ExpertPlan<Tiles>(sides.a(), outputs).pieces());
      if (idle && kind == expertWeightsBack && behind.kind == behindNothing) zeroRows(dst, sides.firstRow, size_t(sides.left.ne[0]));
    }
    publish(call);
  }
  const int32_t* before = reinterpret_cast<const int32_t*>(call->workspace->memory);
  size_t expert = 0;
  for (int32_t piece; (piece = takePiece(call)) < before[routes.experts];) {
    while (piece >= before[expert + 1]) expert++;
    const ExpertSides sides(dst, kind, routes, expert);
    behind.firstRow = sides.firstRow;
    multiplyExpertPiece<Tiles>(sides, ExpertPlan<Tiles>(sides.a(), outputs), size_t(piece - before[expert]), behind);
  }
  if (behind.passing) finishPast();
  leave(call, nth);
}

inline void matmulByExpertBF16(ggml_tensor* dst, int ith, int nth, void* userdata) {
#if defined(__AVX512F__)
  if (multipliesPairs()) return matmulByExpert<PairTiles>(dst, ith, nth, userdata);
#endif
  matmulByExpert<FloatTiles<RoundedLanes>>(dst, ith, nth, userdata);
}

/// dst [S, W], F32 or BF16: gradient of what experts made, a slot's share times dy of its row. Sources: dy [N, W] of `mixExperts`,
/// contiguous; routes. Params: experts E.
inline void mixExpertsBack(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor* dy = dst->src[0];
  const Routes routes(dst->src[1], call->params[0]);
  const size_t width = size_t(dst->ne[0]);
  const Numbers results(dst);
  byRows(dst, call, nth, [&](size_t first, size_t end) {
    for (size_t slot = first; slot < end; slot++) {
      const float* from = floatsOf(dy) + size_t(routes.row[slot]) * width;
      for (size_t i = 0; i < width; i += lanes)
        results.store(slot * width + i, load(from + i, int(width - i)) * routes.share[slot], int(width - i));
    }
  });
}

/// dst [S, 1]: gradient of the slots' shares. Sources: dy [N, W] of `mixExperts`, what experts made [S, W], both contiguous; routes.
/// Params: experts E.
inline void sharesByExpertBack(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor *dy = dst->src[0], *made = dst->src[1];
  const Routes routes(dst->src[2], call->params[0]);
  const size_t width = size_t(made->ne[0]);
  byRows(made, call, nth, [&](size_t first, size_t end) {
    for (size_t slot = first; slot < end; slot++) {
      const float *slope = floatsOf(dy) + size_t(routes.row[slot]) * width, *own = floatsOf(made) + slot * width;
      Vector sum = zero();
      for (size_t i = 0; i < width; i += lanes) sum = fma(load(slope + i, int(width - i)), load(own + i, int(width - i)), sum);
      static_cast<float*>(dst->data)[slot] = sumLanes(sum);
    }
  });
}

/// dst [N, E]: gradient of the logits of `route`. Sources: gradient of the shares [S, 1], logits [N, E], routes. Params: used K,
/// normalised (0/1).
inline void routeBack(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor* logits = dst->src[1];
  const float* slopes = floatsOf(dst->src[0]);
  const int width = int(dst->ne[0]);
  const size_t used = size_t(call->params[0]);
  const Routes routes(dst->src[2], width);
  const int32_t* cells = routes.row + 3 * routes.slots;
  byRows(dst, call, nth, [&](size_t first, size_t end) {
    for (size_t row = first; row < end; row++) {
      const int32_t* slots = routes.slotOfPair + row * used;
      float *to = floatsOf(dst) + row * width, mean = 0;
      for (size_t k = 0; k < used; k++) mean += routes.share[slots[k]] * slopes[slots[k]];
      if (call->params[1]) __builtin_memset(to, 0, size_t(width) * 4);
      else {
        const float* x = floatsOf(logits) + row * width;
        const RowShares shares = RowShares::of(x, width);
        for (int i = 0; i < width; i += lanes)
          store(to + i, RowShares::power(load(x + i, width - i) - shares.highest) / shares.sum * -mean, width - i);
      }
      for (size_t k = 0; k < used; k++) {
        float* own = floatsOf(dst) + cells[slots[k]];
        *own += routes.share[slots[k]] * (call->params[1] ? slopes[slots[k]] - mean : slopes[slots[k]]);
      }
    }
  });
}

}  // namespace
