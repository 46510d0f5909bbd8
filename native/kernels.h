// The ops of one instruction set. Each isa_*.cpp compiles the same headers with its own flags and exports
// one table; library.cpp picks a table at run time.
#pragma once

#include "call.h"
#include "tensor.h"

struct NamedOp {
  const char* name;
  CustomOp op;
};

struct Kernels {
  const char* name;
  NamedOp ops[56];
  /// See packed.h.
  void (*packRows)(int format, char* packed, int64_t inputs, int64_t firstRow, int64_t rows, int type,
                   const char* source, int64_t sourceRowBytes, int interleave);
};

// AMX has products only; for all else it is AVX-512.
extern const Kernels kernelsAmx;
// The same code on emulated tiles, for tests.
extern const Kernels kernelsAmxEmulated;
extern const Kernels kernelsPortable;
extern const Kernels kernelsAvx2;
extern const Kernels kernelsAvx512;
extern const Kernels kernelsNeon;
// The same to the bit, by instructions for products of bytes (ARMv8.2 and later).
extern const Kernels kernelsNeonDot;
