// One vector of floats, `lanes` wide, for the instruction set of the including file.
//
// The arithmetic is GCC's vector extension, which g++ and clang++ both compile for every machine; only
// what the extension cannot say (fused multiply-add, half floats) is written per instruction set.
// Contraction is off in the build, so `a * b + c` is two roundings everywhere and `fma` is one: whether
// the compiler unrolls a loop can then not change a bit.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
// Every arm64 machine has NEON, so the compiler's own macro is there for the portable kernels too.
#if defined(__aarch64__) && !defined(ROPEWAY_PORTABLE)
#define ROPEWAY_NEON
#include <arm_neon.h>
#endif

// One instruction multiplies bytes without a sign by bytes with one and adds four of them up.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#define ROPEWAY_SUMS_OF_BYTES
#endif

#if defined(__AVX512F__)
/// Whether the CPU multiplies pairs of bfloat16 (AVX-512 BF16): Cascade Lake and Ice Lake do not. Of library.cpp.
extern "C" bool rw_pairs_here;
#endif

namespace {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

typedef float Vector __attribute__((vector_size(lanes * 4)));
typedef float VectorUnaligned __attribute__((vector_size(lanes * 4), aligned(4)));
typedef int32_t VectorInt __attribute__((vector_size(lanes * 4)));
typedef uint32_t VectorUnsigned __attribute__((vector_size(lanes * 4)));
typedef uint16_t Half;  // IEEE 754 binary16, as bits

inline Vector load(const float* from) { return *reinterpret_cast<const VectorUnaligned*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<VectorUnaligned*>(to) = value; }
/// Past the caches; `to` is aligned to a whole vector.
inline void storePast(float* to, Vector value) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, value);
#elif defined(__AVX2__)
  _mm256_stream_ps(to, value);
#else
  store(to, value);
#endif
}
/// Behind the last of storePast, before other threads are told.
inline void finishPast() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}
/// Asks for a line, into the second cache: the first one is for what is worked on. g++ takes functions that do nothing
/// but this for functions without effect and drops their calls; the empty asm keeps them.
inline void askForLine(const void* line) {
  __builtin_prefetch(line, 0, 2);
  asm volatile("");
}

/// The same into the first cache, for what is used next.
inline void askForLineNow(const void* line) {
  __builtin_prefetch(line, 0, 3);
  asm volatile("");
}

/// The same for a line that is going to be written.
inline void askToWrite(const void* line) {
  __builtin_prefetch(line, 1, 2);
  asm volatile("");
}

/// At most so many bytes lie together in what backs the memory, whatever this system calls a page.
constexpr size_t pageBytes = 4096;

/// Asks for a line of each page, all at once: where a page lies is found by several reads one after the other (in a virtual
/// machine up to 24), a core finds some eight at a time, and until it has, what asked for a line there does not retire.
inline void findPages(const char* from, size_t bytes) {
  for (size_t at = 0; at < bytes; at += pageBytes) askForLine(from + at);
}

/// Holds a load at its place among the others, wherever its value is used.
inline void keepHere(Vector& value) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(value));
#else
  (void)value;
#endif
}

