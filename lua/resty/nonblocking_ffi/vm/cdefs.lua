-- The C functions that code in a worker VM calls, as src/ffi/vm.rs and
-- src/ffi/regex.rs define them. Raise INTERFACE, in cdefs.lua and in
-- src/ffi/mod.rs, when one changes.

local ffi = require "ffi"


ffi.cdef[[
typedef struct {
    const char *data;
    size_t      len;
} nbffi_text;

typedef struct {
    char       *data;
    size_t      size;
} nbffi_buffer;

typedef struct {
    const char *data;
    double      len;
    uint32_t    runtime, generation, function, encoding;
} nbffi_desk;

typedef struct {
    const char *data;
    double      len, code;
    const char *message;
    double      message_len;
} nbffi_answer;

const char *nbffi_error_text(int32_t code);

void nbffi_vm_respond(uint32_t encoding, const char *data, double len);
bool nbffi_vm_module(nbffi_buffer name);
bool nbffi_vm_function(uint32_t number, nbffi_buffer name);
bool nbffi_vm_forget(nbffi_buffer names);
void nbffi_vm_log(uint32_t level, const char *text, size_t len);
bool nbffi_vm_is_cancelled(void);
double nbffi_vm_left(void);
int32_t nbffi_vm_seat(nbffi_buffer pool, nbffi_buffer thread);
int32_t nbffi_vm_call(nbffi_text runtime, nbffi_text request, double seconds,
    nbffi_answer *answer);
]]
