// Weights that training reads and never changes, as the right side of its products. They stay as files have them, bf16,
// half floats, Q8_0 or Q4_0, and become numbers on their way into strips: a whole product reads each strip, so that
// costs little, and nothing is kept of it.
//
// Forward the sum runs along a stored row, on the way back across the rows; either way neighbours of one row are read.
#pragma once

#include "matmul_pack.h"
#include "numbers.h"
#include "source.h"

namespace {

/// `numbers` reads up to `lanes` of a row from `index` on, which is a multiple of them, then zeros.
struct FrozenBF16 {
  static Vector numbers(const char* row, size_t index, int count) {
    return loadBfloat(reinterpret_cast<const Half*>(row) + index, count);
  }
};

struct FrozenF16 {
  static Vector numbers(const char* row, size_t index, int count) {
    return loadHalf(reinterpret_cast<const Half*>(row) + index, count);
  }
};

// Rows of whole blocks of 32 numbers hold whole vectors, too.

struct FrozenQ8 {
  static Vector numbers(const char* row, size_t index, int) {
    const char* block = row + index / groupInputs * 34;
    return loadSigned(block + 2 + index % groupInputs) * halfToFloat(readAs<Half>(block));
  }
};

struct FrozenQ4 {
  static Vector numbers(const char* row, size_t index, int) {
    typedef uint8_t Codes __attribute__((vector_size(lanes)));
    const char* block = row + index / groupInputs * 18;
    Codes codes;
    __builtin_memcpy(&codes, block + 2 + index % 16, sizeof codes);
    codes = index % groupInputs < 16 ? codes & 15 : codes >> 4;
    VectorInt values = __builtin_convertvector(codes, VectorInt) - 8;
    return __builtin_convertvector(values, Vector) * halfToFloat(readAs<Half>(block));
  }
};

/// A frozen weight as it lies, or turned: its inputs are then the rows.
template <class Format>
struct FrozenMatrix {
  static constexpr bool holdsPairs = __is_same(Format, FrozenBF16);
  const char* data;
  size_t rows, inputs, storedStride;
  bool turned;

  static FrozenMatrix of(const ggml_tensor* tensor, bool transposed) {
    size_t along = tensor->ne[0], across = tensor->ne[1];
    const char* data = static_cast<const char*>(tensor->data);
    return {data, transposed ? along : across, transposed ? across : along, tensor->nb[1], transposed};
  }

  bool rowsAreNeighbours() const { return turned; }

  Vector across(size_t row, size_t k, int count) const {
    return k >= inputs || count <= 0 ? zero() : Format::numbers(data + k * storedStride, row, count);
  }

  Vector along(size_t row, size_t k) const {
    if (k >= inputs) return zero();
    return Format::numbers(data + row * storedStride, k, inputs - k < size_t(lanes) ? int(inputs - k) : lanes);
  }

#if defined(__AVX512F__)
  /// Two neighbouring inputs of each of `count` rows, of bfloat16.
  Vector pairsAcross(size_t row, size_t k, int count) const {
    if (k >= inputs || count <= 0) return zero();
    __mmask16 some = count >= lanes ? 0xffff : __mmask16((1u << count) - 1);
    const char* at = data + k * storedStride + row * 2;
    __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, at));
    if (k + 1 >= inputs) return (Vector)even;
    __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, at + storedStride));
    return (Vector)_mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
  }

  /// Neighbouring pairs of inputs of one row, of bfloat16.
  Vector pairsAlong(size_t row, size_t k) const {
    if (k >= inputs) return zero();
    __mmask32 some = inputs - k >= 2 * lanes ? 0xffffffff : __mmask32((1ull << (inputs - k)) - 1);
    return (Vector)_mm512_maskz_loadu_epi16(some, data + row * storedStride + k * 2);
  }
#endif
};

/// A side of a product: a matrix that changes, in F32 or BF16, or a frozen weight.
struct Side {
  const ggml_tensor* tensor;
  bool transposed;
  size_t rows, inputs;

  Side(const ggml_tensor* tensor, bool transposed)
      : tensor(tensor), transposed(transposed), rows(tensor->ne[transposed ? 0 : 1]), inputs(tensor->ne[transposed ? 1 : 0]) {}

  bool rowsAreNeighbours() const {
    return tensor->type == sourceF32 ? Matrix::of(tensor, transposed).rowsAreNeighbours() : transposed;
  }

  /// Calls `use` with the matrix that it is.
  template <class Use>
  void as(Use use) const {
    switch (tensor->type) {
      case sourceBF16: return use(FrozenMatrix<FrozenBF16>::of(tensor, transposed));
      case sourceF16: return use(FrozenMatrix<FrozenF16>::of(tensor, transposed));
      case sourceQ8_0: return use(FrozenMatrix<FrozenQ8>::of(tensor, transposed));
      case sourceQ4_0: return use(FrozenMatrix<FrozenQ4>::of(tensor, transposed));
      default: return use(Matrix::of(tensor, transposed));
    }
  }

  template <class Lanes, size_t width>
  void pack(const Strips& strips) const {
    as([&](const auto& matrix) { packStrips<Lanes, width>(matrix, strips); });
  }

  /// Whether a row's inputs are pairs of bfloat16 that can be multiplied where they lie.
  bool liesInPairs() const {
    return tensor->type == sourceBF16 && inputs % 2 == 0 && !transposed && tensor->nb[1] % 4 == 0;
  }

  /// Pairs of a row on from one of its steps, and how far its neighbour is.
  const float* pairsOf(size_t row, size_t step) const {
    return reinterpret_cast<const float*>(static_cast<const char*>(tensor->data) + row * tensor->nb[1]) + step;
  }
  size_t pairsApart() const { return tensor->nb[1] / 4; }
};

}  // namespace
