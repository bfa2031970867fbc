/*
 * shortage - for LD_PRELOAD: a process that can start only so many threads more, or
 * that has no /proc/self/maps.
 *
 * A limit of the system's (RLIMIT_NPROC) would count the threads of other
 * processes, too. Lua code sets what is to fail through the FFI; before that,
 * nothing does.
 */
#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>

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

static int hidden = 0;

void shortage_hide_maps(void)
{
    __atomic_store_n(&hidden, 1, __ATOMIC_SEQ_CST);
}

typedef int (*open_fn)(const char *, int, ...);

int open64(const char *path, int flags, ...)
{
    open_fn next = (open_fn)dlsym(RTLD_NEXT, "open64");
    int mode = 0;

    if (__atomic_load_n(&hidden, __ATOMIC_SEQ_CST) && strcmp(path, "/proc/self/maps") == 0) {
        errno = ENOENT;
        return -1;
    }
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, int);
        va_end(arguments);
    }
    return next(path, flags, mode);
}
