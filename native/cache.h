// Rotary positions (Su 2021) and the write into the paged cache, in one pass over a layer's q, k and v.
#pragma once

#include "batch.h"
#include "call.h"
#include "packed.h"
#include "simd.h"
#include "tensor.h"

// libm, without <cmath>: see call.h about functions that are compiled once per instruction set.
extern "C" double sin(double);
extern "C" double cos(double);

namespace {

/// Neighbouring positions share cache lines of the key block, so a piece is a run of rows; of many rows as long as most blocks
/// are, as prompts fill them: two threads in one block take its lines from each other.
inline int pieceRowsOf(int rows) { return rows >= 64 ? 16 : 8; }

/// Cosines of the angles of all pairs at a position, then sines, both times a factor; `sign` -1 turns backwards.
inline void writeAngles(float* to, const float* perPosition, int pairs, int position, float factor, float sign) {
  for (int i = 0; i < pairs; i++) {
    double angle = double(position) * double(perPosition[i]);
    to[i] = float(cos(angle)) * factor;
    to[pairs + i] = float(sin(angle)) * factor * sign;
  }
}

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
  const int pieceRows = pieceRowsOf(batch.rows());
  for (int piece; (piece = takePiece(call)) * pieceRows < batch.rows();) {
    for (int row = piece * pieceRows; row < batch.rows() && row < (piece + 1) * pieceRows; row++) {
      Sequence sequence = batch.sequenceOf(row);
      float* to = static_cast<float*>(dst->data) + size_t(row) * 2 * pairs;
      writeAngles(to, frequency, pairs, sequence.start + row - sequence.row, factor, 1);
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
  int pairs = rotary / 2;
  if (pairsAre == neighbours) {
    for (int i = 0; i < pairs; i++) {
      float c = table[i], s = table[pairs + i], x = head[2 * i], y = head[2 * i + 1];
      head[2 * i] = x * c - y * s;
      head[2 * i + 1] = x * s + y * c;
    }
    return;
  }
  for (int i = 0; i < pairs; i += lanes) {
    int left = pairs - i;
    Vector c = load(table + i, left), s = load(table + pairs + i, left);
    Vector x = load(head + i, left), y = load(head + pairs + i, left);
    store(head + i, x * c - y * s, left);
    store(head + pairs + i, x * s + y * c, left);
  }
}

inline void copyHead(float* to, const ggml_tensor* from, int row, int head, int width) {
  const float* source =
      reinterpret_cast<const float*>(static_cast<const char*>(from->data) + row * from->nb[2] + head * from->nb[1]);
  for (int d = 0; d < width; d++) to[d] = source[d];
}

/// A head's numbers as the cache has them, where it has halves or bfloat16; writes up to a whole vector.
inline void narrowHead(int format, const float* head, int width, Half* to) {
  for (int d = 0; d < width; d += lanes) {
    const Vector x = load(head + d, width - d);
    const Halves narrow = format == cacheBF16 ? bfloatsOf(x) : halvesOf(x);
    __builtin_memcpy(to + d, &narrow, sizeof narrow);
  }
}

/// Puts one head of one token into its part of a block, at token `inside`: batch.h has the layouts. `narrow` is what narrowHead
/// made of it.
inline void storeKey(const CacheShape& cache, char* part, int inside, const float* head, const Half* narrow) {
  int width = cache.width, tokens = cache.blockTokens;
  if (cache.format == cacheQ8) {
    int group = cache.groupWidth();
    Half* scales = reinterpret_cast<Half*>(part + cache.codeBytes());
    for (int g = 0; g < cache.groups(); g++) {
      float inverse;
      scales[g * tokens + inside] = codeScale(head + g * group, group, &inverse);
      for (int d = g * group; d < (g + 1) * group; d++) part[size_t(d) * tokens + inside] = char(codeOf(head[d], inverse));
    }
    return;
  }
  Half* keys = reinterpret_cast<Half*>(part);
  if (cache.format == cacheF16) {
    for (int d = 0; d < width; d++) keys[size_t(d) * tokens + inside] = narrow[d];
    return;
  }
  // A cache in bfloat16 has heads of even width.
  for (int d = 0; d < width; d += 2) __builtin_memcpy(keys + (size_t(d / 2) * tokens + inside) * 2, narrow + d, 4);
}

inline void storeValue(const CacheShape& cache, char* part, int inside, const float* head, const Half* narrow) {
  int width = cache.width;
  if (cache.format == cacheQ8) {
    int group = cache.groupWidth();
    Half* scales = reinterpret_cast<Half*>(part + cache.codeBytes()) + size_t(inside) * cache.groups();
    for (int g = 0; g < cache.groups(); g++) {
      float inverse;
      scales[g] = codeScale(head + g * group, group, &inverse);
      for (int d = g * group; d < (g + 1) * group; d++) part[size_t(inside) * width + d] = char(codeOf(head[d], inverse));
    }
    return;
  }
  Half* values = reinterpret_cast<Half*>(part);
  if (cache.format == cacheF16) {
    __builtin_memcpy(values + size_t(inside) * width, narrow, size_t(width) * 2);
    return;
  }
  values += size_t(inside / 2) * width * 2;
  int d = 0;
#if defined(__AVX512BW__)
  // Another thread may write the other token of each pair.
  for (; d + lanes <= width; d += lanes) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(narrow + d)));
    if (inside % 2) _mm512_mask_storeu_epi16(values + 2 * d, 0xaaaaaaaau, _mm512_slli_epi32(wide, 16));
    else _mm512_mask_storeu_epi16(values + 2 * d, 0x55555555u, wide);
  }
