// What the kernels by AMX tiles take from those for AVX-512, so that it is compiled once.
#pragma once

#include "kernels.h"

/// multiplyPieces (linear.h) of a CodedProduct with an Epilogue.
typedef void (*MultiplyPieces)(Call* call, const void* product, const char* packed, size_t stride, size_t rows,
                               const void* epilogue);

struct VectorCode {
  MultiplyPieces pieces[11];  // by packed format; null where weights lie otherwise for tiles, or nobody asks
  CustomOp causalAttention, causalAttentionBack;
  /// Of pack.h; q8 codes get `bias`.
  void (*packRowsWith)(uint8_t bias, int format, char* packed, int64_t inputs, int64_t firstRow, int64_t rows, int type,
                       const char* source, int64_t sourceRowBytes, int interleave);
};

extern const VectorCode vectorCode;
