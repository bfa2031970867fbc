//! Replaces nginx's calls into libc that make descriptors.
//!
//! nginx accepts connections, connects to upstreams and opens files while tasks
//! run, and none of these descriptors closes on exec. No hook runs when a child starts,
//! which could mark them: Go and `posix_spawn` call the kernel directly. Marking each one
//! after nginx has made it would come a moment too late. So each must be made with the
//! flag.
//!
//! The dynamic linker has written the addresses of libc's functions into tables
//! of the nginx program, of each of its dynamic modules, and of LuaJIT. In the tables of
//! this worker, the functions of [`REPLACEMENTS`] replace them: they do the same, set
//! "close on exec" as well, and note the descriptor. This costs the call of a function,
//! and no system call.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::descriptors::{close, note};

/// libc's functions that make or close descriptors, and their replacements.
const REPLACEMENTS: [(&CStr, *const ()); 19] = [
    (c"accept", on_accept as *const ()),
    (c"accept4", on_accept4 as *const ()),
    (c"socket", on_socket as *const ()),
    (c"socketpair", on_socketpair as *const ()),
    (c"recvmsg", on_recvmsg as *const ()),
    (c"epoll_create", on_epoll_create as *const ()),
    (c"epoll_create1", on_epoll_create1 as *const ()),
    (c"eventfd", on_eventfd as *const ()),
    (c"pipe", on_pipe as *const ()),
    (c"pipe2", on_pipe2 as *const ()),
    (c"dup", on_dup as *const ()),
    (c"open", on_open as *const ()),
    (c"open64", on_open as *const ()),
    (c"openat", on_openat as *const ()),
    (c"openat64", on_openat as *const ()),
    (c"close", on_close as *const ()),
    // libc itself closes the descriptors that these make, so they are not noted.
    (c"fopen", on_fopen as *const ()),
    (c"fopen64", on_fopen as *const ()),
    (c"popen", on_popen as *const ()),
];

/// Replaces the functions, in this process. Before the library starts threads.
///
/// # Errors
/// If this system does not allow it. Functions that are replaced already stay so.
pub fn replace() -> Result<(), String> {
    let mut objects: Vec<Object> = Vec::new();
    // SAFETY: `collect` gets the vector that it expects, and only until this returns.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut objects).cast()) };
    let mut replaced = 0;
    for (index, object) in objects.iter().enumerate() {
        // The first object is the program.
        if index == 0 || object.is_luajit() || object.is_module() {
            replaced += object.replace()?;
        }
    }
    match replaced {
        0 => Err("nginx does not call libc in a way that is known".to_owned()),
        _ => Ok(()),
    }
}

/// A program or library in memory.
struct Object {
    base: usize,
    name: *const c_char,
    headers: &'static [libc::Elf64_Phdr],
}

unsafe extern "C" fn collect(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    objects: *mut c_void,
) -> c_int {
    // SAFETY: the linker passes `info`, and `replace` the vector. Headers and names live
    // as long as the object, and the objects that `replace` uses are never unloaded.
    unsafe {
        let (info, objects) = (&*info, &mut *objects.cast::<Vec<Object>>());
        objects.push(Object {
            base: info.dlpi_addr as usize,
            name: info.dlpi_name,
            headers: std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()),
        });
    }
    0
}

/// An entry of the dynamic section.
#[repr(C)]
struct Dynamic {
    tag: u64,
    value: usize,
}

/// A place in memory where the linker has written an address.
#[repr(C)]
struct Relocation {
    offset: usize,
    info: u64,
    addend: i64,
}

mod tag {
    pub const PLT_RELOCATIONS_SIZE: u64 = 2;
    pub const STRINGS: u64 = 5;
    pub const SYMBOLS: u64 = 6;
    pub const RELOCATIONS: u64 = 7;
    pub const RELOCATIONS_SIZE: u64 = 8;
    pub const PLT_RELOCATIONS: u64 = 23;
}

