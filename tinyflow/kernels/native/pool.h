/* One pool of threads for every kernel: whoever spins must own the machine. */
#ifndef TINYFLOW_POOL_H
#define TINYFLOW_POOL_H

#include <stddef.h>

typedef void (*task_fn)(const void *job, long task);

/* Runs f(job, 0) … f(job, tasks - 1), in any order, on all threads; returns when all
   are done. A call made while another one runs is carried out by its caller alone. */
void run_tasks(task_fn f, const void *job, long tasks);

/* Threads that take part, the caller among them. */
int tinyflow_threads(void);

/* Memory of the calling thread, kept between calls, 64-byte aligned; NULL if there is
   none. `slot` tells several buffers apart (0 … 3). */
void *workspace(int slot, size_t bytes);

/* Set when a buffer could not be had; read and cleared by tinyflow_failed. */
void note_failure(void);
#endif
