// The ops of one instruction set. Each isa_*.cpp compiles the same headers with its own flags and exports
// one table; library.cpp picks a table at run time.
#pragma once

#include "call.h"
#include "tensor.h"

struct Kernels {
  const char* name;
  int lanes;
  struct {
    const char* name;
    CustomOp op;
  } ops[16];
};

extern const Kernels kernelsPortable;
extern const Kernels kernelsAvx2;
extern const Kernels kernelsAvx512;
