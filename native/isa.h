// The whole library for the instruction set of the including file, as one table.
#pragma once

#include "attention.h"
#include "cache.h"
#include "choose.h"
#include "kernels.h"
#include "linear_coded.h"
#include "linear_float.h"
#include "matmul.h"
#include "read.h"
#include "train_attention.h"
#include "train_elements.h"
#include "train_loss.h"
#include "train_norms.h"
#include "train_rope.h"
#include "train_rows.h"

#if defined(ROPEWAY_LEFT_OUT)
// The compiler does not know these instructions: the table is there, but offers nothing.
#define ROPEWAY_TABLE(variable, text) extern const Kernels variable = {text, {}, nullptr}
#else
#define ROPEWAY_TABLE(variable, text)                                \
  extern const Kernels variable = {                                  \
      text,                                                          \
      {                                                              \
          {"rope_table", ropeTable},                                 \
          {"store_keys_values", storeKeysValues},                    \
          {"paged_attention", pagedAttention},                       \
          {"linear_q8", linear<CodedProduct<Q8Codes>>},              \
          {"linear_q4", linear<CodedProduct<Q4Codes>>},              \
          {"linear_q5", linear<CodedProduct<Q5Codes>>},              \
          {"linear_q4s", linear<CodedProduct<Q4SCodes>>},            \
          {"linear_q5s", linear<CodedProduct<Q5SCodes>>},            \
          {"linear_q4k", linear<CodedProduct<Q4KCodes>>},            \
          {"linear_q5k", linear<CodedProduct<Q5KCodes>>},            \
          {"linear_q6k", linear<CodedProduct<Q6KCodes>>},            \
          {"linear_f16", linear<FloatProduct<F16Weights>>},          \
          {"linear_bf16", linearBF16},                               \
          {"linear_f32", linear<FloatProduct<F32Weights>>},          \
          {"embed", embed},                                          \
          {"matmul_f32", matmul<FloatTiles<FloatLanes>>},          \
          {"matmul_bf16", matmulBF16},                               \
          {"causal_attention", causalAttention},                     \
          {"causal_attention_back", causalAttentionBack},            \
          {"gelu", geluRows},                                        \
          {"gelu_back", geluBack},                                   \
          {"silu_mul_back", siluMulBack},                            \
          {"norm", normRows},                                        \
          {"norm_back", normBack},                                   \
          {"norm_weight_back", normWeightBack},                      \
          {"sum_over_rows", sumOverRows},                            \
          {"adamw", adamwStep},                                      \
          {"elementwise", elementwise},                              \
          {"affine", affineRows},                                    \
          {"silu_mul", siluMulRows},                                 \
          {"packed", packedRows},                                    \
          {"gather_rows", gatherRows},                               \
          {"scatter_rows", scatterRows},                             \
          {"chosen_shares", chosenShares},                           \
          {"shares_back", sharesBack},                               \
          {"rope_angles", ropeAngles},                               \
          {"rope", ropeRows},                                        \
          {"square_sum", squareSum},                                 \
          {"argmax", argmaxRows},                                    \
          {"read_bytes", readBytes},                                 \
          {"multiply_bytes", multiplyBytes},                         \
      },                                                             \
      packRows,                                                      \
  }
#endif
