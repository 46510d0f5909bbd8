// What the memory gives to code that only reads: the measure for every op that is bound by it.
#pragma once

#include "call.h"
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

}  // namespace
