// Elementwise passes of a training step: activations with their gradients, AdamW.
#pragma once

#include "activations.h"
#include "call.h"
#include "numbers.h"

namespace {

constexpr size_t pieceFloats = 8192;

/// Runs `work(from, count)` over the elements of dst in pieces; vectors that stand over an end belong to the caller.
template <class Work>
inline void byPieces(ggml_tensor* dst, Call* call, int nth, Work work) {
  size_t all = size_t(dst->ne[0]) * dst->ne[1] * dst->ne[2] * dst->ne[3];
  for (size_t from; (from = size_t(takePiece(call)) * pieceFloats) < all;) {
    size_t count = all - from < pieceFloats ? all - from : pieceFloats;
    for (size_t i = 0; i < count; i += lanes) work(from + i, int(count - i < lanes ? count - i : lanes));
  }
  leave(call, nth);
}

/// dst = gelu(x), elementwise; x contiguous. In this and the next two, dst also BF16.
inline void geluRows(ggml_tensor* dst, int, int nth, void* userdata) {
  const float* x = floatsOf(dst->src[0]);
  Numbers to(dst);
  byPieces(dst, static_cast<Call*>(userdata), nth, [&](size_t at, int count) {
    to.store(at, gelu(load(x + at, count)).first, count);
  });
}

/// dst = dy gelu'(x). Sources: dy, x; contiguous.
inline void geluBack(ggml_tensor* dst, int, int nth, void* userdata) {
  const float *dy = floatsOf(dst->src[0]), *x = floatsOf(dst->src[1]);
  Numbers to(dst);
  byPieces(dst, static_cast<Call*>(userdata), nth, [&](size_t at, int count) {
    to.store(at, load(dy + at, count) * gelu(load(x + at, count)).second, count);
  });
}

/// dst = gradient of silu(gate) * up with respect to gate (params 0) or up (1). Sources: dy, gate, up; contiguous.
inline void siluMulBack(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const float *dy = floatsOf(dst->src[0]), *gate = floatsOf(dst->src[1]), *up = floatsOf(dst->src[2]);
  bool ofUp = call->params[0] != 0;
  Numbers to(dst);
  byPieces(dst, call, nth, [&](size_t at, int count) {
    TwoVectors both = siluMulBack(load(dy + at, count), load(gate + at, count), load(up + at, count));
    to.store(at, ofUp ? both.second : both.first, count);
  });
}

/// One AdamW step in place (Loshchilov and Hutter 2017). dst [4] is nothing. Sources: weight, gradient, mean, square,
/// settings F32 [8]: learning rate, beta1, beta2, epsilon, weight decay, 1/(1-beta1^t), 1/(1-beta2^t), factor on the gradient.
inline void adamwStep(ggml_tensor* dst, int, int nth, void* userdata) {
  float *weight = floatsOf(dst->src[0]), *mean = floatsOf(dst->src[2]), *square = floatsOf(dst->src[3]);
  const float *gradient = floatsOf(dst->src[1]), *set = floatsOf(dst->src[4]);
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor* all = dst->src[0];
  size_t size = size_t(all->ne[0]) * all->ne[1] * all->ne[2] * all->ne[3];
  float keep = 1.0f - set[0] * set[4];
  for (size_t from; (from = size_t(takePiece(call)) * pieceFloats) < size;) {
    size_t end = from + pieceFloats < size ? from + pieceFloats : size;
    for (size_t i = from; i < end; i += lanes) {
      int count = int(end - i < lanes ? end - i : lanes);
      Vector g = load(gradient + i, count) * set[7];
      Vector m = fma(splat(set[1]), load(mean + i, count), g * (1.0f - set[1]));
      Vector v = fma(splat(set[2]), load(square + i, count), g * g * (1.0f - set[2]));
      store(mean + i, m, count);
      store(square + i, v, count);
      Vector step = m * set[5] / (squareRoot(v * set[6]) + set[3]);
      store(weight + i, load(weight + i, count) * keep - step * set[0], count);
    }
  }
  leave(call, nth);
}

/// dst [pieces] = sum of the squares of each piece of the source.
inline void squareSum(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor* x = dst->src[0];
  size_t size = size_t(x->ne[0]) * x->ne[1] * x->ne[2] * x->ne[3];
  for (size_t piece; (piece = size_t(takePiece(call))) < size_t(dst->ne[0]);) {
    size_t from = piece * pieceFloats, end = from + pieceFloats < size ? from + pieceFloats : size;
    Vector sum = zero();
    for (size_t i = from; i < end; i += lanes) {
      Vector value = load(floatsOf(x) + i, int(end - i < lanes ? end - i : lanes));
      sum = fma(value, value, sum);
    }
    floatsOf(dst)[piece] = sumLanes(sum);
  }
  leave(call, nth);
}

}  // namespace
