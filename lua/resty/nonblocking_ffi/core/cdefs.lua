-- The C functions of the shared object, as crates/ffi/src/ defines them;
-- crates/ffi/tests/lua_files.rs compares both. Raise INTERFACE in both places
-- when a function or a structure changes.

local ffi = require "ffi"


ffi.cdef[[
typedef struct nbffi_client nbffi_client;
typedef struct nbffi_pool nbffi_pool;
typedef struct nbffi_runtime nbffi_runtime;

typedef struct {
    const char *data;
    size_t      len;
} nbffi_text;

typedef struct {
    char       *data;
    size_t      size;
} nbffi_buffer;

typedef struct {
    uint32_t    slot;
    int32_t     status;
    double      code;
    const char *data;
    double      len;
    const char *message;
    double      message_len;
} nbffi_completion;

typedef struct {
    double      count, mean, p50, p90, p99, p999, max;
} nbffi_summary;

typedef struct {
    double        posted, ok, in_flight, queued, running, expired,
                  grace_hits, grace_misses;
    double        errors[9];
    nbffi_summary queue_time, run_time, total_time;
} nbffi_runtime_statistics;

typedef struct nbffi_lua nbffi_lua;

typedef struct {
    nbffi_text  module, group, package_path, package_cpath, core, boot;
    double      max_response, max_memory, recycle_memory, recycle_tasks,
                init_timeout;
} nbffi_lua_options;

typedef struct {
    double      vms, memory, stuck, made, out_of_memory, stopped, recycled;
} nbffi_vm_statistics;

typedef struct {
    double      threads, max_queue, in_flight, queued, running, wakeups;
} nbffi_pool_statistics;

typedef struct {
    double      wakeups, completions, slots, in_flight, log_dropped;
} nbffi_client_statistics;

uint32_t nbffi_interface(void);
const char *nbffi_version(void);
const char *nbffi_error_text(int32_t code);

int32_t nbffi_post(nbffi_client *client, nbffi_runtime *runtime,
    const char *data, size_t len, double timeout, uint32_t priority,
    bool waits, uint32_t tag, uint32_t key, nbffi_completion *done);
bool nbffi_flush(nbffi_client *client);
bool nbffi_watch(nbffi_client *client);
uint32_t nbffi_drain(nbffi_client *client, nbffi_completion *done,
    uint32_t room);
void nbffi_release(nbffi_client *client, const nbffi_completion *done,
    uint32_t count);
int32_t nbffi_cancel(nbffi_client *client, uint32_t slot, int32_t why);
double nbffi_left(uint32_t slot);

int32_t nbffi_enter(nbffi_buffer warning);
nbffi_client *nbffi_client_new(nbffi_text subsystem, nbffi_buffer error);
int32_t nbffi_more_slots(nbffi_client *client);
void nbffi_use_slots(nbffi_client *client);
int32_t nbffi_channel_open(nbffi_client *client, nbffi_text directories,
    nbffi_buffer path, nbffi_buffer error);
int32_t nbffi_channel_accept(nbffi_client *client, bool connected,
    nbffi_buffer error);
bool nbffi_channel_arm(nbffi_client *client);
void nbffi_channel_wake(nbffi_client *client);
void nbffi_may_hold(nbffi_client *client, bool may_hold);
void nbffi_log_level(nbffi_client *client, uint8_t level);
int32_t nbffi_log_take(nbffi_client *client, char *line, size_t size);
void nbffi_block(nbffi_client *client, double seconds);
void nbffi_client_close(nbffi_client *client, double queued, double running,
    double ending);

uint32_t nbffi_cores(void);
double nbffi_vm_monotonic(void);
nbffi_pool *nbffi_pool_obtain(nbffi_client *client, nbffi_text name,
    uint32_t threads, uint32_t max_queue, int32_t nice, nbffi_buffer error);
nbffi_runtime *nbffi_runtime_new_c(nbffi_client *client, nbffi_pool *pool,
    nbffi_text name, nbffi_text library, nbffi_text entry, nbffi_text config,
    double max_response, nbffi_buffer error);
nbffi_runtime *nbffi_runtime_new_resty_ffi(nbffi_client *client,
    nbffi_pool *pool, nbffi_text name, nbffi_text library,
    nbffi_text otherwise, nbffi_text config, uint32_t flags, double max_queue,
    double max_response, nbffi_buffer error);
void nbffi_runtime_finish(nbffi_runtime *runtime);
int32_t nbffi_post_control(nbffi_client *client, nbffi_runtime *runtime,
    bool close);
double nbffi_runtime_in_flight(nbffi_runtime *runtime);
void nbffi_runtime_free(nbffi_client *client, nbffi_runtime *runtime);

nbffi_runtime *nbffi_runtime_new_lua(nbffi_client *client, nbffi_pool *pool,
    nbffi_text name, const nbffi_lua_options *options, nbffi_lua **handle);
void nbffi_lua_free(nbffi_lua *handle);
int32_t nbffi_lua_function(nbffi_lua *handle, nbffi_text name);
bool nbffi_lua_reload(nbffi_lua *handle, nbffi_text others);
void nbffi_lua_stats(nbffi_lua *handle, nbffi_vm_statistics *counted);

void nbffi_runtime_stats(nbffi_runtime *runtime,
    nbffi_runtime_statistics *counted);
void nbffi_count(nbffi_runtime *runtime, int32_t code);
void nbffi_pool_stats(nbffi_pool *pool, nbffi_pool_statistics *counted);
void nbffi_client_stats(nbffi_client *client, nbffi_client_statistics *counted);
]]


return {
    -- The interface that these declarations describe.
    INTERFACE = 4,
    -- What nbffi_post returns for a task that is done already ...
    DONE = -100,
    -- ... and adds to the slot of one that waits for nbffi_flush.
    HELD = 0x40000000,
    -- How many slots nbffi_more_slots allocates.
    CHUNK = 256,
    -- Error codes; the shared object has their texts.
    TIMEOUT = 1,
    CANCELLED = 2,
    CLOSED = 3,
    SHUTTING_DOWN = 4,
    NO_MEMORY = 6,
    RUNTIME = 7,
    QUEUE_OVERFLOW = 8,
    LOAD = 9,
    ERRORS = 9,
}
