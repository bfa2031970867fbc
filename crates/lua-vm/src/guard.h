/*
 * guard.h - what the parts share that stop Lua code: guard.c runs it and has the
 * signal handler, unwind.c knows where a thread is. Rust declares the functions
 * that it calls once more, in watchdog.rs.
 */
#ifndef NBFFI_GUARD_H
#define NBFFI_GUARD_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct lua_State lua_State;
typedef struct lua_Debug lua_Debug;

/* What nbffi_guard_call and nbffi_guard_close return if they were left by
 * siglongjmp. */
#define ABANDONED (-1)

typedef struct nbffi_guard {
    sigjmp_buf jump;
    lua_State *L;
    /* Whether the thread is inside nbffi_guard_call or nbffi_guard_close. */
    volatile sig_atomic_t armed;
    /* Whether nothing runs in there but finalizers. */
    volatile sig_atomic_t closing;
    /* Whether the hook is set. */
    volatile sig_atomic_t hooked;
    /* Whether the VM has called into another runtime: its compiled code is not
     * ours to leave. */
    volatile sig_atomic_t nested;
    /* What is being run, and what is to be stopped: numbers of runs. */
    volatile sig_atomic_t run;
    _Atomic int stop;
    /* Whether a signal is on its way. The kernel keeps all that are sent, and a
     * thread that waits for a disk takes none for long. */
    _Atomic int signalled;
    /* The thread's stack: its lowest address, and the frame that calls Lua. */
    uintptr_t lowest, floor;
    /* Code that the handler has met and has no unwind row for, or 0. */
    _Atomic uintptr_t unknown;
} nbffi_guard;

/* How a frame is unwound while the thread is at one of these addresses: unwind.rs
 * has the same structure. The CFA is the stack pointer of the caller. */
typedef struct nbffi_unwind_row {
    uintptr_t start, end;
    /* The CFA is a register plus this; or is in memory there. */
    int32_t cfa_offset;
    /* Where the return address is, from the CFA on, unless in a register. */
    int32_t return_offset;
    /* Where the caller's frame pointer is, from `frame_base` on. */
    int32_t frame_offset;
    uint8_t cfa_base, cfa_in_memory, return_in_register, frame_base;
} nbffi_unwind_row;

/* Values of `cfa_base`. */
enum { STACK_POINTER, FRAME_POINTER };
/* Values of `frame_base`. */
enum { UNCHANGED, FROM_CFA, FROM_FRAME_POINTER };

/* guard.c */
int nbffi_guard_install(void);
nbffi_guard *nbffi_guard_new(lua_State *L);
void nbffi_guard_free(nbffi_guard *guard);
void nbffi_guard_stop(nbffi_guard *guard, int run, pid_t thread);
uintptr_t nbffi_guard_unknown(nbffi_guard *guard);
void nbffi_guard_nest(nbffi_guard *guard, int nested);
int nbffi_guard_is_stopped(const nbffi_guard *guard);
int nbffi_guard_call(nbffi_guard *guard, int run, int nargs, int errfunc);
int nbffi_guard_close(nbffi_guard *guard, int run);
/* Leaves what the calling thread runs. */
void nbffi_guard_leave(void);

/* unwind.c */
void nbffi_guard_ranges(const uintptr_t *bounds, unsigned count,
                        uintptr_t luajit_start, uintptr_t luajit_end,
                        int alone);
void nbffi_guard_rows(const nbffi_unwind_row *rows, unsigned count);
/* In the handler: whether the VM may be left here and now. */
int nbffi_unwind_may_leave(const nbffi_guard *guard, void *context);
/* In the handler: has the VM left when the C function returns that the thread is
 * in, if compiled code has called it. */
void nbffi_unwind_redirect(nbffi_guard *guard, void *context);

#endif
