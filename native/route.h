// Mixtures of experts: which few of many feed-forwards each row takes, and what comes of them.
//
// Legend: N rows, E experts, K of them used by a row, S = N K slots, one for each use: those of an expert are neighbours, in
// the order of rows. A pair is one use counted by rows, n K + k, in the order of ranks.
#pragma once

#include "call.h"
#include "simd.h"
#include "tensor.h"

namespace {

/// What `route` wrote, I32 one behind the other: [S] row of each slot, [S] slot of each pair, [S] share of each slot as float
/// bits, [S] cell n E + e of each slot, [E + 1] first slot of each expert, [S] expert of each slot.
struct Routes {
  const int32_t *row, *slotOfPair;
  const float* share;
  const int32_t* start;
  size_t experts, slots;

  Routes(const ggml_tensor* routes, int32_t of) : experts(size_t(of)), slots((size_t(routes->ne[0]) - experts - 1) / 5) {
    row = static_cast<const int32_t*>(routes->data);
    slotOfPair = row + slots;
    share = reinterpret_cast<const float*>(row + 2 * slots);
    start = row + 4 * slots;
  }
};

/// exp(x - most), at least exp(-87).
inline float shareOver(float x, float most) { return exponential(splat(x - most))[0]; }

/// Sum of exp(x - most) over all: one order whatever is beside it.
inline float sumOfShares(const float* x, int count, float most) {
  Vector sums = zero();
  int k = 0;
  for (; k + lanes <= count; k += lanes) sums = sums + exponential(load(x + k) - splat(most));
  float sum = sumLanes(sums);
  for (; k < count; k++) sum += shareOver(x[k], most);
  return sum;
}

/// The `used` largest, in order, of equal ones the first; what is no number comes last. Shares are those of the softmax over all,
/// or over the chosen. `left` has room for [E].
inline void chooseExperts(const float* logits, int experts, int used, bool normalised, float* left, int32_t* chosen, float* shares) {
  const float taken = __builtin_nanf("");
  for (int e = 0; e < experts; e++) left[e] = logits[e] == logits[e] ? logits[e] : -__builtin_inff();
  for (int k = 0; k < used; k++) {
    int best = -1;
    for (int e = 0; e < experts; e++)
      if (best < 0 ? left[e] == left[e] : left[e] > left[best]) best = e;
    left[best] = taken;
    chosen[k] = best;
  }
  float most = logits[chosen[0]], sum = 0;
  for (int k = 0; k < used; k++) sum += shares[k] = shareOver(logits[chosen[k]], most);
  if (!normalised) sum = sumOfShares(logits, experts, most);
  // Also where only a logit that was not chosen is no number: then the row is none.
  for (int e = 0; e < experts; e++) sum += logits[e] - logits[e];
  for (int k = 0; k < used; k++) shares[k] /= sum;
}

/// Slots in the order of experts, and within one of rows.
inline void sortByExpert(const int32_t* chosen, const float* shares, size_t rows, size_t used, size_t experts, int32_t* routes) {
  const size_t slots = rows * used;
  int32_t *row = routes, *slotOfPair = routes + slots, *share = routes + 2 * slots, *cell = routes + 3 * slots, *start = routes + 4 * slots;
  int32_t* expert = start + experts + 1;
  for (size_t e = 0; e <= experts; e++) start[e] = 0;
  for (size_t pair = 0; pair < slots; pair++) start[chosen[pair] + 1]++;
  for (size_t e = 0; e < experts; e++) start[e + 1] += start[e];
  for (size_t pair = 0; pair < slots; pair++) {
    const int32_t slot = start[chosen[pair]]++, from = int32_t(pair / used);
    row[slot] = from, slotOfPair[pair] = slot, cell[slot] = from * int32_t(experts) + chosen[pair], expert[slot] = chosen[pair];
    __builtin_memcpy(share + slot, shares + pair, 4);
  }
  // Each start has moved to its end, which is the next one's.
  for (size_t e = experts; e > 0; e--) start[e] = start[e - 1];
  start[0] = 0;
}

/// dst I32 [5 S + E + 1], a `Routes`. Sources: logits F32 [N, E]. Params: used K, normalised (0/1).
inline void route(ggml_tensor* dst, int, int nth, void* userdata) {
  constexpr size_t rowsPerPiece = 8;
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor* logits = dst->src[0];
  const size_t experts = size_t(logits->ne[0]), rows = size_t(logits->ne[1]), used = size_t(call->params[0]);
  const size_t chosenBytes = alignUp(rows * used * 4);
  if (arriveFirst(call)) {
    rw_workspace_reserve(call->workspace, 2 * chosenBytes);
    publish(call);
  }
  int32_t* chosen = reinterpret_cast<int32_t*>(call->workspace->memory);
  float* shares = reinterpret_cast<float*>(call->workspace->memory + chosenBytes);
  preparePhase(call, int32_t((rows + rowsPerPiece - 1) / rowsPerPiece), [&](int32_t piece) {
    const size_t first = size_t(piece) * rowsPerPiece, end = first + rowsPerPiece < rows ? first + rowsPerPiece : rows;
    float* left = reinterpret_cast<float*>(rw_thread_scratch(experts * 4));
    for (size_t row = first; row < end; row++) {
      const char* from = static_cast<const char*>(logits->data) + row * logits->nb[1];
      chooseExperts(reinterpret_cast<const float*>(from), int(experts), int(used), call->params[1] != 0, left,
                    chosen + row * used, shares + row * used);
    }
  });
  if (takePiece(call) == 0) sortByExpert(chosen, shares, rows, used, experts, static_cast<int32_t*>(dst->data));
  leave(call, nth);
}

/// dst F32 [N, W] = residual + shares of what a row's experts made, added in the order of their ranks. Sources: F32 [S, W] by
/// slots, routes, residual [N, W]. Params: experts E.
inline void mixExperts(ggml_tensor* dst, int, int nth, void* userdata) {
  constexpr int64_t stretch = 1024;
  Call* call = static_cast<Call*>(userdata);
  const Routes routes(dst->src[1], call->params[0]);
  const float* made = static_cast<const float*>(dst->src[0]->data);
  const ggml_tensor* residual = dst->src[2];
  const int64_t width = dst->ne[0], rows = dst->ne[1], used = int64_t(routes.slots) / rows, stretches = (width + stretch - 1) / stretch;
  for (int64_t piece; (piece = takePiece(call)) < rows * stretches;) {
    const int64_t row = piece / stretches, first = piece % stretches * stretch;
    const int64_t end = first + stretch < width ? first + stretch : width;
    const float* add = reinterpret_cast<const float*>(static_cast<const char*>(residual->data) + row * residual->nb[1]);
    float* to = static_cast<float*>(dst->data) + row * width;
    for (int64_t i = first; i < end; i += lanes) {
      const int left = int(end - i);
      Vector sum = load(add + i, left);
      for (int64_t k = 0; k < used; k++) {
        const int32_t slot = routes.slotOfPair[row * used + k];
        sum = fma(splat(routes.share[slot]), load(made + slot * width + i, left), sum);
      }
      store(to + i, sum, left);
    }
  }
  leave(call, nth);
}

}  // namespace
