// How a factor of a training product gets from where it lies into the order in which tiles read it.
//
// A factor is cut into strips of neighbouring rows. A strip is [steps][rows of the strip] lanes of 32 bits; a lane
// holds what one multiplication takes of a row: a float, or two neighbouring bfloat16. Both sides of a product lie
// like this, so a tile reads two streams from front to back.
#pragma once

#include "packed.h"
#include "tensor.h"

namespace {

/// An F32 matrix of rows, whichever way it lies in memory.
struct Matrix {
  static constexpr bool holdsPairs = false;
  const float* data;
  size_t rows, inputs, rowStride, inputStride;

  static Matrix of(const ggml_tensor* tensor, bool transposed) {
    size_t fast = tensor->nb[0] / 4, slow = tensor->nb[1] / 4;
    const float* data = static_cast<const float*>(tensor->data);
    if (transposed) return {data, size_t(tensor->ne[0]), size_t(tensor->ne[1]), fast, slow};
    return {data, size_t(tensor->ne[1]), size_t(tensor->ne[0]), slow, fast};
  }

  bool rowsAreNeighbours() const { return rowStride == 1; }

  /// One input of `count` neighbouring rows, then zeros; zeros behind the last input.
  Vector across(size_t row, size_t k, int count) const {
    return k < inputs && count >= lanes && rowStride == 1 ? load(data + row + k * inputStride) : acrossEnd(row, k, count);
  }

  /// Neighbouring inputs of one row, then zeros.
  Vector along(size_t row, size_t k) const {
    return k + lanes <= inputs && inputStride == 1 ? load(data + row * rowStride + k) : alongEnd(row, k);
  }

 private:
  __attribute__((noinline)) Vector acrossEnd(size_t row, size_t k, int count) const {
    if (k >= inputs || count <= 0) return zero();
    const float* at = data + row * rowStride + k * inputStride;
    if (rowStride == 1) return load(at, count);
    Vector result = zero();
    for (int i = 0; i < count && i < lanes; i++) result[i] = at[i * rowStride];
    return result;
  }

  __attribute__((noinline)) Vector alongEnd(size_t row, size_t k) const {
    if (k >= inputs) return zero();
    const float* at = data + row * rowStride + k * inputStride;
    int count = inputs - k < size_t(lanes) ? int(inputs - k) : lanes;
    if (inputStride == 1) return load(at, count);
    Vector result = zero();
    for (int i = 0; i < count; i++) result[i] = at[i * inputStride];
    return result;
  }
};

// Lanes of a strip from whatever gives vectors of numbers across rows and along them, as Matrix does.

struct FloatLanes {
  static constexpr size_t inputs = 1;
  template <class From>
  static Vector across(const From& from, size_t row, size_t k, int count) { return from.across(row, k, count); }
  template <class From>
  static Vector along(const From& from, size_t row, size_t k) { return from.along(row, k); }
};

/// Floats of which only bfloat16 is left: what machines without bfloat16 instructions multiply instead.
struct RoundedLanes {
  static constexpr size_t inputs = 1;
  static Vector rounded(Vector x) { return (Vector)(bfloatBits(x) & int32_t(0xffff0000)); }
  template <class From>
  static Vector across(const From& from, size_t row, size_t k, int count) {
    if constexpr (From::holdsPairs) return from.across(row, k, count);
    return rounded(from.across(row, k, count));
  }
  template <class From>
  static Vector along(const From& from, size_t row, size_t k) {
    if constexpr (From::holdsPairs) return from.along(row, k);
    return rounded(from.along(row, k));
  }
};

#if defined(__AVX512F__)

struct PairLanes {
  static constexpr size_t inputs = 2;

#if defined(ROPEWAY_EMULATE_TILES)
  // Runs where the instruction is not, too.
  static Vector across(Vector even, Vector odd) {
    return (Vector)((VectorInt)((VectorUnsigned)bfloatBits(even) >> 16) | (bfloatBits(odd) & int32_t(0xffff0000)));
  }

