// Sixteen floats side by side: one register of 64 bytes, or two of 32.
//
// GCC keeps a vector wider than the machine's registers in memory, at a tenth of the speed. So what is
// written over `Lanes<Parts>` is built once in one part, for AVX-512, and once in two for all other
// machines. Each lane keeps its own partial sum in both, so the bits are the same.
#pragma once

#include <cstdint>
#include <cstring>

#include "sparse_jax/common.h"

namespace sparse_jax {

constexpr int64_t kLanes = 16;

template <int Parts>
struct Lanes;
template <>
struct Lanes<1> {
  typedef float Floats __attribute__((vector_size(64)));
  typedef int32_t Ints __attribute__((vector_size(64)));
};
template <>
struct Lanes<2> {
  typedef float Floats __attribute__((vector_size(32)));
  typedef int32_t Ints __attribute__((vector_size(32)));
};

// Inlined into multiversioned functions, and so built for each of their machines.
#define SPARSE_JAX_INLINE inline __attribute__((always_inline))

template <typename V>
SPARSE_JAX_INLINE void LoadLanes(const float* from, V* to) {
  std::memcpy(to, from, sizeof(V));
}
template <typename V>
SPARSE_JAX_INLINE void StoreLanes(float* to, const V& from) {
  std::memcpy(to, &from, sizeof(V));
}

// Defines `name`, which calls name##Lanes<Parts> with the parts that suit the machine.
#ifdef SPARSE_JAX_MULTIVERSION
#define SPARSE_JAX_BY_LANES(result, name, parameters, arguments)                  \
  __attribute__((target("avx512f"))) static inline result name parameters {      \
    return name##Lanes<1> arguments;                                              \
  }                                                                               \
  __attribute__((target("avx2"))) static inline result name parameters {         \
    return name##Lanes<2> arguments;                                              \
  }                                                                               \
  __attribute__((target("default"))) static inline result name parameters {      \
    return name##Lanes<2> arguments;                                              \
  }
#else
#define SPARSE_JAX_BY_LANES(result, name, parameters, arguments) \
  static inline result name parameters { return name##Lanes<2> arguments; }
#endif

}  // namespace sparse_jax
