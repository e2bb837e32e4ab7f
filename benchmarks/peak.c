/* Most multiply-adds per second that this processor makes from registers: the ceiling that engines are held against.
 * Prints two numbers, GFLOP/s in fp32 and in bfloat16 (0 where it has none), over the number of threads given. */
#define _POSIX_C_SOURCE 200809L
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CHAINS = 16, STEPS = 4000000 };
static double spent[64]; /* processor time of each thread: other work on the machine does not count */
static volatile float sink[64]; /* read by nobody, but a compiler may not know that */

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#if defined(__AVX512F__)
#define LANES 16
typedef __m512 vec;
#define SET1 _mm512_set1_ps
#define FMA _mm512_fmadd_ps
#define FIRST(v) _mm512_cvtss_f32(v)
#elif defined(__FMA__)
#define LANES 8
typedef __m256 vec;
#define SET1 _mm256_set1_ps
#define FMA _mm256_fmadd_ps
#define FIRST(v) _mm256_cvtss_f32(v)
#else
#error "this program wants FMA instructions"
#endif

static void *run_fp32(void *arg) {
  double start = now();
  vec sum[CHAINS], a = SET1(0.999f), b = SET1(0.001f);

#pragma GCC unroll 16
  for (int i = 0; i < CHAINS; ++i) sum[i] = SET1((float)i);
  for (long n = 0; n < STEPS; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; ++i) sum[i] = FMA(sum[i], a, b);
  }
  float total = 0;
#pragma GCC unroll 16
  for (int i = 0; i < CHAINS; ++i) total += FIRST(sum[i]);
  sink[(long)arg] = total;
  spent[(long)arg] = now() - start;
  return NULL;
}

#if defined(__AVX512BF16__)
static void *run_bf16(void *arg) {
  double start = now();
  __m512 sum[CHAINS];
  __m512bh a = _mm512_cvtne2ps_pbh(SET1(0.9f), SET1(0.8f)), b = _mm512_cvtne2ps_pbh(SET1(0.1f), SET1(0.2f));

#pragma GCC unroll 16
  for (int i = 0; i < CHAINS; ++i) sum[i] = SET1((float)i);
  for (long n = 0; n < STEPS; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; ++i) sum[i] = _mm512_dpbf16_ps(sum[i], a, b);
  }
  float total = 0;
#pragma GCC unroll 16
  for (int i = 0; i < CHAINS; ++i) total += FIRST(sum[i]);
  sink[(long)arg] = total;
  spent[(long)arg] = now() - start;
  return NULL;
}
#endif

static double best(void *(*work)(void *), int threads, double flops_per_step) {
  double most = 0;
  for (int round = 0; round < 5; ++round) {
    pthread_t id[64];
    for (long i = 0; i < threads; ++i) pthread_create(&id[i], NULL, work, (void *)i);
    for (int i = 0; i < threads; ++i) pthread_join(id[i], NULL);
    double rate = 0;
    for (int i = 0; i < threads; ++i) rate += STEPS * CHAINS * flops_per_step / spent[i] * 1e-9;
    if (rate > most) most = rate;
  }
  return most;
}

int main(int argc, char **argv) {
  int threads = argc > 1 ? atoi(argv[1]) : 1;
  if (threads < 1 || threads > 64) return 2;
  double fp32 = best(run_fp32, threads, 2.0 * LANES), bf16 = 0;
#if defined(__AVX512BF16__)
  bf16 = best(run_bf16, threads, 4.0 * LANES);
#endif
  printf("%.1f %.1f\n", fp32, bf16);
  return 0;
}
