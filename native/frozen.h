// Weights that training reads and never changes, as the right side of its products. They stay as files have them, bf16,
// half floats, Q8_0 or Q4_0, and become numbers on their way into strips: a whole product reads each strip, so that
// costs little, and nothing is kept of it.
//
// Forward the sum runs along a stored row, on the way back across the rows; either way neighbours of one row are read.
#pragma once

#include "matmul_pack.h"
#include "source.h"

namespace {

/// `numbers` reads up to `lanes` of a row from `index` on, which is a multiple of them, then zeros.
struct FrozenBF16 {
  static Vector numbers(const char* row, size_t index, int count) {
    const Half* from = reinterpret_cast<const Half*>(row) + index;
    typedef Half Halves __attribute__((vector_size(lanes * 2)));
    Halves halves = {};
    if (count >= lanes) __builtin_memcpy(&halves, from, sizeof halves);
    else __builtin_memcpy(&halves, from, count * sizeof(Half));
    return (Vector)(__builtin_convertvector(halves, VectorInt) << 16);
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
};

/// The right side of a product: a matrix that changes, or a frozen weight.
struct RightSide {
  const ggml_tensor* tensor;
  bool transposed;
  size_t rows;

  RightSide(const ggml_tensor* tensor, bool transposed)
      : tensor(tensor), transposed(transposed), rows(tensor->ne[transposed ? 0 : 1]) {}

  bool rowsAreNeighbours() const {
    return tensor->type == sourceF32 ? Matrix::of(tensor, transposed).rowsAreNeighbours() : transposed;
  }

  template <class Lanes, size_t width>
  void pack(const Strips& strips) const {
    switch (tensor->type) {
      case sourceBF16: return packStrips<Lanes, width>(FrozenMatrix<FrozenBF16>::of(tensor, transposed), strips);
      case sourceF16: return packStrips<Lanes, width>(FrozenMatrix<FrozenF16>::of(tensor, transposed), strips);
      case sourceQ8_0: return packStrips<Lanes, width>(FrozenMatrix<FrozenQ8>::of(tensor, transposed), strips);
      case sourceQ4_0: return packStrips<Lanes, width>(FrozenMatrix<FrozenQ4>::of(tensor, transposed), strips);
      default: return packStrips<Lanes, width>(Matrix::of(tensor, transposed), strips);
    }
  }
};

}  // namespace
