// What the memory gives to code that only reads, and the arithmetic to code that only multiplies: the measures for
// every op that is bound by one of them.
#pragma once

#include "call.h"
#include "codes.h"
#include "simd.h"
#include "tensor.h"

namespace {

/// dst I32 [1] holds something that depends on every byte. Sources: a tensor of a multiple of 256 bytes.
inline void readBytes(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  const ggml_tensor* from = dst->src[0];
  size_t bytes = from->nb[3] * from->ne[3];
  constexpr size_t piece = size_t(1) << 18;
  constexpr int streams = 256 / (lanes * 4);
  VectorInt seen[streams] = {};
  for (size_t at; (at = size_t(takePiece(call)) * piece) < bytes;) {
    const char* memory = static_cast<const char*>(from->data) + at;
    for (size_t i = 0; i < piece && at + i < bytes; i += 256)
      for (int s = 0; s < streams; s++) seen[s] ^= (VectorInt)load(reinterpret_cast<const float*>(memory + i) + s * lanes);
  }
  int32_t all = 0;
  for (int s = 0; s < streams; s++)
    for (int l = 0; l < lanes; l++) all ^= seen[s][l];
  __atomic_fetch_xor(static_cast<int32_t*>(dst->data), all, __ATOMIC_RELAXED);
  leave(call, nth);
}

/// Byte products of one piece, whatever the instruction set.
constexpr int pieceChains = 12, pieceProducts = pieceChains * 64 * 4096;

/// dst I32 [1] holds something that depends on every product. Sources: 64 bytes or more. Params: pieces, each of
/// 3,145,728 products of bytes in registers, by vectors (not by tiles).
inline void multiplyBytes(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  Bytes codes = loadBytes(static_cast<const char*>(dst->src[0]->data));
  VectorInt activations = (VectorInt)codes & 0x3f3f3f3f, sum[pieceChains] = {};
  for (int32_t piece; (piece = takePiece(call)) < call->params[0];)
    for (int i = 0; i < pieceProducts / pieceChains / (lanes * 4); i++)
#pragma GCC unroll 12
      for (int c = 0; c < pieceChains; c++) {
#if defined(__SSE2__) && !defined(ROPEWAY_SUMS_OF_BYTES)
        // Where products and sums are instructions of their own, compilers would multiply once and add that up.
        asm("" : "+x"(codes));
#endif
        sum[c] = dotBytes<false>(sum[c], codes, activations);
      }
  int32_t all = 0;
  for (int c = 0; c < pieceChains; c++)
    for (int l = 0; l < lanes; l++) all ^= sum[c][l];
  __atomic_fetch_xor(static_cast<int32_t*>(dst->data), all, __ATOMIC_RELAXED);
  leave(call, nth);
}

}  // namespace