inline Vector zero() { return Vector{}; }
inline Vector splat(float value) { return value - Vector{}; }
/// `b` where one of them is no number.
inline Vector maximum(Vector a, Vector b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

/// `b` where one of them is no number.
inline Vector minimum(Vector a, Vector b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

inline VectorInt maximum(VectorInt a, VectorInt b) {
#if defined(__AVX512F__)
  return (VectorInt)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (VectorInt)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
  return a > b ? a : b;
#endif
}

/// Bits that order like magnitudes of floats, infinity above all numbers and NaN above that.
inline VectorInt magnitudeBits(Vector x) { return (VectorInt)x & 0x7fffffff; }

/// The nearest integer, ties to even, of numbers below 2^22.
inline VectorInt toNearest(Vector value) {
#if defined(__AVX512F__)
  return (VectorInt)_mm512_cvtps_epi32(value);
#elif defined(__AVX2__)
  return (VectorInt)_mm256_cvtps_epi32(value);
#else
  const Vector magic = splat(12582912.0f);
  return (VectorInt)(value + magic) - (VectorInt)magic;
#endif
}

inline Vector squareRoot(Vector x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#elif defined(ROPEWAY_NEON)
  return (Vector)vsqrtq_f32((float32x4_t)x);
#else
  for (int i = 0; i < lanes; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

inline Vector fma(Vector a, Vector b, Vector c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(ROPEWAY_NEON)
  return (Vector)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif defined(__aarch64__)
  Vector r;
  for (int i = 0; i < lanes; i++) r[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return r;
#else
  return a * b + c;
#endif
}

inline float fma(float a, float b, float c) {
#if defined(__AVX2__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

/// splat(*a) * b + c. The factor is read within the product: a splat of its own takes a part of the pipes that convert
/// and multiply (two conversions and 14 products on a Zen 4: 14.0 cycles, not 16.7). Compilers would share the splat.
/// Where a processor multiplies as often as it reads, reading all factors so leaves no time to read what they multiply: of
/// `spreads(row)` rows by several vectors some have a splat.
inline Vector fmaSpread(const float* a, Vector b, Vector c) {
#if defined(__AVX512F__)
  asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(c) : "v"(b), "m"(*a));
  return c;
#else
  return fma(splat(*a), b, c);
#endif
}

/// Whether a row's factor is read within its products: two of three rows do (12 by two vectors on a Zen 5: 1.12 of the rate
/// of all, and as much as of none; a splat of every row costs more where it takes a pipe).
constexpr bool spreads(int row) { return row % 3 != 2; }

#if defined(__AVX512F__)
inline bool multipliesPairs() { return rw_pairs_here; }

/// Two vectors as one of bfloat16, the first below; only where the CPU has AVX-512 BF16.
inline Vector pairsOf(Vector low, Vector high) {
  Vector pairs;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(pairs) : "v"(high), "v"(low));
  return pairs;
}
/// The same as fmaSpread for pairs of bfloat16, `a` one pair; only where the CPU has AVX-512 BF16.
inline Vector pairsSpread(const float* a, VectorInt b, Vector c) {
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(c) : "v"(b), "m"(*a));
  return c;
}
/// The same with a splat, which several products share.
inline Vector pairsSplat(const float* a, VectorInt b, Vector c) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(b), "v"(splat(*a)));
  return c;
}
#else
inline bool multipliesPairs() { return false; }
#endif

inline float halfToFloat(Half half) {
#if defined(__AVX2__)
  return _cvtsh_ss(half);
#elif defined(ROPEWAY_NEON)
  __fp16 number;
  __builtin_memcpy(&number, &half, sizeof number);
  return number;
#else
  uint32_t sign = uint32_t(half & 0x8000) << 16, rest = half & 0x7fff, bits;
  if (rest >= 0x7c00) bits = sign | 0x7f800000 | (rest & 0x3ff) << 13;
  else {
    // Moved by 112 exponents through a multiplication, which also normalises subnormals.
    uint32_t shifted = rest << 13;
    float value;
    __builtin_memcpy(&value, &shifted, 4);
    value *= 0x1p112f;
    __builtin_memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float result;
  __builtin_memcpy(&result, &bits, 4);
  return result;
#endif
}

typedef Half Halves __attribute__((vector_size(lanes * 2)));

/// Rounds to nearest, ties to even, as the hardware does.
inline Half floatToHalf(float value) {
#if defined(__AVX2__)
  return _cvtss_sh(value, 0);
#elif defined(ROPEWAY_NEON)
  __fp16 number = value;
  Half half;
  __builtin_memcpy(&half, &number, sizeof half);
  return half;
#else
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  uint32_t sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return Half(sign | 0x7e00 | (rest >> 13 & 0x3ff));
  if (rest >= 0x47800000) return Half(sign | 0x7c00);
  if (rest < 0x38800000) {
    // Subnormal or zero: adding 0.5 leaves the rounded value in the lowest bits.
    float magnitude;
    __builtin_memcpy(&magnitude, &rest, 4);
    magnitude += 0.5f;
    __builtin_memcpy(&rest, &magnitude, 4);
    return Half(sign | (rest - 0x3f000000));
  }
  rest += 0xfff + (rest >> 13 & 1);
  return Half(sign | (rest - 0x38000000) >> 13);
#endif
}

#if !defined(__AVX2__) && !defined(ROPEWAY_NEON)
inline VectorInt widen(const Half* from) {
#if defined(__SSE2__)
  return (VectorInt)_mm_unpacklo_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)), __m128i{});
#else
  Halves halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  return (VectorInt)__builtin_convertvector(halves, VectorUnsigned);
#endif
}
#endif

/// Numbers as halves, each as floatToHalf gives it.
inline Halves halvesOf(Vector x) {
#if defined(__AVX512F__)
  return (Halves)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__AVX2__)
  return (Halves)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#else
  Halves halves;
  for (int i = 0; i < lanes; i++) halves[i] = floatToHalf(x[i]);
  return halves;
