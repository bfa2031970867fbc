/*
 * unwind.c - finds out where an interrupted thread is: in compiled code, in a C
 * function that compiled code has called, or elsewhere.
 *
 * C functions are unwound by the tables that their compiler wrote. A signal handler
 * cannot read these. It uses rows that the interrupter has read (unwind.rs), and
 * notes the addresses for which it has no row.
 */
#include "interrupt.h"

#include <stddef.h>
#include <ucontext.h>

#define MAX_RANGES 2048
#define MAX_ROWS 1024
/* The most C frames between compiled code and the interrupted instruction. */
#define MAX_FRAMES 256

/* Written by the interrupter before it sends signals: where compiled code may be,
 * which is executable memory without a file; where LuaJIT is, and whether it is
 * alone there or a part of the nginx program; and unwind rows, sorted by address. The
 * version is odd during a write. */
static struct {
    _Atomic unsigned version;
    unsigned ranges_count, rows_count;
    struct { uintptr_t start, end; } ranges[MAX_RANGES], luajit;
    int luajit_is_alone;
    nbffi_unwind_row rows[MAX_ROWS];
} known;

/* Whether nothing was written since this version, so that the data read is valid. */
static int
is_current(unsigned version)
{
    /* Acquire: orders earlier reads before that of the version. Partner of the
     * fences in `begin_write` and `end_write`. */
    atomic_thread_fence(memory_order_acquire);
    return version % 2 == 0 && version == atomic_load(&known.version);
}

static void
begin_write(void)
{
    atomic_fetch_add(&known.version, 1);
    atomic_thread_fence(memory_order_seq_cst);
}

static void
end_write(void)
{
    atomic_thread_fence(memory_order_seq_cst);
    atomic_fetch_add(&known.version, 1);
}

void
nbffi_unwind_ranges(const uintptr_t *bounds, unsigned count,
                    uintptr_t luajit_start, uintptr_t luajit_end, int alone)
{
    begin_write();
    known.ranges_count = count < MAX_RANGES ? count : MAX_RANGES;
    for (unsigned i = 0; i < known.ranges_count; i++) {
        known.ranges[i].start = bounds[2 * i];
        known.ranges[i].end = bounds[2 * i + 1];
    }
    known.luajit.start = luajit_start;
    known.luajit.end = luajit_end;
    known.luajit_is_alone = alone;
    end_write();
}

void
nbffi_unwind_rows(const nbffi_unwind_row *rows, unsigned count)
{
    begin_write();
    known.rows_count = count < MAX_ROWS ? count : MAX_ROWS;
    for (unsigned i = 0; i < known.rows_count; i++) {
        known.rows[i] = rows[i];
    }
    end_write();
}

static int
is_compiled_code(uintptr_t address)
{
    unsigned version = atomic_load(&known.version);
    unsigned count = known.ranges_count;
    int found = 0;

    for (unsigned i = 0; i < count && !found; i++) {
        found = address >= known.ranges[i].start
                && address < known.ranges[i].end;
    }
    return found && is_current(version);
}

/* Whether only LuaJIT can be there. */
static int
is_luajit_alone(uintptr_t address)
{
    unsigned version = atomic_load(&known.version);
    int found = known.luajit_is_alone && address >= known.luajit.start
                && address < known.luajit.end;

    return found && is_current(version);
}

/* The return address of a C function after which the thread leaves its VM. Reached by
 * a return, so the stack is not aligned as after a call. */
void nbffi_interrupt_trampoline(void);

#if defined(__x86_64__)

__asm__(
    ".text\n"
    ".hidden nbffi_interrupt_trampoline\n"
    ".hidden nbffi_interrupt_leave\n"
    ".globl nbffi_interrupt_trampoline\n"
    ".type nbffi_interrupt_trampoline, @function\n"
    "nbffi_interrupt_trampoline:\n"
    "    .cfi_startproc\n"
    "    .cfi_undefined rip\n"
    "    andq $-16, %rsp\n"
    "    call nbffi_interrupt_leave\n"
    "    ud2\n"
    "    .cfi_endproc\n"
    ".size nbffi_interrupt_trampoline, . - nbffi_interrupt_trampoline\n"
);

/* Whether a call instruction ends at this address. */
static int
is_after_call(uintptr_t address)
{
    const unsigned char *code = (const unsigned char *) address;

    /* call rel32; call reg, call [reg], call [reg + disp8] or [sib],
     * call [sib + disp8], call [reg + disp32] or [rip + disp32] */
    return code[-5] == 0xe8
           || (code[-2] == 0xff && (code[-1] & 0x38) == 0x10)
           || (code[-3] == 0xff && (code[-2] & 0x38) == 0x10)
           || (code[-4] == 0xff && (code[-3] & 0x38) == 0x10)
           || (code[-6] == 0xff && (code[-5] & 0x38) == 0x10);
}

#define registers_of(context) (((ucontext_t *) context)->uc_mcontext.gregs)
#define program_counter(context) ((uintptr_t) registers_of(context)[REG_RIP])
#define stack_pointer(context) ((uintptr_t) registers_of(context)[REG_RSP])
#define frame_pointer(context) ((uintptr_t) registers_of(context)[REG_RBP])
#define return_register(context) ((unsigned long long *) NULL)

#elif defined(__aarch64__)

