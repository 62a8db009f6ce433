// What every kernel shares: the integer mixer, and a portable multiversioning macro.
#pragma once

#include <cstddef>
#include <cstdint>

// GCC on x86-64 Linux picks the widest clone at load time; elsewhere the plain function is built.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define SPARSE_JAX_MULTIVERSION
#define SPARSE_JAX_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SPARSE_JAX_CLONES
#endif

// Around functions of 512-bit intrinsics: GCC 12 takes what these leave undefined for our mistake.
#if defined(__GNUC__) && !defined(__clang__)
#define SPARSE_JAX_INTRINSICS_BEGIN                                \
  _Pragma("GCC diagnostic push")                                   \
  _Pragma("GCC diagnostic ignored \"-Wuninitialized\"")            \
  _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"")
#define SPARSE_JAX_INTRINSICS_END _Pragma("GCC diagnostic pop")
#else
#define SPARSE_JAX_INTRINSICS_BEGIN
#define SPARSE_JAX_INTRINSICS_END
#endif

// Before a loop of up to 12 turns over registers, which would otherwise lie in memory.
#ifdef __clang__
#define SPARSE_JAX_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SPARSE_JAX_UNROLL _Pragma("GCC unroll 12")
#endif

namespace sparse_jax {

// The finalizer of MurmurHash3 (Appleby, public domain): a bijection of the 32-bit words.
inline uint32_t Mix(uint32_t h) {
  h ^= h >> 16;
  h *= 0x85ebca6bu;
  h ^= h >> 13;
  h *= 0xc2b2ae35u;
  h ^= h >> 16;
  return h;
}

// What the ids of one table are mixed with.
inline uint32_t Salt(uint32_t seed, uint32_t table) { return Mix(seed ^ Mix(table)); }

// Seeded order of ids inside table `table`; queries rank their ties with table = 0xffffffff.
inline uint32_t Priority(uint32_t seed, uint32_t table, uint32_t id) {
  return Mix(id ^ Salt(seed, table));
}

// Asks for memory that will be read soon; a hint only.
inline void Prefetch(const void* at, int64_t bytes) {
#if defined(__GNUC__)
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(at) + i);
#else
  (void)at, (void)bytes;
#endif
}

}  // namespace sparse_jax