#endif
}

inline Vector loadHalf(const Half* from) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(ROPEWAY_NEON)
  return (Vector)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
#else
  // The numbers below 2^-14, whose exponent is 0, as the difference of two that are not so small: some machines take a
  // hundred cycles for a product with one.
  constexpr int32_t moved = 112 << 23, smallest = 113 << 23;
  VectorInt bits = widen(from), rest = (bits & 0x7fff) << 13;
  VectorInt normal = rest + moved + ((rest >= 0x7c00 << 13) & moved);
  VectorInt below = (VectorInt)((Vector)(rest + smallest) - (Vector)(VectorInt{} + smallest));
  return (Vector)((rest < 0x400 << 13 ? below : normal) | (bits & 0x8000) << 16);
#endif
}

/// Numbers in bfloat16.
inline Vector loadBfloat(const Half* from) {
#if defined(__AVX512F__)
  return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))), 16);
#elif defined(__AVX2__)
  return (Vector)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))), 16);
#else
  Halves halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  return (Vector)(__builtin_convertvector(halves, VectorUnsigned) << 16);
#endif
}

/// Bytes without and with a sign, as floats.
inline Vector loadUnsigned(const char* from) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#elif defined(ROPEWAY_NEON)
  uint32_t bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  return (Vector)vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes)))));
#elif defined(__SSE2__)
  int32_t bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  return _mm_cvtepi32_ps(_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(bytes), __m128i{}), __m128i{}));
#else
  Vector result;
  for (int i = 0; i < lanes; i++) result[i] = float(uint8_t(from[i]));
  return result;
#endif
}

inline Vector loadSigned(const char* from) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#elif defined(ROPEWAY_NEON)
  uint32_t bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  return (Vector)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(bytes)))));
#elif defined(__SSE2__)
  int32_t bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  __m128i four = _mm_unpacklo_epi8(__m128i{}, _mm_cvtsi32_si128(bytes));
  return _mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(__m128i{}, four), 24));
#else
  Vector result;
  for (int i = 0; i < lanes; i++) result[i] = float(int8_t(from[i]));
  return result;
#endif
}

/// The first `count` elements, then zeros; reads nothing behind them.
inline Vector loadHalf(const Half* from, int count) {
  if (count >= lanes) return loadHalf(from);
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), from));
#else
  Vector result = zero();
  for (int i = 0; i < count; i++) result[i] = halfToFloat(from[i]);
  return result;
#endif
}

/// The first `count` signed bytes, then zeros; reads nothing behind them.
inline Vector loadSigned(const char* from, int count) {
  if (count >= lanes) return loadSigned(from);
  Vector result = zero();
  for (int i = 0; i < count; i++) result[i] = float(int8_t(from[i]));
  return result;
}

inline Vector load(const float* from, int count) {
  if (count >= lanes) return load(from);
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
#elif defined(__AVX2__)
  if (count <= 0) return zero();
  alignas(32) static constexpr int32_t some[2 * lanes] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_maskload_ps(from, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(some + lanes - count)));
#else
  Vector result = zero();
  for (int i = 0; i < count; i++) result[i] = from[i];
  return result;
#endif
}

inline void store(float* to, Vector value, int count) {
  if (count >= lanes) return store(to, value);
#if defined(__AVX512F__)
  return _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), value);
#endif
  for (int i = 0; i < count; i++) to[i] = value[i];
}

/// Sum of all lanes as a tree of halves: the same order at every call.
inline float sumLanes(Vector value) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(value);
#elif defined(__AVX2__)
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#endif
  float part[lanes];
  store(part, value);
  for (int width = lanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) part[i] += part[i + width];
  return part[0];
}

inline int32_t sumLanes(VectorInt value) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)value);
#endif
  int32_t sum = 0;
  for (int l = 0; l < lanes; l++) sum += value[l];
  return sum;
}

inline float maximumLane(Vector value) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(value);
#endif
  float part[lanes];
  store(part, value);
  for (int width = lanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) part[i] = part[i] > part[i + width] ? part[i] : part[i + width];
  return part[0];
}

inline int32_t maximumLane(VectorInt value) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_epi32((__m512i)value);
#endif
  int32_t most = value[0];
  for (int l = 1; l < lanes; l++) most = value[l] > most ? value[l] : most;
  return most;
}

/// `value` in lanes with first <= index < end, `other` elsewhere; indices count from `base`.
inline Vector keepRange(Vector value, int base, int first, int end, float other) {
  VectorInt index;
  for (int i = 0; i < lanes; i++) index[i] = base + i;
  return ((index >= first) & (index < end)) ? value : splat(other);
}

