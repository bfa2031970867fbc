/*
 * interrupt.h - what interrupt.c (runs Lua code, has the signal handler) and unwind.c
 * (knows where a thread is) share. interrupt.rs, interrupter.rs and unwind.rs declare
 * the functions that they call.
 */
#ifndef NBFFI_INTERRUPT_H
#define NBFFI_INTERRUPT_H

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

/* Returned by nbffi_interrupt_call and nbffi_interrupt_close after a siglongjmp. */
#define ABANDONED (-1)

typedef struct nbffi_interrupt {
    sigjmp_buf jump;
    lua_State *L;
    /* Whether the thread is inside nbffi_interrupt_call or nbffi_interrupt_close. */
    volatile sig_atomic_t armed;
    /* Whether only finalizers run in there. */
    volatile sig_atomic_t closing;
    /* Whether the hook is set. */
    volatile sig_atomic_t hooked;
    /* Whether the thread is in machine code that is not Lua's: another runtime's,
     * or a pattern's. It must not be left. */
    volatile sig_atomic_t foreign;
    /* The number of the present run, and of the run to stop. */
    volatile sig_atomic_t run;
    _Atomic int stop;
    /* Whether a signal is pending: the kernel queues all of them, and a thread that
     * waits for a disk takes none for long. */
    _Atomic int signalled;
    /* The thread's stack: its lowest address and the frame that calls Lua. */
    uintptr_t lowest, floor;
    /* An address that the handler has no unwind row for, or 0. */
    _Atomic uintptr_t unknown;
} nbffi_interrupt;

/* How to unwind a frame while the thread is at one of these addresses. unwind.rs has
 * the same structure. The CFA is the caller's stack pointer. */
typedef struct nbffi_unwind_row {
    uintptr_t start, end;
    /* The CFA is a register plus this, or is stored at that address. */
    int32_t cfa_offset;
    /* Where the return address is, relative to the CFA, unless in a register. */
    int32_t return_offset;
    /* Where the caller's frame pointer is, relative to `frame_base`. */
    int32_t frame_offset;
    uint8_t cfa_base, cfa_in_memory, return_in_register, frame_base;
} nbffi_unwind_row;

/* Values of `cfa_base`. */
enum { STACK_POINTER, FRAME_POINTER };
/* Values of `frame_base`. */
enum { UNCHANGED, FROM_CFA, FROM_FRAME_POINTER };

/* interrupt.c */
int nbffi_interrupt_install(void);
nbffi_interrupt *nbffi_interrupt_new(lua_State *L);
void nbffi_interrupt_free(nbffi_interrupt *self);
void nbffi_interrupt_stop(nbffi_interrupt *self, int run, pid_t thread);
uintptr_t nbffi_interrupt_unknown(nbffi_interrupt *self);
void nbffi_interrupt_foreign(nbffi_interrupt *self, int foreign);
int nbffi_interrupt_is_stopped(const nbffi_interrupt *self);
int nbffi_interrupt_call(nbffi_interrupt *self, int run, int nargs, int errfunc);
int nbffi_interrupt_close(nbffi_interrupt *self, int run);
/* Leaves the calling thread's VM. */
void nbffi_interrupt_leave(void);

/* unwind.c */
void nbffi_unwind_ranges(const uintptr_t *bounds, unsigned count,
                         uintptr_t luajit_start, uintptr_t luajit_end,
                         int alone);
void nbffi_unwind_rows(const nbffi_unwind_row *rows, unsigned count);
/* Called by the handler: whether the VM may be left now. */
int nbffi_unwind_may_leave(const nbffi_interrupt *self, void *context);
/* Called by the handler: if the thread is in a C function that compiled code has
 * called, makes its return leave the VM. */
void nbffi_unwind_redirect(nbffi_interrupt *self, void *context);

#endif
