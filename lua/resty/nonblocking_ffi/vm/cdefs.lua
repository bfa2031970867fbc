-- The C functions that code in a worker VM calls, which
-- crates/lua-vm/src/exports/ defines. Raise INTERFACE, in core/cdefs.lua and in
-- crates/ffi/src/lib.rs, when one changes.

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
    uint32_t    changed, hooked, keeps_hook;
} nbffi_call_frame;

typedef struct {
    const char *data;
    double      len, code;
    const char *message;
    double      message_len;
} nbffi_answer;

const char *nbffi_error_text(int32_t code);

void nbffi_vm_respond(uint32_t encoding, const char *data, double len);
bool nbffi_vm_module(nbffi_buffer name);
bool nbffi_vm_serves(uint32_t runtime);
bool nbffi_vm_function(uint32_t number, nbffi_buffer name);
bool nbffi_vm_forget(nbffi_buffer names);
void nbffi_vm_log(uint32_t level, const char *text, size_t len);
bool nbffi_vm_is_cancelled(void);
double nbffi_vm_left(void);
int32_t nbffi_vm_thread_id(nbffi_buffer pool, nbffi_buffer thread);
int32_t nbffi_vm_call(nbffi_text runtime, nbffi_text request, double seconds,
    nbffi_answer *answer);

typedef struct nbffi_re nbffi_re;
typedef struct nbffi_re_template nbffi_re_template;

typedef struct {
    const uint8_t *names;
    uint32_t       name_count;
    uint32_t       name_size;
    uint32_t       captures;
    uint32_t       error_offset;
    bool           utf;
} nbffi_re_info;

nbffi_re *nbffi_re_new(const char *pattern, size_t len, uint32_t options,
    nbffi_re_info *info, char *error, size_t error_size);
void nbffi_re_free(nbffi_re *re);
int32_t nbffi_re_match(const nbffi_re *re, const char *subject, size_t len,
    uint32_t start, bool valid, int32_t *offsets);
int32_t nbffi_re_sub(const nbffi_re *re, const nbffi_re_template *template,
    const char *subject, size_t len, bool global, nbffi_text *result);
nbffi_re_template *nbffi_re_template_new(const char *source, size_t len,
    char *error, size_t error_size);
void nbffi_re_template_free(nbffi_re_template *template);
bool nbffi_re_jit_stack(uint32_t limit);

bool nbffi_vm_rouse(void);
double nbffi_vm_now(void);
double nbffi_vm_monotonic(void);
void nbffi_vm_sleep(double seconds);
struct nbffi_lua_State *nbffi_vm_scratch_state(void);
]]