/// The kinds of relocations that are the address of a function: for calls, for
/// pointers, for pointers in data.
const ADDRESSES: &[u32] = if cfg!(target_arch = "x86_64") {
    &[7, 6, 1]
} else if cfg!(target_arch = "aarch64") {
    &[1026, 1025, 257]
} else {
    &[]
};

impl Object {
    fn segments(&self, kind: u32) -> impl Iterator<Item = (usize, usize)> + '_ {
        let found = self.headers.iter().filter(move |h| h.p_type == kind);
        found.map(|h| (self.base + h.p_vaddr as usize, h.p_memsz as usize))
    }

    fn contains(&self, address: usize) -> bool {
        self.segments(libc::PT_LOAD)
            .any(|(start, size)| (start..start + size).contains(&address))
    }

    fn is_luajit(&self) -> bool {
        self.contains(nonblocking_ffi_lua_vm::luajit().addr())
    }

    /// Whether it is a dynamic module of nginx: these define `ngx_modules`.
    fn is_module(&self) -> bool {
        // SAFETY: the linker's own name. The object is loaded already, so dlopen runs no
        // code of it, and it stays loaded.
        let modules = unsafe {
            let object = libc::dlopen(self.name, libc::RTLD_NOLOAD | libc::RTLD_LAZY);
            if object.is_null() {
                return false;
            }
            let modules = libc::dlsym(object, c"ngx_modules".as_ptr());
            libc::dlclose(object);
            modules
        };
        self.contains(modules as usize)
    }

    /// The dynamic section's values of these tags; 0 for a tag that is missing.
    fn dynamic<const N: usize>(&self, tags: [u64; N]) -> [usize; N] {
        let mut values = [0; N];
        let Some((start, _)) = self.segments(libc::PT_DYNAMIC).next() else {
            return values;
        };
        let mut entry = start as *const Dynamic;
        // SAFETY: the section is in memory, and ends with a tag of 0.
        unsafe {
            while (*entry).tag != 0 {
                if let Some(place) = tags.iter().position(|&tag| tag == (*entry).tag) {
                    values[place] = (*entry).value;
                }
                entry = entry.add(1);
            }
        }
        values
    }

    /// An address from the dynamic section: glibc has added the base, musl has not.
    fn address<T>(&self, value: usize) -> *const T {
        let address = if value < self.base {
            value + self.base
        } else {
            value
        };
        address as *const T
    }

    fn relocations(&self) -> impl Iterator<Item = &'static Relocation> + use<> {
        let [calls, calls_size, others, others_size] = self.dynamic([
            tag::PLT_RELOCATIONS,
            tag::PLT_RELOCATIONS_SIZE,
            tag::RELOCATIONS,
            tag::RELOCATIONS_SIZE,
        ]);
        let tables = [(calls, calls_size), (others, others_size)];
        let tables = tables.map(|(table, size)| match table {
            0 => &[][..],
            // SAFETY: a table of the object, which is never unloaded.
            _ => unsafe {
                let count = size / size_of::<Relocation>();
                std::slice::from_raw_parts(self.address(table), count)
            },
        });
        tables.into_iter().flatten()
    }

    /// The name of another object's function, if the relocation is its address.
    fn import(&self, relocation: &Relocation) -> Option<&'static CStr> {
        if !ADDRESSES.contains(&(relocation.info as u32)) {
            return None;
        }
        let [symbols, strings] = self.dynamic([tag::SYMBOLS, tag::STRINGS]);
        // SAFETY: the linker has read the same tables in the same way.
        unsafe {
            let symbols = self.address::<libc::Elf64_Sym>(symbols);
            let symbol = &*symbols.add((relocation.info >> 32) as usize);
            let strings = self.address::<c_char>(strings);
            (symbol.st_shndx == 0).then(|| CStr::from_ptr(strings.add(symbol.st_name as usize)))
        }
    }

    /// Replaces functions that this object calls. Returns how many.
    fn replace(&self) -> Result<usize, String> {
        let mut places = Vec::new();
        for relocation in self.relocations() {
            let Some(name) = self.import(relocation) else {
                continue;
            };
            if let Some((_, function)) = REPLACEMENTS.iter().find(|(known, _)| *known == name) {
                places.push((self.base + relocation.offset, *function));
            }
        }
        if !places.is_empty() {
            self.protect(libc::PROT_READ | libc::PROT_WRITE)?;
            for (place, function) in &places {
                // SAFETY: an aligned pointer in a table that is writable now. Other
                // threads of nginx may read it meanwhile, and find either function.
                // Relaxed: both functions were there before.
                unsafe {
                    let place = AtomicPtr::from_ptr(*place as *mut *mut ());
                    place.store(function.cast_mut(), Ordering::Relaxed);
                }
            }
            self.protect(libc::PROT_READ)?;
        }
        Ok(places.len())
    }

    /// Sets the protection of the pages that the linker has made read-only.
    fn protect(&self, protection: c_int) -> Result<(), String> {
        // SAFETY: asks only.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        for (start, size) in self.segments(libc::PT_GNU_RELRO) {
            // As the linker rounds it.
            let (start, end) = (start & !(page - 1), (start + size) & !(page - 1));
            if end <= start {
                continue;
            }
            // SAFETY: these pages are the object's tables; no code needs them to be
            // read-only.
            let status = unsafe { libc::mprotect(start as *mut c_void, end - start, protection) };
            if status != 0 {
                let error = std::io::Error::last_os_error();
                return Err(format!("nginx's tables cannot be changed: {error}"));
            }
        }
        Ok(())
    }
}

