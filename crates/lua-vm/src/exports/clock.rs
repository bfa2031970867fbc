//! Time for VMs. nginx's own clock is that of the event loop's last turn, and stands
//! still while the event loop waits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nonblocking_ffi_core::catch::catch;
use nonblocking_ffi_core::sync::now_ns;

/// Seconds since 1970.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_vm_now() -> f64 {
    catch(0.0, || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0.0, |since| since.as_secs_f64())
    })
}

/// Seconds since some moment, never running backwards.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_vm_monotonic() -> f64 {
    catch(0.0, || now_ns() as f64 / 1e9)
}

/// Blocks the calling thread for that many seconds.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_vm_sleep(seconds: f64) {
    catch((), || {
        if let Ok(time) = Duration::try_from_secs_f64(seconds) {
            std::thread::sleep(time);
        }
    });
}