  static Vector along(Vector first, Vector second) {
    alignas(64) static constexpr uint16_t upperHalves[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                             33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    return (Vector)_mm512_permutex2var_epi16((__m512i)bfloatBits(first), _mm512_load_si512(upperHalves),
                                             (__m512i)bfloatBits(second));
  }
#else
  static Vector across(Vector even, Vector odd) {
    alignas(64) static constexpr uint16_t alternating[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                             8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return (Vector)_mm512_permutexvar_epi16(_mm512_load_si512(alternating), (__m512i)pairsOf(even, odd));
  }

  static Vector along(Vector first, Vector second) { return pairsOf(first, second); }
#endif

  template <class From>
  static Vector across(const From& from, size_t row, size_t k, int count) {
    if constexpr (From::holdsPairs) if (from.rowsAreNeighbours()) return from.pairsAcross(row, k, count);
    return across(from.across(row, k, count), from.across(row, k + 1, count));
  }

  template <class From>
  static Vector along(const From& from, size_t row, size_t k) {
    if constexpr (From::holdsPairs) if (!from.rowsAreNeighbours()) return from.pairsAlong(row, k);
    return along(from.along(row, k), from.along(row, k + lanes));
  }
};

/// Rows become columns.
inline void turn(Vector (&m)[lanes]) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(m[i], m[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(m[i], m[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      __m512d low = (__m512d)a[i + j], high = (__m512d)a[i + j + 2];
      b[i + 2 * j] = (__m512)_mm512_unpacklo_pd(low, high);
      b[i + 2 * j + 1] = (__m512)_mm512_unpackhi_pd(low, high);
    }
  for (int j = 0; j < 4; j++) {
    a[j] = _mm512_shuffle_f32x4(b[j], b[j + 4], 0x88);
    a[j + 4] = _mm512_shuffle_f32x4(b[j], b[j + 4], 0xdd);
    a[j + 8] = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0x88);
    a[j + 12] = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0xdd);
  }
  for (int j = 0; j < 8; j++) {
    m[j] = (Vector)_mm512_shuffle_f32x4(a[j], a[j + 8], 0x88);
    m[j + 8] = (Vector)_mm512_shuffle_f32x4(a[j], a[j + 8], 0xdd);
  }
}

#elif defined(__AVX2__)

/// Rows become columns. A call of it would go through memory.
__attribute__((always_inline)) inline void turn(Vector (&m)[lanes]) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(m[i], m[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(m[i], m[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      __m256d low = (__m256d)a[i + j], high = (__m256d)a[i + j + 2];
      b[i + 2 * j] = (__m256)_mm256_unpacklo_pd(low, high);
      b[i + 2 * j + 1] = (__m256)_mm256_unpackhi_pd(low, high);
    }
  for (int j = 0; j < 4; j++) {
    m[j] = (Vector)_mm256_permute2f128_ps(b[j], b[j + 4], 0x20);
    m[j + 4] = (Vector)_mm256_permute2f128_ps(b[j], b[j + 4], 0x31);
  }
}

#else

/// Rows become columns.
inline void turn(Vector (&m)[lanes]) {
  for (int i = 0; i < lanes; i++)
    for (int j = 0; j < i; j++) {
      float one = m[i][j];
      m[i][j] = m[j][i];
      m[j][i] = one;
    }
}

#endif

/// Strips of `width` rows each, beside one another.
struct Strips {
  size_t first, count;  // first row of the matrix, strips
  size_t begin, end;    // steps
  float* to;
  size_t apart;  // floats from strip to strip
};

/// Rows lie side by side and strips are no whole vectors wide, so that they share lines from step to step: a few steps of one
/// strip after the other, because the same step of all strips meets in few sets of the nearest cache. The next step
/// overwrites what a vector has too much.
template <class Lanes, size_t width, class From>
inline void packAcrossByStrip(const From& from, const Strips& strips) {
  constexpr size_t whole = (width + lanes - 1) / lanes * lanes, stretch = 16;
  for (size_t begin = strips.begin; begin < strips.end; begin += stretch)
    for (size_t strip = 0; strip < strips.count; strip++) {
      size_t row = strips.first + strip * width, left = row < from.rows ? from.rows - row : 0;
      size_t step = begin, end = begin + stretch < strips.end ? begin + stretch : strips.end;
      int rows = int(left < width ? left : width);
      float* to = strips.to + strip * strips.apart + (begin - strips.begin) * width;
      if (left >= whole)
        for (; step + 1 < end; step++, to += width)
          for (size_t column = 0; column < whole; column += lanes)
            store(to + column, Lanes::across(from, row + column, step * Lanes::inputs, lanes));
      for (; step < end; step++, to += width)
        for (int column = 0; column < int(width); column += lanes)
          store(to + column, Lanes::across(from, row + column, step * Lanes::inputs, rows - column), int(width) - column);
    }
}

/// Rows lie side by side: whole lines of memory are read, a step after the other.
template <class Lanes, size_t width, class From>
inline void packAcross(const From& from, const Strips& strips) {
  for (size_t step = strips.begin; step < strips.end; step++)
    for (size_t strip = 0; strip < strips.count; strip++) {
      size_t row = strips.first + strip * width;
      int rows = row >= from.rows ? 0 : from.rows - row < width ? int(from.rows - row) : int(width);
      float* to = strips.to + strip * strips.apart + (step - strips.begin) * width;
      for (int column = 0; column < int(width); column += lanes)
        store(to + column, Lanes::across(from, row + column, step * Lanes::inputs, rows - column),
              int(width) - column < lanes ? int(width) - column : lanes);
    }
}

/// Inputs lie side by side: squares of them are turned in registers. From the last columns to the first, so that what a
/// vector has too much is overwritten by the next step, as above; only the last step is held to its width.
template <class Lanes, size_t width, class From>
inline void packAlong(const From& from, const Strips& strips) {
  static_assert(2 * width >= lanes, "a whole vector must end within the next step");
  for (size_t strip = 0; strip < strips.count; strip++)
    for (int column = (int(width) - 1) / lanes * lanes; column >= 0; column -= lanes) {
      size_t row = strips.first + strip * width + column;
      int wide = int(width) - column < lanes ? int(width) - column : lanes;
      int rows = row >= from.rows ? 0 : from.rows - row < size_t(wide) ? int(from.rows - row) : wide;
      float* to = strips.to + strip * strips.apart + column;
      for (size_t step = strips.begin; step < strips.end; step += lanes) {
        Vector block[lanes];
        for (int r = 0; r < lanes; r++) block[r] = r < rows ? Lanes::along(from, row + r, step * Lanes::inputs) : zero();
        turn(block);
        float* square = to + (step - strips.begin) * width;
        if (step + lanes < strips.end)
          for (int i = 0; i < lanes; i++) store(square + i * width, block[i]);
        else
          for (int i = 0; i < lanes && step + i < strips.end; i++) store(square + i * width, block[i], wide);
      }
    }
}

/// Zeros stand behind the last row and the last input.
template <class Lanes, size_t width, class From>
inline void packStrips(const From& from, const Strips& strips) {
  constexpr bool shareLines = width % lanes != 0;
  if (from.rowsAreNeighbours() && shareLines) packAcrossByStrip<Lanes, width>(from, strips);
  else if (from.rowsAreNeighbours()) packAcross<Lanes, width>(from, strips);
  else packAlong<Lanes, width>(from, strips);
}

}  // namespace