#endif
  for (; d < width; d++) values[2 * d + inside % 2] = narrow[d];
}

/// What is done to queries and keys on the way.
struct Turn {
  const float* table;  // [N][R] of rope_table, or null
  int rotary, pairsAre;
  const float *queryNorm, *keyNorm;  // or null
  float epsilon;

  void apply(float* head, const float* norm, int row, int width) const {
    if (norm) normHead(head, norm, width, epsilon);
    if (table) rotateHead(head, table + size_t(row) * rotary, rotary, pairsAre);
  }
};

/// Stores one token's keys and values, rotated, and writes its rotated queries.
///
/// dst F32 [N, heads, D] = q. Sources: q [N, heads, D], k and v [N, kv heads, D] (F32, rows may be strided),
/// cache, batch table, then the rotary table if R > 0, then two norm weights [D] if normed.
/// Params: R rotary dimensions, how they pair, normed (0/1), epsilon as float bits, format of the cache.
inline void storeKeysValues(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2];
  char* memory = static_cast<char*>(dst->src[3]->data);
  Batch batch{static_cast<const int32_t*>(dst->src[4]->data)};
  int rotary = call->params[0];
  ggml_tensor* const* extra = dst->src + 5;
  Turn turn{nullptr, rotary, call->params[1], nullptr, nullptr, floatParam(call, 3)};
  if (rotary > 0) turn.table = static_cast<const float*>((*extra++)->data);
  if (call->params[2]) {
    turn.queryNorm = static_cast<const float*>(extra[0]->data);
    turn.keyNorm = static_cast<const float*>(extra[1]->data);
  }
  int width = int(q->ne[0]), heads = int(q->ne[1]), bt = batch.blockTokens();
  CacheShape cache{int(k->ne[1]), width, bt, call->params[4]};
  const size_t headBytes = alignUp(size_t(width) * 4);
  float* head = reinterpret_cast<float*>(rw_thread_scratch(headBytes + alignUp(size_t(width + lanes) * 2)));
  Half* narrow = reinterpret_cast<Half*>(reinterpret_cast<char*>(head) + headBytes);
  const bool narrows = cache.format != cacheQ8;
  const int pieceRows = pieceRowsOf(batch.rows());
  for (int piece; (piece = takePiece(call)) * pieceRows < batch.rows();) {
    for (int row = piece * pieceRows; row < batch.rows() && row < (piece + 1) * pieceRows; row++) {
      Sequence sequence = batch.sequenceOf(row);
      int position = sequence.start + row - sequence.row, inside = position % bt;
      for (int h = 0; h < heads; h++) {
        float* to = static_cast<float*>(dst->data) + (size_t(row) * heads + h) * width;
        copyHead(to, q, row, h, width);
        turn.apply(to, turn.queryNorm, row, width);
      }
      for (int h = 0; h < cache.kvHeads; h++) {
        char* keys = memory + cache.at(sequence.blocks[position / bt], h);
        copyHead(head, k, row, h, width);
        turn.apply(head, turn.keyNorm, row, width);
        if (narrows) narrowHead(cache.format, head, width, narrow);
        storeKey(cache, keys, inside, head, narrow);
        copyHead(head, v, row, h, width);
        if (narrows) narrowHead(cache.format, head, width, narrow);
        storeValue(cache, keys + cache.valuesBehind(), inside, head, narrow);
      }
    }
  }
  leave(call, nth);
}

}  // namespace
