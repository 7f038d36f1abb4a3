// One pass of Lion-K over weight, gradient and momentum, for the element-wise functions K.
//
// Each operation rounds as torch's own on this machine, which the macro FUSED says: whether a
// product and a sum are rounded once, as by a vectorized lerp, or twice.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct BFloat16 {
  uint16_t bits;
};

inline float load(const float& x) { return x; }
inline double load(const double& x) { return x; }
inline float load(const BFloat16& x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

inline void store(float& x, float value) { x = value; }
inline void store(double& x, double value) { x = value; }
inline void store(BFloat16& x, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  x.bits = static_cast<uint16_t>(value != value ? 0x7FC0u : rounded);
}

inline float multiply_add(float a, float b, float c) {
#if FUSED
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

inline double multiply_add(double a, double b, double c) {
#if FUSED
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// torch.lerp takes the nearer end as its base
template <typename T>
inline T lerp(T start, T end, T weight, bool near) {
  return near ? multiply_add(weight, end - start, start)
              : multiply_add(weight - T(1), end - start, end);
}

enum Kind { kSign, kThreshold, kHuber, kSquare };

// c - c is 0, or NaN where c has no sign
template <typename T>
inline T sign(T c) {
  return static_cast<T>((c > T(0)) - (c < T(0))) + (c - c);
}

template <Kind kind, typename T>
inline T direction(T c, T e) {
  if constexpr (kind == kSign) return sign(c);
  if constexpr (kind == kThreshold) return sign(c >= -e && c <= e ? T(0) : c);
  if constexpr (kind == kHuber) {
    const T q = c / e;
    return q < T(-1) ? T(-1) : (q > T(1) ? T(1) : q);
  }
  return c;
}

template <typename M>
struct Numbers {
  M step_weight, momentum_weight, decay, rate, e, flip;
};

// a function of its own, as compilers lose sight of __restrict in a parallel region
template <Kind kind, typename W, typename M>
__attribute__((noinline)) void piece(W* __restrict x, const W* __restrict g, M* __restrict m,
                                     int64_t size, const Numbers<M> n) {
  const bool step_near = std::fabs(n.step_weight) < M(0.5);
  const bool momentum_near = std::fabs(n.momentum_weight) < M(0.5);
  for (int64_t i = 0; i < size; ++i) {
    const M gradient = n.flip * load(g[i]);
    const M momentum = m[i];
    const M u = direction<kind>(lerp(momentum, gradient, n.step_weight, step_near), n.e);
    m[i] = lerp(momentum, gradient, n.momentum_weight, momentum_near);
    W decayed;
    store(decayed, load(x[i]) * n.decay);
    store(x[i], multiply_add(u, n.rate, load(decayed)));
  }
}

template <Kind kind, typename W, typename M>
void pass(W* x, const W* g, M* m, int64_t size, int threads, const double* numbers) {
  const Numbers<M> n = {static_cast<M>(numbers[0]), static_cast<M>(numbers[1]),
                        static_cast<M>(numbers[2]), static_cast<M>(numbers[3]),
                        static_cast<M>(numbers[4]), static_cast<M>(numbers[5])};
  // pieces begin at whole cache lines
  const int64_t share = ((size + threads - 1) / threads + 63) / 64 * 64;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int thread = 0; thread < threads; ++thread) {
    const int64_t begin = thread * share;
    const int64_t rest = size - begin;
    if (rest > 0) piece<kind>(x + begin, g + begin, m + begin, rest < share ? rest : share, n);
  }
}

template <typename W, typename M>
void choose(int kind, W* x, const W* g, M* m, int64_t size, int threads, const double* numbers) {
  switch (kind) {
    case kSign: return pass<kSign>(x, g, m, size, threads, numbers);
    case kThreshold: return pass<kThreshold>(x, g, m, size, threads, numbers);
    case kHuber: return pass<kHuber>(x, g, m, size, threads, numbers);
    default: return pass<kSquare>(x, g, m, size, threads, numbers);
  }
}

}  // namespace

extern "C" {

void lion_float32(int kind, float* x, const float* g, float* m, int64_t size, int threads,
                  const double* numbers) {
  choose(kind, x, g, m, size, threads, numbers);
}

void lion_float64(int kind, double* x, const double* g, double* m, int64_t size, int threads,
                  const double* numbers) {
  choose(kind, x, g, m, size, threads, numbers);
}

void lion_bfloat16(int kind, void* x, const void* g, float* m, int64_t size, int threads,
                   const double* numbers) {
  choose(kind, static_cast<BFloat16*>(x), static_cast<const BFloat16*>(g), m, size, threads,
         numbers);
}
}
