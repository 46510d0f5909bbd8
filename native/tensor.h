// The part of ggml's tensor that a custom op reads (ggml.h, struct ggml_tensor, ggml 0.9 to 0.25).
//
// ggml is not compiled with us, so the layout is restated here and checked against the loaded library
// by test/native/layout.test.ts. Every field has the same offset on all 64-bit platforms.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" struct ggml_tensor {
  int32_t type;
  void* buffer;
  int64_t ne[4];  // elements per dimension, the fastest first
  size_t nb[4];   // bytes between neighbours in each dimension
  int32_t op;
  int32_t op_params[16];
  int32_t flags;
  ggml_tensor* src[10];
  ggml_tensor* view_src;
  size_t view_offs;
  void* data;
  char name[64];
  void* extra;
};

static_assert(offsetof(ggml_tensor, ne) == 16, "ggml tensor layout");
static_assert(offsetof(ggml_tensor, op) == 80, "ggml tensor layout");
static_assert(offsetof(ggml_tensor, src) == 152, "ggml tensor layout");
static_assert(offsetof(ggml_tensor, data) == 248, "ggml tensor layout");

// Without a name: files of several instruction sets include this, and a linker would keep one of their copies.
namespace {
inline float* floatsOf(const ggml_tensor* x) { return static_cast<float*>(x->data); }
}  // namespace

typedef void (*CustomOp)(ggml_tensor* dst, int ith, int nth, void* userdata);
