//! Statistics. All are doubles: Lua's own numbers.

use super::catch;
use nonblocking_ffi_core::client::Client;
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::pool::{Pool, PoolStats};
use nonblocking_ffi_core::runtime::Runtime;
use nonblocking_ffi_core::stats::Summary;

/// What a runtime says of itself.
#[derive(Debug, Default)]
#[repr(C)]
pub struct RuntimeStats {
    posted: f64,
    ok: f64,
    in_flight: f64,
    queued: f64,
    running: f64,
    expired: f64,
    grace_hits: f64,
    grace_misses: f64,
    errors: [f64; Error::ALL.len()],
    queue_time: Summary,
    run_time: Summary,
    total_time: Summary,
}

/// What a client says of itself.
#[derive(Debug, Default)]
#[repr(C)]
pub struct ClientStats {
    wakeups: f64,
    completions: f64,
    slots: f64,
    in_flight: f64,
    log_dropped: f64,
}

/// The statistics of a runtime.
///
/// # Safety
/// `runtime` is live, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_runtime_stats(runtime: *const Runtime, out: *mut RuntimeStats) {
    catch((), || {
        // SAFETY: by the contract.
        let (stats, out) = unsafe { ((*runtime).stats(), &mut *out) };
        let [queue_time, run_time, total_time] = stats.times();
        let in_flight = stats.in_flight();
        let begun = stats.started().saturating_sub(stats.nested.get());
        let queued = stats.posted.get().saturating_sub(begun);
        *out = RuntimeStats {
            posted: stats.posted.get() as f64,
            ok: stats.ok.get() as f64,
            in_flight: in_flight as f64,
            queued: queued as f64,
            running: in_flight.saturating_sub(queued) as f64,
            expired: stats.expired.get() as f64,
            grace_hits: stats.spin_hits.get() as f64,
            grace_misses: stats.spin_misses.get() as f64,
            errors: std::array::from_fn(|index| stats.errors[index].get() as f64),
            queue_time,
            run_time,
            total_time,
        };
    });
}

/// Counts a call that a pool refused or that Lua ended, by the error's code.
///
/// # Safety
/// `runtime` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_count(runtime: *const Runtime, code: i32) {
    catch((), || {
        if let Some(error) = Error::ALL.into_iter().find(|error| error.code() == code) {
            // SAFETY: by the contract.
            unsafe { (*runtime).stats().count(Err(error)) };
        }
    });
}

/// The statistics of a pool.
///
/// # Safety
/// `pool` is live, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_pool_stats(pool: *const Pool, out: *mut PoolStats) {
    // SAFETY: by the contract.
    catch((), || unsafe { *out = (*pool).stats() });
}

/// The statistics of a client.
///
/// # Safety
/// `client` is live, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nbffi_client_stats(client: *const Client, out: *mut ClientStats) {
    catch((), || {
        // SAFETY: by the contract.
        let (client, out) = unsafe { (&*client, &mut *out) };
        let (slots, completions) = client.totals();
        *out = ClientStats {
            wakeups: client.mailbox().waker().wakeups.get() as f64,
            completions: completions as f64,
            slots: slots as f64,
            in_flight: client.in_flight().into(),
            log_dropped: client.log().dropped.get() as f64,
        };
    });
}
