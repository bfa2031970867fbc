//! The core of lua-resty-nonblocking-ffi: runs work off nginx's event loop.
//!
//! One shared object, loaded by Lua (`lua/resty/nonblocking_ffi`) into an nginx
//! worker. The roles, each module knowing only those above it in this list:
//!
//! | module      | role |
//! |-------------|------|
//! | [`memory`]  | what Rust code allocates from, and what it does when there is none |
//! | [`sync`]    | atomics, behind one facade so that loom can replace them |
//! | [`error`]   | one error enum, one status code per variant |
//! | [`mod@catch`] | nothing unwinds into C |
//! | [`text`]    | texts and buffers of C callers |
//! | [`log`]     | lines of nginx's error log, and where they go |
//! | [`signals`] | signals of the process, its threads and its children |
//! | [`stats`]   | counters and histograms |
//! | [`task`]    | slots, their states, deadlines, cancellation, replies |
//! | [`wake`] | completions and the wake-up of the event loop |
//! | [`pool`]    | work-stealing threads: queues, parking, fairness |
//! | [`exit`]    | leaving the process while pool threads run |
//! | [`runtime`] | what runs tasks: the plugin ABI for C, Lua in VMs |
//! | [`client`]  | the main thread's side of a Lua VM: post, spin wait, drain |
//!
//! # The path of a call
//!
//! 1. The main thread takes a slot, writes the request into it (a pointer to
//!    the Lua string, no copy) and pushes it to a pool ([`client`], [`pool`]).
//! 2. A pool thread claims it, runs the runtime, stores the reply and pushes
//!    the slot to the completion queue ([`task`], [`wake`]).
//! 3. The main thread drains that queue and hands each reply to its waiter.
//!
//! Each of the three steps is one atomic transition of the slot's state word
//! ([`task::state`]), which is what makes every call end exactly once.

pub mod catch;
pub mod client;
pub mod error;
pub mod exit;
pub mod log;
pub mod memory;
pub mod pool;
pub mod runtime;
pub mod signals;
pub mod stats;
pub mod sync;
pub mod task;
pub mod text;
pub mod wake;
