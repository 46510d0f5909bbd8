// Products of packed weights by experts: rows lie in the slots that `route` gave (route.h), those of an expert one behind the other, and
// are multiplied by the panels of that expert alone. An output's bits are those that the expert as a weight of its own gives.
#pragma once

#include "linear_float.h"
#include "route.h"

namespace {

/// What a thread multiplies at once: a pair of one expert's panels by some of its slots.
struct ExpertPiece {
  size_t expert;
  const char* weights;  // the expert's first panel
  int64_t panel;        // of the expert
  int panels;
  size_t first, end;  // slots

  const char* from(size_t stride) const { return weights + size_t(panel) * stride; }
};

/// The pieces of all experts that have slots, counted through.
struct ExpertPieces {
  static constexpr size_t rowsPerPiece = 192;
  const Routes& routes;
  const char* packed;
  size_t stride;
  int64_t panels;         // of one expert
  const int32_t* before;  // [E + 1] pieces before each expert's

  int64_t pairs() const { return (panels + 1) / 2; }
  static size_t blocks(size_t slots) { return (slots + rowsPerPiece - 1) / rowsPerPiece; }

  void count(int32_t* to) const {
    to[0] = 0;
    for (size_t e = 0; e < routes.experts; e++)
      to[e + 1] = to[e] + int32_t(pairs() * int64_t(blocks(size_t(routes.start[e + 1] - routes.start[e]))));
  }

  /// `expert` is that of an earlier piece of the same thread.
  ExpertPiece at(int64_t piece, size_t* expert) const {
    while (piece >= before[*expert + 1]) ++*expert;
    const size_t begin = size_t(routes.start[*expert]), end = size_t(routes.start[*expert + 1]), parts = blocks(end - begin);
    const int64_t within = piece - before[*expert], panel = within / int64_t(parts) * 2;
    const size_t first = begin + size_t(within) % parts * rowsPerPiece;
    return {*expert, packed + *expert * size_t(panels) * stride, panel, panels - panel < 2 ? 1 : 2, first,
            first + rowsPerPiece < end ? first + rowsPerPiece : end};
  }
};

template <class Product>
inline void multiplyExperts(Call* call, int nth, const Product& product, const ExpertPieces& all, Epilogue epilogue) {
  constexpr size_t runBytes = size_t(1) << 18;
  const float* biases = epilogue.bias;
  const size_t biasesEach = size_t(epilogue.dst->ne[0]) * (epilogue.gated ? 2 : 1);
  Pieces pieces(call, nth, all.before[all.routes.experts], int64_t(runBytes / (2 * all.stride)));
  size_t expert = 0;
  bool asked = false;
  int64_t number = pieces.take();
  if (number < 0) return;
  for (ExpertPiece piece = all.at(number, &expert), next; number >= 0; piece = next) {
    number = pieces.take();
    if (number >= 0) next = all.at(number, &expert);
    const char *weights = piece.from(all.stride), *behind = number < 0 ? nullptr : next.from(all.stride);
    const bool asks = Product::asksAhead && behind && behind != weights && next.panels == 2;
    if constexpr (Product::asksAhead)
      if (asks) product.comingUp(behind, 2 * all.stride, piece.end - piece.first);
    if (biases) epilogue.bias = biases + piece.expert * biasesEach;
    pairByRows(product, piece.weights, all.stride, piece.panel, piece.panels, piece.first, piece.end, asked, epilogue);
    asked = asks || (Product::asksAhead && behind == weights);
  }
}

/// Rows of x as the product reads them, in their slots: x has them by slots, or by rows, which are normed once for all their slots.
template <class Product>
inline void prepareSlots(Call* call, const Product& product, const ggml_tensor* x, const Routes& routes, bool bySlots,
                         const float* norm, float epsilon, size_t inputs) {
  const size_t width = size_t(x->ne[0]), rows = size_t(x->ne[1]), uses = routes.slots / rows;
  // Neighbouring slots share lines of scales.
  const size_t run = rows >= 128 ? 16 : rows >= 32 ? 4 : 1;
  preparePhase(call, int32_t((rows + run - 1) / run), [&](int32_t piece) {
    const size_t begin = size_t(piece) * run, end = begin + run < rows ? begin + run : rows;
    float* own = norm || inputs > width ? reinterpret_cast<float*>(rw_thread_scratch(alignUp(inputs * 4))) : nullptr;
    for (size_t row = begin; row < end; row++) {
      const float* from = reinterpret_cast<const float*>(static_cast<const char*>(x->data) + row * x->nb[1]);
      if (own) from = paddedRow(from, norm, epsilon, width, inputs, own);
      if (bySlots) product.prepare(from, row);
      else
        for (size_t k = 0; k < uses; k++) product.prepare(from, size_t(routes.slotOfPair[row * uses + k]));
    }
  });
}

/// dst F32 [S, M]. Sources: x F32 [N, K] by rows, or [S, K] by slots; packed weights of E experts with M outputs each one below the
/// other, M whole panels and of ungated formats that lie in pairs whole pairs; routes; norm weight [K] where normed; biases [E, M]
/// where biased, of gated ones [E, 2, M]. Params: experts E, by slots, normed (0/1 each), Gate, biased (0/1), epsilon and limit of a
/// clamped gate as float bits.
template <class Product>
inline void experts(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor* x = dst->src[0];
  const Routes routes(dst->src[2], call->params[0]);
  const bool bySlots = call->params[1] != 0;
  const float* norm = call->params[2] ? static_cast<const float*>(dst->src[3]->data) : nullptr;
  Epilogue epilogue{dst, nullptr, nullptr, call->params[3], {}, floatParam(call, 6)};
  if (call->params[4]) epilogue.bias = static_cast<const float*>(dst->src[norm ? 4 : 3]->data);
  const size_t inputs = wholeGroups(size_t(x->ne[0])), stride = panelBytes(Product::packedFormat, inputs);
  const size_t placed = Product::placed(routes.slots), placedBytes = alignUp(placed * Product::rowBytes(inputs));
  ExpertPieces pieces{routes, static_cast<const char*>(dst->src[1]->data), stride,
                      (dst->ne[0] + panelOutputs - 1) / panelOutputs * (epilogue.gated ? 2 : 1), nullptr};
  if (arriveFirst(call)) {
    rw_workspace_reserve(call->workspace, placedBytes + alignUp((routes.experts + 1) * 4));
    pieces.count(reinterpret_cast<int32_t*>(call->workspace->memory + placedBytes));
    publish(call);
  }
  pieces.before = reinterpret_cast<const int32_t*>(call->workspace->memory + placedBytes);
  Product product;
  product.place(call->workspace->memory, placed, inputs);
  prepareSlots(call, product, x, routes, bySlots, norm, floatParam(call, 5), inputs);
  multiplyExperts(call, nth, product, pieces, epilogue);
  leave(call, nth);
}

inline void expertsBF16(ggml_tensor* dst, int ith, int nth, void* userdata) {
#if defined(__AVX512F__)
  if (multipliesPairs()) return experts<PairProduct>(dst, ith, nth, userdata);
#endif
  experts<FloatProduct<BF16Weights>>(dst, ith, nth, userdata);
}

}  // namespace
