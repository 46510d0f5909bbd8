// The ops of one instruction set. Each isa_*.cpp compiles the same headers with its own flags and exports
// one table, in two files so that both are compiled at once; library.cpp picks a table at run time.
#pragma once

#include "call.h"
#include "tensor.h"

struct NamedOp {
  const char* name;
  CustomOp op;
};

struct TrainingOps {
  NamedOp ops[32];
};

struct Kernels {
  const char* name;
  NamedOp ops[40];
  const Kernels* beneath;       // whose ops serve where there are none of its own; null for none
  const TrainingOps* training;
  /// See packed.h.
  void (*packRows)(int format, char* packed, int64_t inputs, int64_t firstRow, int64_t rows, int type,
                   const char* source, int64_t sourceRowBytes, int interleave);
};

// AMX has products and attention of training only; for all else it is AVX-512.
extern const Kernels kernelsAmx;
// The same code on emulated tiles, for tests.
extern const Kernels kernelsAmxEmulated;
extern const Kernels kernelsPortable;
extern const Kernels kernelsAvx2;
// AVX2 with VNNI: products of codes, the same to the bit.
extern const Kernels kernelsAvxVnni;
extern const Kernels kernelsAvx512;
extern const Kernels kernelsNeon;
// The same to the bit, by instructions for products of bytes (ARMv8.2 and later).
extern const Kernels kernelsNeonDot;

extern const TrainingOps trainingPortable;
extern const TrainingOps trainingAvx2;
extern const TrainingOps trainingAvx512;
extern const TrainingOps trainingNeon;
extern const TrainingOps trainingNeonDot;

/// The op of that name, its own or one from beneath; null where there is none.
static inline CustomOp opNamed(const Kernels& kernels, const char* name) {
  for (const NamedOp& entry : kernels.ops)
    if (entry.name && __builtin_strcmp(entry.name, name) == 0) return entry.op;
  if (kernels.training)
    for (const NamedOp& entry : kernels.training->ops)
      if (entry.name && __builtin_strcmp(entry.name, name) == 0) return entry.op;
  return kernels.beneath ? opNamed(*kernels.beneath, name) : nullptr;
}
