/* The thread pool. Workers spin for a moment after each job, since the next one usually
   follows within microseconds, then sleep.

   All that must be known to take a task stands in one word, `ticket`: the job's number,
   how many tasks it has, and the next one. Whoever adds 1 to it either owns a task, and
   then the caller waits for it, or sees that there is none left. So the caller never
   waits for a thread that has not begun: on a busy machine it does the work alone. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "pool.h"

#define MAX_THREADS 64
#define SPIN_NS 2000000

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER; /* one job at a time */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards sleeping */
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
#define COUNT 24 /* bits of the ticket's two counters; the job's number has the rest */
#define MASK ((1L << COUNT) - 1)

static _Atomic uint64_t ticket;
static atomic_long done;
static atomic_int sleepers, failures;
static int threads, started;
static task_fn job_fn;
static const void *job_arg;

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static long now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000L + t.tv_nsec;
}

static uint64_t job_number(void) { return atomic_load(&ticket) >> (2 * COUNT); }

/* Takes tasks until none is left; the number of the job that had none. */
static uint64_t take_tasks(void) {
  for (;;) {
    uint64_t mine = atomic_fetch_add(&ticket, 1);
    long task = (long)(mine & MASK), tasks = (long)(mine >> COUNT & MASK);
    if (task >= tasks) return mine >> (2 * COUNT);
    job_fn(job_arg, task);
    atomic_fetch_add(&done, 1);
  }
}

static void *worker(void *unused) {
  (void)unused;
  uint64_t seen = 0;
  for (;;) {
    long until = now_ns() + SPIN_NS;
    while (job_number() == seen) {
      for (int i = 0; i < 64; i++) relax();
      if (now_ns() < until) continue;
      pthread_mutex_lock(&lock);
      atomic_fetch_add(&sleepers, 1);
      while (job_number() == seen) pthread_cond_wait(&wake, &lock);
      atomic_fetch_sub(&sleepers, 1);
      pthread_mutex_unlock(&lock);
    }
    seen = take_tasks();
  }
  return NULL;
}

/* A forked child has none of its parent's threads: it starts its own when needed. */
static void after_fork(void) {
  pthread_mutex_init(&busy, NULL);
  pthread_mutex_init(&lock, NULL);
  pthread_cond_init(&wake, NULL);
  atomic_store(&sleepers, 0);
  started = 0;
}

static void start(void) {
  static int registered;
  if (!registered) pthread_atfork(NULL, NULL, after_fork);
  registered = 1;
  started = 1;
  int running = 1;
  atomic_store(&ticket, 0);
  for (; running < threads; running++) {
    pthread_t id;
    if (pthread_create(&id, NULL, worker, NULL) != 0) break;
    pthread_detach(id);
  }
  threads = running;
}

int tinyflow_set_threads(int count) {
  if (!started) threads = count < 1 ? 1 : count > MAX_THREADS ? MAX_THREADS : count;
  return threads;
}

int tinyflow_threads(void) {
  if (threads == 0) tinyflow_set_threads(1);
  return threads;
}

void run_tasks(task_fn f, const void *job, long tasks) {
  if (tasks > 1 && tasks < MASK - MAX_THREADS && tinyflow_threads() > 1 &&
      pthread_mutex_trylock(&busy) == 0) {
    if (!started) start();
    job_fn = f, job_arg = job;
    atomic_store(&done, 0);
    uint64_t number = job_number() + 1;
    atomic_store(&ticket, number << (2 * COUNT) | (uint64_t)tasks << COUNT);
    if (atomic_load(&sleepers) > 0) {
      pthread_mutex_lock(&lock);
      pthread_cond_broadcast(&wake);
      pthread_mutex_unlock(&lock);
    }
    take_tasks();
    for (long spins = 0; atomic_load(&done) < tasks; spins++) {
      relax();
      if (spins > 1 << 14) sched_yield();
    }
    pthread_mutex_unlock(&busy);
    return;
  }
  for (long task = 0; task < tasks; task++) f(job, task);
}

void note_failure(void) { atomic_store(&failures, 1); }

/* Whether memory ran out in a call since the last question. */
int tinyflow_failed(void) { return atomic_exchange(&failures, 0); }

void *workspace(int slot, size_t bytes) {
  static _Thread_local void *kept[5];
  static _Thread_local size_t sizes[5];
  if (sizes[slot] < bytes) {
    free(kept[slot]);
    sizes[slot] = (bytes + 4095) & ~(size_t)4095;
    kept[slot] = aligned_alloc(64, sizes[slot]);
    if (kept[slot] == NULL) sizes[slot] = 0, note_failure();
  }
  return kept[slot];
}