__asm__(
    ".text\n"
    ".hidden nbffi_interrupt_trampoline\n"
    ".hidden nbffi_interrupt_leave\n"
    ".globl nbffi_interrupt_trampoline\n"
    ".type nbffi_interrupt_trampoline, %function\n"
    "nbffi_interrupt_trampoline:\n"
    "    b nbffi_interrupt_leave\n"
    ".size nbffi_interrupt_trampoline, . - nbffi_interrupt_trampoline\n"
);

static int
is_after_call(uintptr_t address)
{
    uint32_t code = ((const uint32_t *) address)[-1];

    /* bl; blr */
    return (code & 0xfc000000) == 0x94000000
           || (code & 0xfffffc1f) == 0xd63f0000;
}

#define registers_of(context) (((ucontext_t *) context)->uc_mcontext)
#define program_counter(context) ((uintptr_t) registers_of(context).pc)
#define stack_pointer(context) ((uintptr_t) registers_of(context).sp)
#define frame_pointer(context) ((uintptr_t) registers_of(context).regs[29])
#define return_register(context) (&registers_of(context).regs[30])

#else

/* On other machines, code is stopped by hooks only. */
#define program_counter(context) ((void) (context), (uintptr_t) 0)

#endif

#if defined(__x86_64__) || defined(__aarch64__)

/* Whether an address may be LuaJIT's. */
static int
may_be_luajit(uintptr_t address)
{
    unsigned version = atomic_load(&known.version);
    int found = address >= known.luajit.start && address < known.luajit.end;

    return found || !is_current(version);
}

/* Finds the unwind row of an address. */
static int
find_row(uintptr_t address, nbffi_unwind_row *row)
{
    unsigned version = atomic_load(&known.version);
    unsigned low = 0, high = known.rows_count;

    while (low < high) {
        unsigned middle = low + (high - low) / 2;

        *row = known.rows[middle];
        if (address < row->start) {
            high = middle;
        } else if (address >= row->end) {
            low = middle + 1;
        } else {
            return is_current(version);
        }
    }
    return 0;
}

/* A frame that is being unwound. */
typedef struct {
    uintptr_t code, stack, frame;
} unwound;

/* Checks that the address follows a call, since some compilers' tables are wrong in a
 * function's last instructions. */
static int
is_return_address(uintptr_t address)
{
    return is_compiled_code(address) && is_compiled_code(address - 8)
           && is_after_call(address);
}

/* The word at an address, or NULL if the address is not on the stack between this
 * frame and the one that calls Lua. */
static uintptr_t *
word_at(const nbffi_interrupt *self, const unwound *frame, uintptr_t address)
{
    if (address % sizeof(uintptr_t) != 0 || frame->stack < self->lowest
        || address < frame->stack || address >= self->floor)
    {
        return NULL;
    }
    return (uintptr_t *) address;
}

/* The stack pointer of a frame's caller, or 0 if it is out of bounds. */
static uintptr_t
find_cfa(const nbffi_interrupt *self, const unwound *frame,
         const nbffi_unwind_row *row)
{
    uintptr_t cfa = row->cfa_base == FRAME_POINTER ? frame->frame
                                                   : frame->stack;

    cfa += (intptr_t) row->cfa_offset;
    if (row->cfa_in_memory) {
        uintptr_t *place = word_at(self, frame, cfa);

        cfa = place == NULL ? 0 : *place;
    }
    return cfa >= frame->stack && cfa <= self->floor ? cfa : 0;
}

/* Makes the C function that compiled code has called return to the trampoline. Only
 * C functions may lie between: LuaJIT's own code must not be left. */
void
nbffi_unwind_redirect(nbffi_interrupt *self, void *context)
{
    unwound frame = {
        program_counter(context), stack_pointer(context),
        frame_pointer(context)
    };
    unsigned long long *in_register = return_register(context);

    for (int depth = 0; depth < MAX_FRAMES; depth++) {
        nbffi_unwind_row row;
        uintptr_t cfa, caller, *place = NULL;
        /* A call may be the last instruction of its function. */
        uintptr_t code = frame.code - (depth > 0);

        if (may_be_luajit(frame.code)
            || frame.code == (uintptr_t) nbffi_interrupt_trampoline)
        {
            return;
        }
        if (!find_row(code, &row)) {
            atomic_store(&self->unknown, code);
            return;
        }
        cfa = find_cfa(self, &frame, &row);
        if (cfa == 0) {
            return;
        }
        if (row.return_in_register) {
            if (in_register == NULL || depth > 0) {
                return;
            }
            caller = *in_register;
            if (is_return_address(caller)) {
                *in_register = (uintptr_t) nbffi_interrupt_trampoline;
                return;
            }
        } else {
            place = word_at(self, &frame, cfa + (intptr_t) row.return_offset);
            if (place == NULL) {
                return;
            }
            caller = *place;
            if (is_return_address(caller)) {
                *place = (uintptr_t) nbffi_interrupt_trampoline;
                return;
            }
        }
        if (row.frame_base != UNCHANGED) {
            place = word_at(self, &frame, (intptr_t) row.frame_offset
                            + (row.frame_base == FROM_CFA ? cfa : frame.frame));
            if (place == NULL) {
                return;
            }
            frame.frame = *place;
        }
        frame.code = caller;
        frame.stack = cfa;
    }
}

#else

void
nbffi_unwind_redirect(nbffi_interrupt *self, void *context)
{
    (void) self;
    (void) context;
}

#endif

int
nbffi_unwind_may_leave(const nbffi_interrupt *self, void *context)
{
    return is_compiled_code(program_counter(context))
           || (self->closing && is_luajit_alone(program_counter(context)));
}
