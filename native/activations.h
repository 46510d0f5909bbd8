// Activations of training and their slopes, a vector at a time.
#pragma once

#include "simd.h"

namespace {

/// 1 / (1 + exp(-x)).
inline Vector sigmoid(Vector x) {
  Vector bounded = x < splat(-87.0f) ? splat(-87.0f) : x > splat(87.0f) ? splat(87.0f) : x;
  return splat(1.0f) / (splat(1.0f) + exponential(-bounded));
}

/// GELU's 2u = x (linear + cubic x^2) in the tanh form: gelu(x) = x sigmoid(2u).
constexpr float geluLinear = 1.5957691216057308f, geluCubic = 0.07135481627362134f;

inline Vector gelu(Vector x) { return x * sigmoid(x * fma(splat(geluCubic) * x, x, splat(geluLinear))); }

inline Vector geluSlope(Vector x) {
  Vector square = x * x;
  Vector gate = sigmoid(x * fma(splat(geluCubic), square, splat(geluLinear)));
  Vector inner = fma(splat(3 * geluCubic), square, splat(geluLinear));
  return fma(x * gate * (splat(1.0f) - gate), inner, gate);
}

}  // namespace