fn noted(descriptor: c_int) -> c_int {
    note(descriptor);
    descriptor
}

/// Notes both if the call that made them has succeeded.
///
/// # Safety
/// Two descriptors are there then.
unsafe fn noted_pair(status: c_int, ends: *mut c_int) -> c_int {
    if status == 0 {
        // SAFETY: by the contract.
        unsafe {
            note(*ends);
            note(*ends.add(1));
        }
    }
    status
}

// SAFETY, for all of the functions below: the caller calls libc's function of that name,
// and fulfils its contract.

type Address = libc::sockaddr;
type Length = libc::socklen_t;

unsafe extern "C" fn on_accept(socket: c_int, address: *mut Address, len: *mut Length) -> c_int {
    // SAFETY: see above.
    noted(unsafe { libc::accept4(socket, address, len, libc::SOCK_CLOEXEC) })
}

unsafe extern "C" fn on_accept4(
    socket: c_int,
    address: *mut Address,
    len: *mut Length,
    flags: c_int,
) -> c_int {
    // SAFETY: see above.
    noted(unsafe { libc::accept4(socket, address, len, flags | libc::SOCK_CLOEXEC) })
}

unsafe extern "C" fn on_socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    // SAFETY: see above.
    noted(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })
}

unsafe extern "C" fn on_socketpair(
    domain: c_int,
    kind: c_int,
    protocol: c_int,
    ends: *mut c_int,
) -> c_int {
    // SAFETY: see above.
    unsafe {
        let kind = kind | libc::SOCK_CLOEXEC;
        noted_pair(libc::socketpair(domain, kind, protocol, ends), ends)
    }
}

/// nginx's master sends workers the channels of others.
unsafe extern "C" fn on_recvmsg(socket: c_int, message: *mut libc::msghdr, flags: c_int) -> isize {
    // SAFETY: see above; the kernel has written the message.
    unsafe {
        let received = libc::recvmsg(socket, message, flags | libc::MSG_CMSG_CLOEXEC);
        if received < 0 {
            return received;
        }
        let mut control = libc::CMSG_FIRSTHDR(message);
        while !control.is_null() {
            let about = ((*control).cmsg_level, (*control).cmsg_type);
            if about == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let header = libc::CMSG_LEN(0) as usize;
                let count = ((*control).cmsg_len as usize - header) / size_of::<c_int>();
                let descriptors = libc::CMSG_DATA(control).cast::<c_int>();
                for index in 0..count {
                    note(descriptors.add(index).read_unaligned());
                }
            }
            control = libc::CMSG_NXTHDR(message, control);
        }
        received
    }
}

