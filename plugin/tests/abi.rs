//! `sys` against the header, as the C compiler sees it: values, sizes, offsets
//! (`abi_probe.c` prints them) and the types of all functions (it compares them
//! with what is spelt out there; the coercions below do so for Rust).

mod support;

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use nonblocking_ffi_plugin::sys::*;

/// What `sys` says, under the names that the probe prints.
fn ours() -> BTreeMap<String, i128> {
    let mut map = BTreeMap::new();
    macro_rules! constants {
        ($($name:ident)*) => { $( map.insert(stringify!($name).into(), $name as i64 as i128); )* };
    }
    macro_rules! fields {
        ($type:ident: $($field:ident)*) => {
            map.insert(stringify!($type).into(), size_of::<$type>() as i128);
            $(
                let name = concat!(stringify!($type), ".", stringify!($field));
                map.insert(name.into(), offset_of!($type, $field) as i128);
            )*
        };
    }
    constants! {
        NBFFI_ABI_MAJOR NBFFI_ABI_MINOR NBFFI_ABI_VERSION NBFFI_OK NBFFI_STALE NBFFI_TOO_LARGE
        NBFFI_NO_MEMORY NBFFI_INVALID NBFFI_LOG_EMERG NBFFI_LOG_ALERT NBFFI_LOG_CRIT NBFFI_LOG_ERR
        NBFFI_LOG_WARN NBFFI_LOG_NOTICE NBFFI_LOG_INFO NBFFI_LOG_DEBUG NBFFI_ASYNC
        NBFFI_NO_DEADLINE
    }
    fields! { nbffi_host:
        abi_version size log config name deadline_ns is_cancelled alloc respond_buffer respond
        respond_owned fail set_status next await_next at_exit on_cancel
    }
    fields! { nbffi_plugin: abi_version size flags reserved init call close }
    fields! { nbffi_task: }
    map
}

#[test]
fn values_sizes_and_offsets() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/abi_probe.c");
    let probe = support::cc("cc", &["-std=gnu11"], &source, "abi_probe");
    let output = Command::new(probe).output().unwrap();
    assert!(output.status.success());
    let theirs: BTreeMap<String, i128> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect();
    assert_eq!(ours(), theirs);
}

/// A function of the header that the probe does not name would go unnoticed
/// above if it were appended to a structure of the same size; so the header's
/// own lines are counted too.
#[test]
fn nothing_of_the_header_is_missing() {
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/nonblocking_ffi.h");
    let header = std::fs::read_to_string(header).unwrap();
    let known = ours();
    let pointers = header.matches("(*").count();
    // 15 of the host, 3 of the plugin, and four typedefs.
    assert_eq!(pointers, 15 + 3 + 4, "functions were added to the header");
    for word in header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        let constant = word.starts_with("NBFFI_") && word != "NBFFI_EXPORT";
        assert!(
            !constant || known.contains_key(word),
            "{word} is not in sys"
        );
    }
}

/// The header compiles as both languages it promises, strictly.
#[test]
fn header_is_c99_and_cpp11() {
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("use_header.c");
    std::fs::write(
        &source,
        "#include \"nonblocking_ffi.h\"\n\
         static const nbffi_plugin p = { NBFFI_ABI_VERSION, sizeof(nbffi_plugin),\n\
             NBFFI_ASYNC, 0, 0, 0, 0 };\n\
         const nbffi_plugin *nbffi_plugin_entry(uint32_t v) { (void) v; return &p; }\n",
    )
    .unwrap();
    support::cc(
        "cc",
        &["-std=c99", "-pedantic", "-c"],
        &source,
        "use_header_c.o",
    );
    let cpp = [
        "-std=c++11",
        "-pedantic",
        "-Wno-missing-field-initializers",
        "-c",
        "-x",
        "c++",
    ];
    support::cc("c++", &cpp, &source, "use_header_cpp.o");
}

/// Compiles only if the members have these types, the ones `abi_probe.c`
/// demands of the header, in the same order.
#[allow(dead_code, reason = "it is the compiler's to check")]
fn types(host: &nbffi_host, plugin: &nbffi_plugin) {
    type Host = *const nbffi_host;
    let _: unsafe extern "C" fn(Host, c_int, *const c_char, u64) = host.log;
    let _: unsafe extern "C" fn(Host, *mut u64) -> *const c_char = host.config;
    let _: unsafe extern "C" fn(Host, *mut u64) -> *const c_char = host.name;
    let _: unsafe extern "C" fn(u64) -> u64 = host.deadline_ns;
    let _: unsafe extern "C" fn(u64) -> c_int = host.is_cancelled;
    let _: unsafe extern "C" fn(u64, u64) -> *mut c_void = host.alloc;
    let _: unsafe extern "C" fn(u64, u64) -> c_int = host.respond_buffer;
    let _: unsafe extern "C" fn(u64, *const c_void, u64) -> c_int = host.respond;
    let _: unsafe extern "C" fn(
        u64,
        *mut c_void,
        u64,
        Option<unsafe extern "C" fn(*mut c_void, *mut c_void)>,
        *mut c_void,
    ) -> c_int = host.respond_owned;
    let _: unsafe extern "C" fn(u64, i64, *const c_char, u64) -> c_int = host.fail;
    let _: unsafe extern "C" fn(u64, i64, *const c_char, u64) -> c_int = host.set_status;
    let _: unsafe extern "C" fn(Host, *mut u64, *mut *const c_void, *mut u64) -> c_int = host.next;
    let _: unsafe extern "C" fn(
        u64,
        Option<unsafe extern "C" fn(*mut c_void, u64)>,
        *mut c_void,
    ) -> c_int = host.on_cancel;
    let _: Option<unsafe extern "C" fn(Host, *mut *mut c_void, *mut c_char, u64) -> c_int> =
        plugin.init;
    let _: Option<unsafe extern "C" fn(*mut c_void, u64, *const c_void, u64) -> c_int> =
        plugin.call;
    let _: Option<unsafe extern "C" fn(*mut c_void)> = plugin.close;
    let _: nbffi_plugin_entry_fn = entry;
}

unsafe extern "C" fn entry(_version: u32) -> *const nbffi_plugin {
    std::ptr::null()
}
