// Rotary positions (Su 2021) and the write into the paged cache, in one pass over a layer's q, k and v.
#pragma once

#include "batch.h"
#include "call.h"
#include "simd.h"
#include "tensor.h"

// libm, without <cmath>: see call.h about functions that are compiled once per instruction set.
extern "C" double sin(double);
extern "C" double cos(double);

namespace {

/// How an iteration's rows are rotated: cosines of all pairs, then sines, per row.
///
/// dst F32 [N, R]. Sources: batch table, F32 [R/2] angle per position of each pair.
/// Params: factor on both as float bits (YaRN's attention factor, else 1).
inline void ropeTable(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  Batch batch{static_cast<const int32_t*>(dst->src[0]->data)};
  const float* frequency = static_cast<const float*>(dst->src[1]->data);
  float factor = floatParam(call, 0);
  int pairs = int(dst->ne[0] / 2);
  for (int s; (s = takePiece(call)) < batch.sequences();) {
    Sequence sequence = batch.sequence(s);
    for (int t = 0; t < sequence.count; t++) {
      float* to = static_cast<float*>(dst->data) + size_t(sequence.row + t) * 2 * pairs;
      for (int i = 0; i < pairs; i++) {
        double angle = double(sequence.start + t) * double(frequency[i]);
        to[i] = float(cos(angle)) * factor;
        to[pairs + i] = float(sin(angle)) * factor;
      }
    }
  }
  leave(call, nth);
}

enum RotaryPairs { halves = 0, neighbours = 1 };

/// Root mean square norm of one head, in place (Zhang and Sennrich 2019); the sum runs in vector order.
inline void normHead(float* head, const float* weight, int width, float epsilon) {
  Vector squares = zero();
  for (int d = 0; d < width; d += lanes) {
    Vector x = load(head + d, width - d);
    squares = fma(x, x, squares);
  }
  float factor = 1.0f / __builtin_sqrtf(sumLanes(squares) / float(width) + epsilon);
  for (int d = 0; d < width; d++) head[d] = head[d] * factor * weight[d];
}

inline void rotateHead(float* head, const float* table, int rotary, int pairsAre) {
  int pairs = rotary / 2, step = pairsAre == halves ? 1 : 2, apart = pairsAre == halves ? pairs : 1;
  for (int i = 0; i < pairs; i++) {
    float* a = head + i * step;
    float* b = a + apart;
    float c = table[i], s = table[pairs + i], x = *a, y = *b;
    *a = x * c - y * s;
    *b = x * s + y * c;
  }
}

inline void copyHead(float* to, const ggml_tensor* from, int row, int head, int width) {
  const float* source =
      reinterpret_cast<const float*>(static_cast<const char*>(from->data) + row * from->nb[2] + head * from->nb[1]);
  for (int d = 0; d < width; d++) to[d] = source[d];
}

/// Stores one token's keys and values, rotated, and writes its rotated queries.
///
/// dst F32 [N, heads, D] = q. Sources: q [N, heads, D], k and v [N, kv heads, D] (F32, rows may be strided),
/// keys, values, batch table, then the rotary table if R > 0, then two norm weights [D] if normed.
/// Params: R rotary dimensions, how they pair, normed (0/1), epsilon as float bits.
inline void storeKeysValues(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2];
  Half* keys = static_cast<Half*>(dst->src[3]->data);
  Half* values = static_cast<Half*>(dst->src[4]->data);
  Batch batch{static_cast<const int32_t*>(dst->src[5]->data)};
  int rotary = call->params[0], pairsAre = call->params[1];
  bool normed = call->params[2] != 0;
  float epsilon = floatParam(call, 3);
  const float* table = rotary > 0 ? static_cast<const float*>(dst->src[6]->data) : nullptr;
  ggml_tensor* const* norms = dst->src + (rotary > 0 ? 7 : 6);
  const float* queryNorm = normed ? static_cast<const float*>(norms[0]->data) : nullptr;
  const float* keyNorm = normed ? static_cast<const float*>(norms[1]->data) : nullptr;
  int width = int(q->ne[0]), heads = int(q->ne[1]), bt = batch.blockTokens();
  CacheShape cache{int(k->ne[1]), width, bt};
  float* head = reinterpret_cast<float*>(rw_thread_scratch(alignUp(size_t(width) * 4)));
  // Neighbouring positions share cache lines of the key block, so a piece is a run of rows.
  constexpr int pieceRows = 8;
  for (int piece; (piece = takePiece(call)) * pieceRows < batch.rows();) {
    for (int row = piece * pieceRows; row < batch.rows() && row < (piece + 1) * pieceRows; row++) {
      Sequence sequence = batch.sequenceOf(row);
      int position = sequence.start + row - sequence.row;
      const float* angles = table ? table + size_t(row) * rotary : nullptr;
      for (int h = 0; h < heads; h++) {
        float* to = static_cast<float*>(dst->data) + (size_t(row) * heads + h) * width;
        copyHead(to, q, row, h, width);
        if (normed) normHead(to, queryNorm, width, epsilon);
        if (angles) rotateHead(to, angles, rotary, pairsAre);
      }
      for (int h = 0; h < cache.kvHeads; h++) {
        size_t at = cache.block(sequence.blocks[position / bt]) + cache.head(h);
        copyHead(head, k, row, h, width);
        if (normed) normHead(head, keyNorm, width, epsilon);
        if (angles) rotateHead(head, angles, rotary, pairsAre);
        for (int d = 0; d < width; d++) keys[at + size_t(d) * bt + position % bt] = floatToHalf(head[d]);
        copyHead(head, v, row, h, width);
        for (int d = 0; d < width; d++) values[at + size_t(position % bt) * width + d] = floatToHalf(head[d]);
      }
    }
  }
  leave(call, nth);
}

}  // namespace
