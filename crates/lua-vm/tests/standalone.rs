//! A program without nginx that links the core, Lua VMs, and a LuaJIT of its own.
#![cfg(feature = "vendored-luajit")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nonblocking_ffi_core::client::{Client, Posted, Request};
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::pool;
use nonblocking_ffi_core::runtime::{Options, Runtime};
use nonblocking_ffi_core::sync::now_ns;
use nonblocking_ffi_core::task::{Kind, Priority, Slot};
use nonblocking_ffi_lua_vm::LuaBackend;
use nonblocking_ffi_lua_vm::shared::{Config, Limits};

const MODULE: &str = r#"
local calls = 0
return {
    upper = function(text)
        calls = calls + 1
        return text:upper() .. " " .. calls
    end,
    forever = function()
        while true do end
    end,
    fail = function(text)
        error(text, 0)
    end,
}
"#;

/// Waiting for longer is a failure.
const PATIENCE_NS: u64 = 90_000_000_000;

struct Program {
    client: Client,
    /// Never freed: its thread may still be on its way out of it.
    runtime: &'static Runtime,
    lua: Arc<LuaBackend>,
}

impl Program {
    /// Starts a pool of one thread and makes a runtime of a module in this folder.
    fn new(folder: &Path, module: &str) -> Self {
        let client = Client::default();
        let config = pool::Config {
            name: module.to_owned(),
            threads: 1,
            max_queue: 100,
            nice: 0,
        };
        let pool = pool::obtain(config).unwrap();
        pool.start().unwrap();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let paths = [folder.join("?.lua"), repository.join("lua/?.lua")];
        let config = Config {
            key: Vec::new(),
            limits: Limits {
                max_memory: 64 << 20,
                recycle_memory: 32 << 20,
                recycle_tasks: 1_000_000,
                init_seconds: 60.0,
            },
            package_path: paths
                .map(|path| path.display().to_string())
                .join(";")
                .into(),
            package_cpath: Vec::new(),
            core: Vec::new(),
            boot: Vec::new(),
        };
        let place = client.place(pool);
        let lua = LuaBackend::new(module.to_owned(), place, config);
        let options = Options {
            name: module.to_owned(),
            max_response: 1 << 20,
        };
        let runtime = Runtime::new(options, place, Box::new(lua.clone()));
        Self {
            client,
            runtime: Box::leak(Box::new(runtime)),
            lua,
        }
    }

    /// Waits for a task: its response, or its error with the message.
    fn wait(&mut self, slot: &'static Slot) -> Result<String, (Error, String)> {
        let start = now_ns();
        let done = loop {
            if let Some(done) = self.client.next_done() {
                break done;
            }
            assert!(now_ns() - start < PATIENCE_NS, "the task does not end");
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(std::ptr::eq(done, slot));
        // SAFETY: the client has given the slot, once; it is not yet released.
        let (result, reply) = unsafe { (self.client.collect(slot, now_ns()), slot.reply()) };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (data, len) = reply.data();
        // SAFETY: as above.
        let response = text(unsafe { std::slice::from_raw_parts(data, len) });
        let message = text(reply.message.as_deref().unwrap_or_default());
        // SAFETY: collected above, and the reply is copied.
        unsafe { self.client.release(slot) };
        result.map(|()| response).map_err(|error| (error, message))
    }

    fn control(&mut self, kind: Kind) -> Result<String, (Error, String)> {
        // SAFETY: the runtime outlives its tasks.
        let slot = unsafe { self.client.post_control(self.runtime, kind) };
        self.wait(slot.unwrap())
    }

    /// Calls a function with a string.
    fn call(&mut self, function: &str, arg: &str, seconds: f64) -> Result<String, (Error, String)> {
        let request = Request {
            data: arg.as_ptr(),
            len: arg.len(),
            timeout: seconds,
            priority: Priority::Normal,
            waits: false,
            // Encoding 0: a string.
            tag: self.lua.module.function_number(function).unwrap() << 4,
            key: 0,
        };
        // SAFETY: the runtime and the request outlive the task.
        match unsafe { self.client.post(self.runtime, request) } {
            Ok(Posted::Pending(slot) | Posted::Held(slot) | Posted::Done(slot)) => {
                self.client.flush();
                self.wait(slot)
            }
            Err(error) => Err((error, String::new())),
        }
    }
}

#[test]
fn functions_run_and_runaways_are_stopped() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(folder.join("standalone.lua"), MODULE).unwrap();
    let mut program = Program::new(folder, "standalone");
    program.control(Kind::Init).unwrap();
    assert_eq!(program.call("upper", "a", 60.0), Ok("A 1".to_owned()));
    assert_eq!(program.call("upper", "b", 60.0), Ok("B 2".to_owned()));
    let (error, message) = program.call("fail", "as it should", 60.0).unwrap_err();
    assert_eq!(error, Error::Runtime);
    assert!(message.starts_with("as it should"), "{message}");

    // It is begun, or else it would not have to be stopped.
    while program.lua.group.stats().stopped == 0.0 {
        let (error, _) = program.call("forever", "", 0.2).unwrap_err();
        assert_eq!(error, Error::Timeout);
    }
    // In a new VM.
    assert_eq!(program.call("upper", "c", 60.0), Ok("C 1".to_owned()));
    program.control(Kind::Close).unwrap();
}

#[test]
fn a_module_that_is_missing_is_an_error() {
    let mut program = Program::new(Path::new(env!("CARGO_TARGET_TMPDIR")), "missing");
    let (error, message) = program.control(Kind::Init).unwrap_err();
    assert_eq!(error, Error::Load);
    assert!(message.contains("module 'missing' not found"), "{message}");
}
