// What trains, for the instruction set of the including file, as one table.
#pragma once

#include "kernels.h"
#include "matmul.h"
#include "train_attention.h"
#include "train_elements.h"
#include "train_experts.h"
#include "train_loss.h"
#include "train_norms.h"
#include "train_rope.h"
#include "train_rows.h"

#if defined(ROPEWAY_LEFT_OUT)
#define ROPEWAY_TRAINING_TABLE(variable) extern const TrainingOps variable = {}
#else
#define ROPEWAY_TRAINING_TABLE(variable)               \
  extern const TrainingOps variable = {{               \
      {"matmul_f32", matmul<FloatTiles<FloatLanes>>},  \
      {"matmul_bf16", matmulBF16},                     \
      {"matmul_by_expert_f32", matmulByExpert<FloatTiles<FloatLanes>>}, \
      {"matmul_by_expert_bf16", matmulByExpertBF16},   \
      {"mix_experts_back", mixExpertsBack},            \
      {"shares_by_expert_back", sharesByExpertBack},   \
      {"route_back", routeBack},                       \
      {"causal_attention", causalAttention},           \
      {"causal_attention_back", causalAttentionBack},  \
      {"gelu", geluRows},                              \
      {"gelu_back", geluBack},                         \
      {"silu_mul_back", siluMulBack},                  \
      {"norm", normRows},                              \
      {"norm_back", normBack},                         \
      {"norm_weight_back", normWeightBack},            \
      {"sum_over_rows", sumOverRows},                  \
      {"adamw", adamwStep},                            \
      {"elementwise", elementwise},                    \
      {"affine", affineRows},                          \
      {"silu_mul", siluMulRows},                       \
      {"packed", packedRows},                          \
      {"gather_rows", gatherRows},                     \
      {"scatter_rows", scatterRows},                   \
      {"chosen_shares", chosenShares},                 \
      {"shares_back", sharesBack},                     \
      {"rope_angles", ropeAngles},                     \
      {"rope", ropeRows},                              \
      {"square_sum", squareSum},                       \
  }}
#endif