/// 2^x for x <= 127, relative error below 2e-7; exactly 1 at 0, exactly 0 below -126 (also at -infinity). NaN stays NaN.
inline Vector exp2(Vector x) {
#if defined(__AVX512F__)
  Vector f = _mm512_reduce_ps(x, 0);  // what rounding to the nearest integer leaves
#else
  const Vector magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  Vector bounded = maximum(splat(-126.0f), x);
  Vector shifted = bounded + magic;
  Vector f = bounded - (shifted - magic);
#endif
  // Taylor coefficients ln(2)^n / n!; |f| <= 1/2 leaves the next term below 1e-8.
  Vector p = splat(1.5252733804059841e-5f);
  p = fma(p, f, splat(1.5403530393381608e-4f));
  p = fma(p, f, splat(1.3333558146428443e-3f));
  p = fma(p, f, splat(9.6181291076284772e-3f));
  p = fma(p, f, splat(5.5504108664821580e-2f));
  p = fma(p, f, splat(2.4022650695910072e-1f));
  p = fma(p, f, splat(6.9314718055994531e-1f));
  p = fma(p, f, splat(1.0f));
#if defined(__AVX512F__)
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, splat(-126.0f), _CMP_NLT_UQ), p, x - f);
#else
  VectorUnsigned exponent = (VectorUnsigned)shifted << 23;  // the magic's own low bits are zero
  Vector result = (Vector)((VectorUnsigned)p + exponent);
  return x < splat(-126.0f) ? zero() : result;
#endif
}

inline float exp2(float x) { return exp2(splat(x))[0]; }

constexpr float log2e = 1.44269504088896341f;

/// e^x for |x| <= 87, to the last bit but one: what is left of x beside n ln 2 is kept exactly (Cody and Waite 1980).
inline Vector exponential(Vector x) {
  const Vector magic = splat(12582912.0f);
  Vector shifted = fma(x, splat(log2e), magic), n = shifted - magic;
  Vector r = fma(n, splat(-6.93359375e-1f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  Vector p = splat(1.98412698e-4f);
  p = fma(p, r, splat(1.38888889e-3f));
  p = fma(p, r, splat(8.33333333e-3f));
  p = fma(p, r, splat(4.16666667e-2f));
  p = fma(p, r, splat(1.66666667e-1f));
  p = fma(p, r, splat(5.0e-1f));
  p = fma(p * r, r, r) + 1.0f;
  VectorUnsigned exponent = (VectorUnsigned)shifted << 23;
  return (Vector)((VectorUnsigned)p + exponent);
}

/// 1 / x of an x between 1 and 2^126: half the time of a division where there are 16 lanes. At most 2 units in the last place off.
inline Vector inverse(Vector x) {
#if defined(__AVX512F__)
  const Vector near = _mm512_rcp14_ps(x);
  return fma(near, fma(-x, near, splat(1.0f)), near);
#else
  return splat(1.0f) / x;
#endif
}

/// x * sigmoid(x) (Elfwing 2017).
inline Vector silu(Vector x) {
  Vector exponent = x * -log2e;
  exponent = exponent < splat(126.0f) ? exponent : splat(126.0f);
  return x * inverse(splat(1.0f) + exp2(exponent));
}

/// gpt-oss's gate: x sigmoid(1.702 x) (up + 1), where x is at most `limit` and up at most that far from 0 (Agarwal 2025).
inline Vector clampedGate(Vector x, Vector up, float limit) {
  x = minimum(splat(limit), x);
  up = maximum(splat(-limit), minimum(splat(limit), up));
  Vector exponent = x * (-1.702f * log2e);
  exponent = exponent < splat(126.0f) ? exponent : splat(126.0f);
  return x * inverse(splat(1.0f) + exp2(exponent)) * (up + splat(1.0f));
}

/// GELU's 2u = x (linear + cubic x^2) in the tanh form (Hendrycks 2016): gelu(x) = x sigmoid(2u).
constexpr float geluLinear = 1.5957691216057308f, geluCubic = 0.07135481627362134f;

inline Vector geluTanh(Vector x) {
  Vector slope = fma(splat(geluCubic), x * x, splat(geluLinear));
  Vector exponent = x * slope * -log2e;
  exponent = exponent < splat(126.0f) ? exponent : splat(126.0f);
  return x / (splat(1.0f) + exp2(exponent));
}

}  // namespace
