//! Code that does not end outside of calls: in `init` and in finalizers.

use crate::start;
use support::process::Signal;
use support::{Nginx, PATIENCE};

#[test]
fn an_init_that_never_returns() {
    let mut nginx = start(
        Nginx::builder()
            .init("nbffi.pool('mad', { threads = 2 })")
            .location(
                "/load",
                "local rt, err = nbffi.load { runtime = 'lua', pool = 'mad',
                     timeout = 0.1, init = 'while true do end' }
                 assert(rt == nil)
                 ngx.print(err)",
            )
            .location(
                "/work",
                "local rt = require('faults').load('work')
                 ngx.print(rt:call('nap', 0, 'well'))",
            ),
    );
    for _ in 0..3 {
        assert_eq!(nginx.text("/load"), "timeout");
        assert_eq!(nginx.text("/work"), "well");
    }
    nginx.stop(Signal::Quit, PATIENCE);
    assert_eq!(nginx.clean_exits(), 1, "{}", nginx.log());
}

#[test]
fn finalizers_that_never_return() {
    let mut nginx = start(
        Nginx::builder()
            .init("nbffi.pool('mad', { threads = 1 })")
            .location(
                "/leave",
                "local faults = require 'faults'
                 local rt = faults.load('mad', { pool = 'mad', timeout = 0.3,
                     module = 'vm_jobs', vm_recycle_tasks = 1 })
                 assert(rt:call({ 'never_ends', timeout = 20 }, ngx.var.args) == 'left behind')
                 -- The VM is replaced once its finalizers have been stopped. A new
                 -- one that is late is made again by the next call.
                 local said
                 faults.await('a new VM', function()
                     said = rt:call({ 'echo', timeout = 20 }, 'well')
                     return said and rt:stats().vm.vms == 1
                 end)
                 ngx.print(said)",
            )
            .location(
                "/close",
                "local faults = require 'faults'
                 local rt = faults.load('other', { pool = 'mad', vm = 'other',
                     timeout = 0.3, module = 'vm_jobs' })
                 assert(rt:call({ 'never_ends', timeout = 20 }, ngx.var.args) == 'left behind')
                 assert(rt:close())
                 -- The thread comes back.
                 local after = faults.load('after', { pool = 'mad',
                     vm = 'after', timeout = 20, module = 'vm_jobs' })
                 ngx.print(after:call('echo', 'well'))
                 assert(after:close())",
            ),
    );
    for way in [
        "interpreted",
        "compiled",
        "calls a C function",
        "raises errors",
    ] {
        let way = way.replace(' ', "-");
        assert_eq!(nginx.text(&format!("/leave?{way}")), "well", "{way}");
        assert_eq!(nginx.text(&format!("/close?{way}")), "well", "{way}");
    }
    let stopped = nginx
        .log()
        .matches("finalizers of a VM had to be stopped")
        .count();
    assert_eq!(stopped, 8, "{}", nginx.log());
    nginx.stop(Signal::Quit, PATIENCE);
    assert_eq!(nginx.clean_exits(), 1, "{}", nginx.log());
}
