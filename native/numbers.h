// Activations and their gradients as training keeps them: in F32, or in BF16 where nobody but products reads them, which
// round them anyway.
#pragma once

#include "packed.h"
#include "source.h"
#include "tensor.h"

namespace {

/// Rounds to nearest, ties to even; by the instruction for it where the CPU has that. Numbers below the smallest normal
/// one may become zero: products take them for that.
inline void storeBfloat(Half* to, Vector value, int count, [[maybe_unused]] bool byInstruction) {
#if defined(__AVX512F__)
  __m256i halves;
  if (byInstruction) asm("vcvtneps2bf16 %1, %0" : "=v"(halves) : "v"(value));
  else halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)bfloatBits(value), 16));
  if (count >= lanes) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), halves);
  else _mm256_mask_storeu_epi16(to, __mmask16((1u << count) - 1), halves);
#else
  const Halves halves = bfloatsOf(value);
  // A copy of a length that is not known would be a call.
  if (count >= lanes) __builtin_memcpy(to, &halves, sizeof halves);
  else __builtin_memcpy(to, &halves, count * sizeof(Half));
#endif
}

inline Vector loadBfloat(const Half* from, int count) {
  if (count >= lanes) return loadBfloat(from);
  Halves halves = {};
  __builtin_memcpy(&halves, from, count * sizeof(Half));
  return (Vector)(__builtin_convertvector(halves, VectorInt) << 16);
}

/// The numbers of a tensor without gaps.
struct Numbers {
  char* data;
  bool narrow, byInstruction;

  explicit Numbers(const ggml_tensor* x)
      : data(static_cast<char*>(x->data)), narrow(x->type == sourceBF16), byInstruction(narrow && multipliesPairs()) {}

  size_t bytes() const { return narrow ? 2 : 4; }
  char* at(size_t index) const { return data + index * bytes(); }

  Vector load(size_t index, int count) const {
    return narrow ? loadBfloat(reinterpret_cast<const Half*>(at(index)), count) : ::load(reinterpret_cast<const float*>(at(index)), count);
  }

  void store(size_t index, Vector value, int count) const {
    if (narrow) storeBfloat(reinterpret_cast<Half*>(at(index)), value, count, byInstruction);
    else ::store(reinterpret_cast<float*>(at(index)), value, count);
  }

  /// Two vectors side by side, past the caches: at an aligned place.
  void storePast(size_t index, Vector first, Vector second) const {
    float* to = reinterpret_cast<float*>(at(index));
    if (!narrow) return ::storePast(to, first), ::storePast(to + lanes, second);
#if defined(__AVX512F__)
    if (byInstruction) return ::storePast(to, pairsOf(first, second));
#endif
    store(index, first, lanes), store(index + lanes, second, lanes);
  }

  /// Two vectors side by side.
  void store(size_t index, Vector first, Vector second, int count) const {
#if defined(__AVX512F__)
    if (byInstruction && count >= 2 * lanes) return ::store(reinterpret_cast<float*>(at(index)), pairsOf(first, second));
#endif
    if (!narrow && count >= 2 * lanes) {
      float* to = reinterpret_cast<float*>(at(index));
      return ::store(to, first), ::store(to + lanes, second);
    }
    store(index, first, count);
    if (count > lanes) store(index + lanes, second, count - lanes);
  }

  void storeRow(size_t index, const float* from, size_t count) const {
    if (!narrow) __builtin_memcpy(at(index), from, count * 4);
    else
      for (size_t i = 0; i < count; i += lanes) store(index + i, ::load(from + i, int(count - i)), int(count - i));
  }
};

}  // namespace
