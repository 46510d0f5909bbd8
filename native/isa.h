// What serves, for the instruction set of the including file, as one table. isa_training.h has what trains: two halves are
// compiled at once.
#pragma once

#include "attention.h"
#include "cache.h"
#include "choose.h"
#include "experts.h"
#include "kernels.h"
#include "linear_coded.h"
#include "linear_float.h"
#include "read.h"

#if defined(ROPEWAY_LEFT_OUT)
// The compiler does not know these instructions, or nobody asked for them: the table is there, but offers nothing.
#define ROPEWAY_TABLE(variable, text, training) extern const Kernels variable = {text, {}, nullptr, training, nullptr}
#else
#define ROPEWAY_TABLE(variable, text, training)              \
  extern const Kernels variable = {                          \
      text,                                                  \
      {                                                      \
          {"rope_table", ropeTable},                         \
          {"store_keys_values", storeKeysValues},            \
          {"paged_attention", pagedAttention},               \
          {"linear_q8", linear<CodedProduct<Q8Codes>>},      \
          {"linear_q4", linear<CodedProduct<Q4Codes>>},      \
          {"linear_q5", linear<CodedProduct<Q5Codes>>},      \
          {"linear_q4s", linear<CodedProduct<Q4SCodes>>},    \
          {"linear_q5s", linear<CodedProduct<Q5SCodes>>},    \
          {"linear_q4k", linear<CodedProduct<Q4KCodes>>},    \
          {"linear_q5k", linear<CodedProduct<Q5KCodes>>},    \
          {"linear_q6k", linear<CodedProduct<Q6KCodes>>},    \
          {"linear_mx4", linear<CodedProduct<MX4Codes>>},    \
          {"linear_f16", linear<FloatProduct<F16Weights>>},  \
          {"linear_bf16", linearBF16},                       \
          {"linear_f32", linear<FloatProduct<F32Weights>>},  \
          {"route", route},                                  \
          {"experts_q8", experts<CodedProduct<Q8Codes>>},    \
          {"experts_q4", experts<CodedProduct<Q4Codes>>},    \
          {"experts_q5", experts<CodedProduct<Q5Codes>>},    \
          {"experts_q4s", experts<CodedProduct<Q4SCodes>>},  \
          {"experts_q5s", experts<CodedProduct<Q5SCodes>>},  \
          {"experts_q4k", experts<CodedProduct<Q4KCodes>>},  \
          {"experts_q5k", experts<CodedProduct<Q5KCodes>>},  \
          {"experts_q6k", experts<CodedProduct<Q6KCodes>>},  \
          {"experts_mx4", experts<CodedProduct<MX4Codes>>},  \
          {"experts_f16", experts<FloatProduct<F16Weights>>},\
          {"experts_bf16", expertsBF16},                     \
          {"experts_f32", experts<FloatProduct<F32Weights>>},\
          {"mix_experts", mixExperts},                       \
          {"embed", embed},                                  \
          {"argmax", argmaxRows},                            \
          {"read_bytes", readBytes},                         \
          {"multiply_bytes", multiplyBytes},                 \
      },                                                     \
      nullptr,                                               \
      training,                                              \
      packRows,                                              \
  }
#endif
