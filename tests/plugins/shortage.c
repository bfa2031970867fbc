/*
 * shortage - for LD_PRELOAD: a process that can start only so many threads more.
 *
 * A limit of the system's (RLIMIT_NPROC) would count the threads of other
 * processes, too. Lua code sets the number through the FFI; before that, there is
 * no limit.
 */
#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>

typedef int (*create_fn)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

/* Less than 0: no limit. */
static int left = -1;

void shortage_threads(int number)
{
    __atomic_store_n(&left, number, __ATOMIC_SEQ_CST);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                   void *arg)
{
    create_fn create = (create_fn)dlsym(RTLD_NEXT, "pthread_create");
    int number = __atomic_load_n(&left, __ATOMIC_SEQ_CST);

    while (number >= 0) {
        if (number == 0) {
            return EAGAIN;
        }
        if (__atomic_compare_exchange_n(&left, &number, number - 1, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
            break;
        }
    }
    return create(thread, attr, start, arg);
}
