//! The core of lua-resty-nonblocking-ffi: runs work off nginx's event loop.
//!
//! It has no Lua and no symbol of nginx: `crates/ffi` is what an nginx worker loads.
//! The roles, each module knowing only those above it in this list:
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
//! | [`wake`]    | completions and the wake-up of the event loop |
//! | [`pool`]    | work-stealing threads: queues, parking, fairness |
//! | [`exit`]    | leaving the process while pool threads run |
//! | [`runtime`] | what runs tasks: plugins in C, those of lua-resty-ffi |
//! | [`client`]  | who posts tasks: a Lua VM's main thread, a pool thread's nested calls |
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
//!
//! # Example
//!
//! A program that is no nginx has a pool shout:
//!
//! ```
//! use nonblocking_ffi_core::client::{Client, Request};
//! use nonblocking_ffi_core::pool;
//! use nonblocking_ffi_core::runtime::{Backend, Options, Outcome, Runtime};
//! use nonblocking_ffi_core::sync::now_ns;
//! use nonblocking_ffi_core::task::{Priority, Running};
//!
//! struct Shout;
//!
//! impl Backend for Shout {
//!     fn init(&self, _runtime: *const ()) -> Result<(), String> {
//!         Ok(())
//!     }
//!
//!     fn call(&self, task: &Running) -> Outcome {
//!         let (data, len) = task.request();
//!         // SAFETY: the program keeps it until the task is collected.
//!         let request = unsafe { std::slice::from_raw_parts(data, len) };
//!         let response = request.to_ascii_uppercase();
//!         task.handle().end(|reply| reply.copy(&response).unwrap());
//!         Outcome::Done
//!     }
//!
//!     fn close(&self) {}
//! }
//!
//! let mut client = Client::default();
//! let pool = pool::obtain(pool::Config {
//!     name: "example".into(),
//!     threads: 2,
//!     max_queue: 100,
//!     nice: 0,
//! })?;
//! pool.start()?;
//! let options = Options { name: "shout".into(), max_response: 1000 };
//! let runtime = Runtime::new(options, client.place(pool), Box::new(Shout));
//! let request = Request {
//!     data: "hello".as_ptr(),
//!     len: 5,
//!     timeout: 60.0,
//!     priority: Priority::Normal,
//!     waits: false,
//!     tag: 0,
//!     key: 0,
//! };
//! // SAFETY: the runtime and the request outlive the task.
//! unsafe { client.post(&runtime, request) }?;
//! // In nginx, a byte on the client's socket says when to look.
//! let slot = loop {
//!     if let Some(slot) = client.next_done() {
//!         break slot;
//!     }
//!     std::thread::yield_now();
//! };
//! // SAFETY: the client has given the slot; it is released after it was read.
//! unsafe {
//!     client.collect(slot, now_ns())?;
//!     let (data, len) = slot.reply().data();
//!     assert_eq!(std::slice::from_raw_parts(data, len), b"HELLO");
//!     client.release(slot);
//! }
//! while pool.users(runtime.address()) > 0 {
//!     std::thread::yield_now();
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