unsafe extern "C" fn on_epoll_create(size: c_int) -> c_int {
    if size <= 0 {
        // SAFETY: fails, as it should.
        return unsafe { libc::epoll_create(size) };
    }
    // SAFETY: see above.
    noted(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

unsafe extern "C" fn on_epoll_create1(flags: c_int) -> c_int {
    // SAFETY: see above.
    noted(unsafe { libc::epoll_create1(flags | libc::EPOLL_CLOEXEC) })
}

unsafe extern "C" fn on_eventfd(count: c_uint, flags: c_int) -> c_int {
    // SAFETY: see above.
    noted(unsafe { libc::eventfd(count, flags | libc::EFD_CLOEXEC) })
}

unsafe extern "C" fn on_pipe(ends: *mut c_int) -> c_int {
    // SAFETY: see above.
    unsafe { noted_pair(libc::pipe2(ends, libc::O_CLOEXEC), ends) }
}

unsafe extern "C" fn on_pipe2(ends: *mut c_int, flags: c_int) -> c_int {
    // SAFETY: see above.
    unsafe { noted_pair(libc::pipe2(ends, flags | libc::O_CLOEXEC), ends) }
}

unsafe extern "C" fn on_dup(descriptor: c_int) -> c_int {
    // SAFETY: see above.
    noted(unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 0) })
}

/// The caller passes a mode only if the flags say so. Otherwise it is an old value of the
/// register, which the kernel ignores.
unsafe extern "C" fn on_open(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: see above.
    noted(unsafe { libc::open64(path, flags | libc::O_CLOEXEC, mode) })
}

unsafe extern "C" fn on_openat(
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    mode: libc::mode_t,
) -> c_int {
    // SAFETY: see above.
    noted(unsafe { libc::openat64(folder, path, flags | libc::O_CLOEXEC, mode) })
}

unsafe extern "C" fn on_close(descriptor: c_int) -> c_int {
    close(descriptor)
}

unsafe extern "C" fn on_fopen(path: *const c_char, mode: *const c_char) -> *mut libc::FILE {
    // SAFETY: see above.
    unsafe { libc::fopen64(path, with_e(mode, &mut MaybeUninit::uninit())) }
}

/// Otherwise another child would keep the end of this child's pipe open.
unsafe extern "C" fn on_popen(command: *const c_char, mode: *const c_char) -> *mut libc::FILE {
    // SAFETY: see above.
    unsafe { libc::popen(command, with_e(mode, &mut MaybeUninit::uninit())) }
}

/// Longer than any valid mode.
const MODE: usize = 32;

/// A mode of fopen or popen, with the letter for "close on exec" after the first one.
/// Unchanged if it has that letter already, is empty, or is too long.
///
/// # Safety
/// It is a C string.
unsafe fn with_e(mode: *const c_char, room: &mut MaybeUninit<[u8; MODE]>) -> *const c_char {
    // SAFETY: by the contract.
    let given = unsafe { CStr::from_ptr(mode) }.to_bytes_with_nul();
    if given.len() < 2 || given.len() >= MODE || given.contains(&b'e') {
        return mode;
    }
    let room = room.write([0; MODE]);
    room[0] = given[0];
    room[1] = b'e';
    room[2..=given.len()].copy_from_slice(&given[1..]);
    room.as_ptr().cast()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn modes_close_on_exec() {
        let with_e = |mode: &CStr| {
            let mut room = MaybeUninit::uninit();
            // SAFETY: a C string, and what is returned is one of the two.
            let mode = unsafe { CStr::from_ptr(with_e(mode.as_ptr(), &mut room)) };
            mode.to_str().unwrap().to_owned()
        };
        assert_eq!(with_e(c"r"), "re");
        assert_eq!(with_e(c"rb+"), "reb+");
        assert_eq!(with_e(c"we"), "we");
        assert_eq!(with_e(c""), "");
        let long = c"rbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
        assert_eq!(with_e(long), long.to_str().unwrap());
    }
}
